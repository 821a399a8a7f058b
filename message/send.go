package message

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/caller"
)

// Send writes p, which is one whole message or several, with one Write over whichever connection of
// m is free. ctx and timeout bound the wait for the connection as in [plex.Multiplexer.Writer]. ctx
// bounds the Write as well: if the peer has stopped reading, the caller waits until ctx ends. The
// wait may be a little longer if the transport refuses deadlines, and a second longer if it ignores
// them; either costs the connection. Send may be called from any number of goroutines; no other
// message gets in between the bytes of p.
//
// If Send returns nil, the operating system has accepted p; it may still not arrive. Any error is a
// [*SendError], which says whether the peer may have got something. A connection that took only
// part of p is dropped, because the next message would be read as the rest of it. Nothing is sent
// twice.
func Send(ctx context.Context, m *plex.Multiplexer, timeout time.Duration, p []byte) error {
	if m == nil {
		return &SendError{Err: errNilMultiplexer("Send")}
	}
	w, err := m.Writer(ctx, timeout)
	if err != nil {
		return &SendError{Err: err}
	}
	defer w.Close() // also if the transport panics; without a stream there is nothing to flush

	if ctx.Done() != nil {
		// Closing the lease interrupts the Write, however the transport treats deadlines. If ctx
		// ends before the Write begins, that costs nothing; a Write with a past deadline would cost
		// a TLS connection.
		ended := make(chan struct{})
		stop := context.AfterFunc(ctx, func() {
			defer close(ended)
			_ = w.Close()
		})
		defer func() {
			if !stop() {
				<-ended
			}
		}()
	}
	n, err := w.Write(p)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil && errors.Is(err, plex.ErrLeaseClosed) {
		err = caller.ContextError(ctx) // which closed the lease
	}
	return &SendError{MaybeSent: n > 0, Err: err}
}

func errNilMultiplexer(call string) error {
	return fmt.Errorf("message: %s: the multiplexer is nil; plex.New makes one", call)
}
