package request

// Do: one request from its turn to its end, as its caller sees it.

import (
	"context"
	"errors"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/caller"
)

// Do makes a request and returns the reply to it. It waits for its turn if [WithInFlight] or
// [WithIDs] sets a bound, for a connection that can be written to, and for the reply. ctx bounds
// all of it.
//
// Requests that are made at the same time are written together. A request whose ctx ends before it
// is being written is not sent. After that its Write goes on, and what ctx ends is only the wait for
// the reply: it cuts nobody's bytes, and costs no connection. (Over a transport whose Write cannot
// be interrupted without harm, such as TLS, it can: if the peer has stopped reading, and the Write
// runs in the goroutine of the caller whose ctx ends.)
//
// Any error is an [*Error]. It says whether the server may have got the request, which is never
// sent twice.
func (c *Client[Q, R]) Do(ctx context.Context, request Q) (R, error) {
	var none R
	if err := c.refuseContext(ctx); err != nil {
		return none, err
	}
	quiet, err := c.isQuiet(request)
	if err != nil {
		c.table.failed()
		return none, &Error{Err: err}
	}
	call := c.calls.Get().(*call[R])
	if c.ordered() {
		c.prepare(call, request, quiet)
	}
	if ended, err := c.turn(ctx, call); err != nil {
		return none, err
	} else if ended {
		return c.result(call, loss)
	}
	if err := c.send(ctx, call, request); err != nil {
		why := notEncoded
		if ctx.Err() != nil {
			why = canceled
		}
		if failed := c.giveUp(ctx, call, why, err); failed != nil {
			return none, failed
		}
		// The client was closed meanwhile.
	}
	return c.await(ctx, call, &request)
}

// refuseContext returns the error of a request whose ctx allows no request at all.
func (c *Client[Q, R]) refuseContext(ctx context.Context) error {
	switch {
	case ctx == nil:
		return &Error{Err: errNilContext}
	case ctx.Err() != nil:
		c.table.canceled()
		return &Error{Err: caller.ContextError(ctx)}
	}
	return nil
}

// turn waits until the call has its turn. ended says that the client was closed meanwhile. After an
// error the call is in the pool.
func (c *Client[Q, R]) turn(ctx context.Context, call *call[R]) (ended bool, err error) {
	waits, err := c.table.enter(call)
	switch {
	case err != nil:
		c.put(call)
		return false, &Error{Err: err}
	case waits:
		return c.awaitTurn(ctx, call)
	}
	return false, nil
}

// awaitTurn is the part of turn that few calls need, apart so that the stacks of the others stay
// small.
func (c *Client[Q, R]) awaitTurn(ctx context.Context, call *call[R]) (ended bool, err error) {
	start := time.Now()
	select {
	case how := <-call.done:
		return how != turn, nil
	case <-ctx.Done():
	}
	figures, ok := c.table.leave(call)
	if !ok {
		// If it got its turn, send finds that ctx has ended, and the turn is given back.
		return <-call.done != turn, nil
	}
	c.put(call)
	figures.Waited, figures.Err = time.Since(start), caller.ContextError(ctx)
	return false, &Error{Err: &figures}
}

// giveUp gives up a call, and returns the error for it; nil if somebody else has ended the call.
func (c *Client[Q, R]) giveUp(ctx context.Context, call *call[R], why reason, err error) error {
	_, failed := c.leave(ctx, call, why, err)
	return failed
}

// abandon is giveUp for a call whose request has been handed over, which may be at the server.
func (c *Client[Q, R]) abandon(ctx context.Context, call *call[R], request *Q, why reason, err error) error {
	id := call.id
	g, failed := c.leave(ctx, call, why, err)
	if g.maybeSent && c.appendCancel != nil {
		c.cancelRequest(g, id, *request)
	}
	return failed
}

// leave is what giveUp and abandon share.
func (c *Client[Q, R]) leave(ctx context.Context, call *call[R], why reason, err error) (givenUp[R], error) {
	g := c.table.giveUp(call, why)
	if !g.ok {
		return g, nil
	}
	closeAll(g.freed)
	if g.kept == nil {
		c.put(call)
	}
	if g.waited > 0 {
		err = c.withoutWriter(ctx, g.waited)
	}
	return g, g.failure(err)
}

// withoutWriter is the error of a caller whose ctx has ended while there was no connection for it.
// It has the figures that say why.
func (c *Client[Q, R]) withoutWriter(ctx context.Context, waited time.Duration) error {
	_, err := c.mux.Writer(ctx, noWait) // fails, because ctx has ended
	var none *plex.AcquireError
	if errors.As(err, &none) {
		none.Waited = waited
	}
	return err
}

// await waits for the end of a call whose request has been handed over.
func (c *Client[Q, R]) await(ctx context.Context, call *call[R], request *Q) (R, error) {
	why, err := failed, ErrParts
	if done := ctx.Done(); done == nil {
		if how := <-call.done; how != several {
			return c.result(call, how)
		}
	} else {
		select {
		case how := <-call.done:
			if how != several {
				return c.result(call, how)
			}
		case <-done:
			why, err = canceled, caller.ContextError(ctx)
		}
	}
	if err := c.abandon(ctx, call, request, why, err); err != nil {
		var none R
		return none, err
	}
	// It has ended at the same moment, and a reply must not be thrown away.
	how := <-call.done
	if how == several {
		how = <-call.done
	}
	return c.result(call, how)
}

// result is what Do returns for a call that somebody else has ended.
func (c *Client[Q, R]) result(call *call[R], how signal) (r R, err error) {
	if how == reply {
		var none R
		r, call.reply = call.reply, none // so that the pool does not keep it
	} else {
		err = &Error{MaybeSent: call.maybe, Conn: call.conn, Err: call.err}
		call.err, call.conn = nil, plex.Conn{}
	}
	c.put(call)
	return r, err
}
