package message

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/caller"
)

// Send writes p, which is one whole message or several, with one Write over whichever connection of m is free. ctx and
// timeout bound the wait for it as in [plex.Multiplexer.Writer], and ctx bounds the Write as well: a peer that has
// stopped reading holds the caller until ctx ends. That may take a moment longer over a transport that refuses
// deadlines, and a second over one that takes no notice of them, and costs their connection. Send may be called from
// any number of goroutines; no other message gets into the middle of p.
//
// That Send returned nil means that the operating system has taken p, not that it will arrive. Any error is a
// [*SendError], which says whether the peer may have got something. A connection that has taken only part of p is
// dropped, since what comes next would be read as the rest of it; nothing is sent twice.
func Send(ctx context.Context, m *plex.Multiplexer, timeout time.Duration, p []byte) error {
	if m == nil {
		return &SendError{Err: errNilMultiplexer("Send")}
	}
	w, err := m.Writer(ctx, timeout)
	if err != nil {
		return &SendError{Err: err}
	}
	defer w.Close() // also if the transport panics; what a stream could not write is nothing to us

	if ctx.Done() != nil {
		// The end of the lease interrupts the Write, whatever the transport makes of deadlines. Before the Write it
		// costs nothing, not even a TLS connection, which a Write with a past deadline would.
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
		err = caller.ContextError(ctx) // which has ended the lease
	}
	return &SendError{MaybeSent: n > 0, Err: err}
}

func errNilMultiplexer(call string) error {
	return fmt.Errorf("message: %s: the multiplexer is nil; plex.New makes one", call)
}
