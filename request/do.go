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
// all of it, the write included. If ctx cuts a write short, that costs the connection, and with it
// the requests in flight over it.
//
// Any error is an [*Error]. It says whether the server may have got the request, which is never
// sent twice.
func (c *Client[Q, R]) Do(ctx context.Context, request Q) (R, error) {
	var none R
	if err := c.refuseContext(ctx); err != nil {
		return none, err
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
		if failed := c.failedToSend(ctx, call, maybeSent, err); failed != nil {
			return none, failed
		}
		// Somebody else has ended the call, or is about to, and knows the reason better.
	}
	return c.await(ctx, call, maybeSent)
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
		// If it got its turn, sending finds that ctx has ended, and gives the turn back.
		return <-call.done != turn, nil
	}
	c.calls.Put(call)
	figures.Waited, figures.Err = time.Since(start), caller.ContextError(ctx)
	return false, &Error{Err: &figures}
}

// failedToSend gives up a call that could not be sent, or not wholly, and returns what Do returns;
// nil if somebody else has ended the call.
func (c *Client[Q, R]) failedToSend(ctx context.Context, call *call[R], maybeSent bool, err error) error {
	reason := sendFailed
	var appending *appendError
	switch {
	case errors.As(err, &appending):
		err = appending.error // not looked into: it is of the user's own type
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		reason = canceled
	case errors.Is(err, plex.ErrKilled):
		reason = killed
	}
	return c.giveUp(call, maybeSent, reason, err)
}

// giveUp gives up a call, and returns the error for it; nil if somebody else has ended the call.
func (c *Client[Q, R]) giveUp(call *call[R], maybeSent bool, why reason, err error) error {
	kept, ok := c.table.giveUp(call, maybeSent, why)
	if !ok {
		return nil
	}
	if !kept {
		c.calls.Put(call)
	}
	return &Error{MaybeSent: maybeSent, Err: err}
}

// await waits for the end of a call that has been sent.
func (c *Client[Q, R]) await(ctx context.Context, call *call[R], maybeSent bool) (R, error) {
	done := ctx.Done()
	if done == nil {
		return c.result(call, <-call.done, maybeSent)
	}
	select {
	case how := <-call.done:
		return c.result(call, how, maybeSent)
	case <-done:
	}
	if err := c.giveUp(call, maybeSent, canceled, caller.ContextError(ctx)); err != nil {
		var none R
		return none, err
	}
	// It has ended at the same moment, and a reply must not be thrown away.
	return c.result(call, <-call.done, maybeSent)
}

// result is what Do returns for a call that somebody else has ended.
func (c *Client[Q, R]) result(call *call[R], how signal, maybeSent bool) (r R, err error) {
	if how == reply {
		r = call.reply
	} else {
		err = &Error{MaybeSent: maybeSent, Err: call.err}
	}
	var none R
	call.reply, call.err = none, nil // so that the pool does not keep them
	c.calls.Put(call)
	return r, err
}
