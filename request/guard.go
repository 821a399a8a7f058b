package request

// The one place where functions of the user run in goroutines of the client. Append is not among
// them: Do calls it in the goroutine of its caller, which a panic or runtime.Goexit is passed on to
// (see abort in send.go).

import (
	"bytes"
	"errors"
	"runtime/debug"

	"go.atomizer.io/plex/message"
)

// guard runs f, which calls a function of the user. If f panics, guard returns a *PanicError. If f
// ends the goroutine with runtime.Goexit, guard calls exited on the way out; another goroutine
// takes over then (see receive).
func guard(call string, f, exited func()) (err error) {
	returned := false
	defer func() {
		switch v := recover(); {
		case v != nil:
			err = &PanicError{Call: call, Value: v, Stack: debug.Stack()}
		case !returned:
			exited()
		}
	}()
	f()
	returned = true
	return nil
}

// parsed is a message taken apart.
type parsed[R any] struct {
	id    uint64
	reply R
	more  bool  // another part follows
	push  bool  // it is no reply
	err   error // it makes no sense
}

// parse calls the protocol's Parse, with the request if replies are ordered, and looks into its error, which may be of the user's own type.
// If it ends the goroutine, the reply is gone, and its request must not wait for it.
func (c *Client[Q, R]) parse(m message.Message, request Q) (p parsed[R]) {
	panicked := guard("Parse", func() {
		switch {
		case c.ordered():
			p.reply, p.err = c.parseOrdered(m.Data, request)
		case c.parsePart != nil:
			var last bool
			p.id, p.reply, last, p.err = c.parsePart(m.Data)
			p.more = !last
		default:
			p.id, p.reply, p.err = c.parseOne(m.Data)
		}
		p.push = p.err != nil && errors.Is(p.err, ErrNotReply)
	}, func() { c.malformed(m.Conn, errExited) })
	if panicked != nil {
		p.err, p.push = panicked, false
	}
	return p
}

// pass gives a message to the function of WithUnsolicited.
func (c *Client[Q, R]) pass(m message.Message) error {
	if c.borrows {
		m.Data = bytes.Clone(m.Data) // the function owns it
	}
	return guard("WithUnsolicited", func() { c.cfg.unsolicited(m) }, func() {})
}
