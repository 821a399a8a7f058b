package request

// Receiving: a few goroutines take messages from all connections, parse them, and end the calls that they are for.

import (
	"errors"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/message"
)

// revival is how often to look whether there are connections again, where none was left and no connector was there to
// replace them, so that only an Add can. The first request over one is another way to learn of it.
const revival = time.Second

// receive is one of these goroutines. It ends with the client or with the multiplexer.
//
// A message is seen to within the read lease that brought it. So when plex tells of the end of a connection, which it
// does after its last read lease, all that had arrived over it has been handed over.
func (c *Client[Q, R]) receive() {
	finished := false
	defer func() {
		if !finished { // a function of the user's has ended the goroutine by runtime.Goexit, as t.FailNow does
			c.wg.Go(c.receive)
		}
	}()
	for {
		var last error
		for m, err := range c.messages.All(c.ctx) {
			last = err
			if err == nil {
				c.take(m)
			} else if m.Conn != (plex.Conn{}) {
				c.troubled(m.Conn, err)
			}
		}
		switch {
		case errors.Is(last, plex.ErrNoConnections):
			select {
			case <-c.table.news:
			case <-time.After(revival):
			case <-c.ctx.Done():
			}
			continue // if the client has been closed, it ends there
		case errors.Is(last, plex.ErrClosed):
			last = plex.ErrClosed // without the figures of a lease that no caller has asked for
		}
		finished = true
		c.end(last)
		return
	}
}

// take does with a message what is to be done.
func (c *Client[Q, R]) take(m message.Message) {
	id, r, err := c.parse(m)
	_, panicked := err.(*PanicError) // whatever it panicked with
	switch {
	case err == nil:
		if call := c.table.reply(id); call != nil {
			call.reply = r
			call.done <- reply
		}
	case errors.Is(err, ErrNotReply) && !panicked:
		c.table.unsolicited()
		if c.cfg.unsolicited == nil {
			return
		}
		if err := c.pass(m); err != nil {
			c.table.panicked(err)
		}
	default:
		c.malformed(m.Conn, err)
	}
}

// malformed is for a message that makes no sense. If it is a datagram that says nothing about the next.
//
// On a stream what comes behind it would be read from the wrong place, and a reply in it could be anyone's. So nothing
// of it is delivered: the connection, which is in the hands of this goroutine, is killed now.
func (c *Client[Q, R]) malformed(conn plex.Conn, err error) {
	if conn.Datagram() {
		c.table.malformed(errNonsense(conn, err))
		return
	}
	c.outOfStep(conn, err)
	c.messages.Kill(conn)
}

// troubled acts on what package message reports of one connection. It has ended or been killed, unless it carries
// datagrams.
func (c *Client[Q, R]) troubled(conn plex.Conn, err error) {
	var cut *message.CutError
	switch {
	case conn.Datagram():
		c.table.malformed(errNonsense(conn, err))
	case errors.As(err, &cut): // its requests fail with the connection's own error
	default:
		c.outOfStep(conn, err)
	}
}

// outOfStep says why the requests fail on a connection over which something came that makes no sense, and which has
// been killed or is about to be.
func (c *Client[Q, R]) outOfStep(conn plex.Conn, err error) {
	c.table.nonsense(conn, errOutOfStep(conn, err))
}

// parse is the protocol's, which must not take the goroutine down with it. If it ends the goroutine, another takes its
// place; but the reply is gone, so its request must not wait for it.
func (c *Client[Q, R]) parse(m message.Message) (id uint64, r R, err error) {
	returned := false
	defer func() {
		if !returned && err == nil {
			c.malformed(m.Conn, errExited)
		}
	}()
	defer recovered("Parse", &err)
	id, r, err = c.protocol.Parse(m.Data)
	returned = true
	return id, r, err
}

// pass gives a message to the user's function, which must not either.
func (c *Client[Q, R]) pass(m message.Message) (err error) {
	defer recovered("WithUnsolicited", &err)
	c.cfg.unsolicited(m)
	return nil
}
