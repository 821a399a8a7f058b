package request

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/caller"
	"go.atomizer.io/plex/message"
)

// killedGrace is how long it may take from the end of a connection that was killed to the report of the reason.
const killedGrace = 10 * time.Millisecond

// Client makes requests over the connections of a multiplexer. Make one with [New]. All its methods may be called from
// any number of goroutines.
type Client[Q, R any] struct {
	mux      *plex.Multiplexer
	protocol Protocol[Q, R]
	cfg      *config
	messages *message.Receiver
	table    table[R]
	ctx      context.Context // ends when the client is closed
	cancel   context.CancelFunc
	wg       sync.WaitGroup // goroutines of the client

	calls    sync.Pool // *call[R], with an empty channel; pools are each client's, as channels must not cross
	sendings sync.Pool // *sending[R]     the bubbles of testing/synctest, and neither must timers
}

// New makes a client of the protocol p over the connections of m, and starts the goroutines that receive the replies.
// m stays the caller's to close, after the client. The error names what is wrong with the arguments and the options.
func New[Q, R any](m *plex.Multiplexer, p Protocol[Q, R], options ...Option) (*Client[Q, R], error) {
	cfg, err := configure(options)
	if caller.IsNil(p) {
		err = errors.Join(errors.New("request: New: the protocol is nil; give one that is not"), err)
	}
	if m == nil {
		err = errors.Join(errors.New("request: New: the multiplexer is nil; make one with plex.New"), err)
	}
	if err != nil {
		return nil, err
	}
	if err := ready(m); err != nil {
		return nil, fmt.Errorf("request: New: %w", err)
	}
	c := &Client[Q, R]{mux: m, protocol: p, cfg: cfg}
	var forMessages []message.Option
	if cfg.maxSize.set {
		forMessages = append(forMessages, message.WithMaxSize(cfg.maxSize.value))
	}
	if c.messages, err = message.New(m, p.Split, forMessages...); err != nil {
		return nil, fmt.Errorf("request: New: %w", err)
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.calls.New = func() any { return &call[R]{done: make(chan signal, 2)} }
	c.sendings.New = func() any { return newSending(c.ctx, &c.table) }
	c.table.init(cfg, c.lost)
	for range cfg.receivers.value {
		c.wg.Go(c.receive)
	}
	return c, nil
}

// ready has plex begin to watch for what arrives, which can fail, and reports whether m is open.
func ready(m *plex.Multiplexer) error {
	r, err := m.ReadyReader(context.Background(), -1)
	var none *plex.AcquireError
	switch {
	case err == nil:
		_ = r.Close() // what there is to be read is still there
	case !errors.As(err, &none) || errors.Is(err, plex.ErrClosed):
		return err
	}
	return nil
}

// Do makes a request and returns the reply to it. It waits for its turn, if [WithInFlight] or [WithIDs] sets a bound,
// for a connection that can be written to, and for the reply; ctx bounds all of it, the write included. A write that is
// cut short by that costs the connection, and with it the requests that are in flight over it.
//
// Any error is an [*Error]. It says whether the server may have got the request, which is never sent again.
func (c *Client[Q, R]) Do(ctx context.Context, request Q) (R, error) {
	var none R
	switch {
	case ctx == nil:
		return none, &Error{Err: errNilContext}
	case ctx.Err() != nil:
		c.table.canceled()
		return none, &Error{Err: caller.ContextError(ctx)}
	}
	call := c.calls.Get().(*call[R])
	if ended, err := c.turn(ctx, call); err != nil {
		return none, err
	} else if ended {
		return c.result(call, loss, false)
	}

	n, err := c.send(ctx, call, request)
	maybeSent := n > 0
	if err != nil {
		canceled := ctx.Err() != nil && errors.Is(err, ctx.Err())
		kept, ok := c.table.giveUp(call, maybeSent, canceled, errors.Is(err, plex.ErrKilled))
		if ok {
			if !kept {
				c.calls.Put(call)
			}
			return none, &Error{MaybeSent: maybeSent, Err: err}
		}
		// Somebody else has ended it, or is about to, and knows better why.
	}

	done := ctx.Done()
	if done == nil {
		return c.result(call, <-call.done, maybeSent)
	}
	select {
	case how := <-call.done:
		return c.result(call, how, maybeSent)
	case <-done:
		kept, ok := c.table.giveUp(call, maybeSent, true, false)
		if !ok { // it has ended at the same moment, and a reply is not to be thrown away
			return c.result(call, <-call.done, maybeSent)
		}
		if !kept {
			c.calls.Put(call)
		}
		return none, &Error{MaybeSent: maybeSent, Err: caller.ContextError(ctx)}
	}
}

// turn waits until the call has its turn. ended says that the client was closed meanwhile. After an error the call is
// nobody's.
func (c *Client[Q, R]) turn(ctx context.Context, call *call[R]) (ended bool, err error) {
	waits, err := c.table.enter(call)
	if err != nil {
		c.calls.Put(call)
		return false, &Error{Err: err}
	}
	if !waits {
		return false, nil
	}
	start := time.Now()
	select {
	case how := <-call.done:
		return how != turn, nil
	case <-ctx.Done():
	}
	figures, ok := c.table.leave(call)
	if !ok {
		return <-call.done != turn, nil // with a turn, sending will find that ctx has ended, and give it back
	}
	c.calls.Put(call)
	figures.Waited, figures.Err = time.Since(start), caller.ContextError(ctx)
	return false, &Error{Err: &figures}
}

// result is what Do returns for a call that somebody else has ended.
func (c *Client[Q, R]) result(call *call[R], how signal, maybeSent bool) (r R, err error) {
	if how == reply {
		r = call.reply
	} else {
		err = &Error{MaybeSent: maybeSent, Err: call.err}
	}
	var none R
	call.reply, call.err = none, nil // not to be kept by the pool
	c.calls.Put(call)
	return r, err
}

// Stats returns a snapshot, in which all figures are of one moment.
func (c *Client[Q, R]) Stats() Stats { return c.table.snapshot() }

// Close fails what is in flight, and whatever is asked later, with [ErrClosed], and returns when the goroutines of the
// client have ended. It does not close the multiplexer. Connections that a reply can still come over are killed, since
// another Client uses the same identifiers and would take it for its own: those with requests in flight, and those on
// which one was given up before its reply had come. So are those over which a part of a message has come, as nobody
// could make sense of what follows. Close may be called twice, and from anywhere but the functions of the Protocol and
// the one of [WithUnsolicited]. It returns nil.
func (c *Client[Q, R]) Close() error {
	c.end(ErrClosed)
	c.wg.Wait()
	c.table.wg.Wait()
	c.messages.Discard() // nobody can make sense of what follows the beginning of a reply
	return nil
}

// end fails everything for a reason, unless that has been done. Calls that wait for a connection, or for a peer to take
// what they write, are interrupted.
func (c *Client[Q, R]) end(reason error) {
	victims, links := c.table.close(reason)
	victims.fail(reason)
	c.cancel()
	var wg sync.WaitGroup
	for _, l := range links { // side by side, as each may take as long as its transport does
		wg.Go(func() {
			if l.owes && reason != plex.ErrClosed { // with the multiplexer its connections end anyway
				l.conn.Kill()
			}
			_ = l.writer.Close() // the writer itself sees what comes of it
		})
	}
	wg.Wait()
}

// lost is called when a connection has ended and all that it had brought is delivered.
func (c *Client[Q, R]) lost(l *link[R], cause error) {
	if errors.Is(cause, plex.ErrKilled) {
		// Whoever found what it brought to be nonsense, and had no lease on it, has killed it first, and is about to
		// say why.
		select {
		case <-l.known:
		case <-time.After(killedGrace):
		case <-c.ctx.Done():
		}
	}
	victims, w, why := c.table.end(l, errLost(l.conn, cause))
	victims.fail(why)
	_ = w.Close() // who still writes to a peer that has only closed its own direction would write for nothing
}
