package message

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/caller"
)

// past is a deadline that interrupts.
var past = time.Unix(1, 0)

// Send writes p, which is one whole message or several, with one Write over whichever connection of m is free. ctx and
// timeout bound the wait for it as in [plex.Multiplexer.Writer], and ctx bounds the Write as well: a peer that has
// stopped reading holds the caller until ctx ends, and no longer. Send may be called from any number of goroutines;
// no other message gets into the middle of p.
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
		// It may run when the Write is over, or the lease even: then it does nothing that outlasts the lease.
		stop := context.AfterFunc(ctx, func() {
			if err := w.SetWriteDeadline(past); err != nil && !errors.Is(err, plex.ErrLeaseClosed) {
				_ = w.Kill() // nothing else interrupts a Write of a transport that refuses deadlines
			}
		})
		defer stop()
	}
	n, err := w.Write(p)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil && interrupted(err) {
		err = fmt.Errorf("%w: %w", caller.ContextError(ctx), err)
	}
	return &SendError{MaybeSent: n > 0, Err: err}
}

// interrupted reports whether an error can be the consequence of the end of ctx.
func interrupted(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, plex.ErrKilled) || errors.Is(err, plex.ErrLeaseClosed)
}

func errNilMultiplexer(call string) error {
	return fmt.Errorf("message: %s: the multiplexer is nil; plex.New makes one", call)
}
