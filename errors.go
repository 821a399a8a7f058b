package plex

// The errors that callers tell apart, and the two error types that carry figures. Everything here
// is immutable.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// Errors that callers may want to tell apart with [errors.Is]. They are usually wrapped in one that
// says more.
var (
	// ErrClosed is returned once the multiplexer is closed or shutting down. It matches
	// [net.ErrClosed].
	ErrClosed error = &closedError{"plex: multiplexer closed"}

	// ErrLeaseClosed is returned by a Reader or Writer whose lease has ended, by the zero Reader
	// and the zero Writer. It matches [net.ErrClosed].
	ErrLeaseClosed error = &closedError{"plex: lease closed"}

	// ErrTimeout is matched by the error of an acquire that waited as long as its timeout allowed.
	ErrTimeout = errors.New("plex: timed out")

	// ErrStreaming is returned by Read, Write and by the start of a second stream while a stream
	// runs on the lease.
	ErrStreaming = errors.New("plex: a stream is running on this lease")

	// ErrTooManyConnections is returned by Add for connections beyond the capacity.
	ErrTooManyConnections = errors.New("plex: too many connections")

	// ErrNilConnection is returned for a nil connection or one that holds a nil pointer.
	ErrNilConnection = errors.New("plex: nil connection")

	// ErrKnownConnection is returned for a connection that the multiplexer owns already.
	ErrKnownConnection = errors.New("plex: connection is in the pool already")

	// ErrNoConnections is matched by the error of an acquire when no connection is left and there
	// is no connector to replace the last. Add mends that.
	ErrNoConnections = errors.New("plex: no connection left and no connector to replace it")

	// ErrTooManyWaiting is matched by the error of an acquire when as many callers wait as
	// WithMaxWaiting allows.
	ErrTooManyWaiting = errors.New("plex: too many callers are waiting")

	// ErrUnavailable is matched by the error of an acquire when nothing is open and as many connects
	// in a row have failed as WithFailFast says.
	ErrUnavailable = errors.New("plex: nothing is open and connecting fails")

	// ErrKilled is what both halves of a connection report after Kill.
	ErrKilled = errors.New("plex: connection killed by its consumer")

	// ErrPartialWrite is what the other half reports after a connection was dropped because the
	// last write of a lease was cut short: a further message behind it would have been read as its
	// rest.
	ErrPartialWrite = errors.New("plex: connection dropped after a partial write")

	// ErrOutOfStep is matched by the cause of a connection that was lost because its peer has sent
	// what nobody has asked for, see WithQuietIdle, or, in package request, a reply for which no
	// request waits.
	ErrOutOfStep = errors.New("plex: out of step: the peer has sent what nobody has asked for")

	// ErrReaderMode is matched by the error of Reader on a multiplexer whose ready readers are
	// asked for, and of ReadyReader where Reader was called first.
	ErrReaderMode = errors.New("plex: the multiplexer's read halves are asked for in another way")

	// ErrNotAttached is the outcome of a Connect that returned nil without having called Attach.
	ErrNotAttached = errors.New("plex: Connect returned without calling Attach")

	// ErrAttached is returned by Attach when the handle has a transport.
	ErrAttached = errors.New("plex: Attach called twice for one connection")
)

// closedError is a sentinel that also matches net.ErrClosed, as errors of the net package do after
// a close.
type closedError struct{ text string }

func (e *closedError) Error() string        { return e.text }
func (e *closedError) Is(target error) bool { return target == net.ErrClosed }

// AcquireError says why no lease could be had, of [Multiplexer.Reader], [Multiplexer.ReadyReader]
// or [Multiplexer.Writer], and what the pool looked like at that moment. It matches [ErrTimeout],
// the error of the caller's context, [ErrClosed], [ErrNoConnections], [ErrTooManyWaiting] or
// [ErrUnavailable], and also the last error of connecting if the latest connect failed.
type AcquireError struct {
	Pool   string        // what WithName says; "" without it
	Half   string        // "reader", "writer" or "ready reader"
	Waited time.Duration // how long the caller waited; 0 if it did not

	Capacity   int // most connections open or being connected at one moment
	Open       int // connections open
	Leased     int // halves of this kind in consumers' hands
	Connecting int // connects under way
	Waiting    int // callers waiting for this kind, this one not counted

	Err     error // why: one of those above
	Connect error // the latest connect's error, nil if it succeeded or there was none
}

// Error reads like a diagnosis: which half, how long, the pool's figures, and what the latest
// connect died of.
func (e *AcquireError) Error() string {
	var b strings.Builder
	b.WriteString("plex: ")
	if e.Pool != "" {
		fmt.Fprintf(&b, "%s: ", e.Pool)
	}
	fmt.Fprintf(&b, "no %s", e.Half)
	if e.Waited > 0 {
		fmt.Fprintf(&b, " after %v", roundWait(e.Waited))
	}
	fmt.Fprintf(&b, ": %s (capacity %d, open %d, leased %d, connecting %d, waiting %d)",
		strings.TrimPrefix(e.Err.Error(), "plex: "), e.Capacity, e.Open, e.Leased, e.Connecting, e.Waiting)
	if e.Connect != nil {
		fmt.Fprintf(&b, "; last connect: %v", e.Connect)
	}
	return b.String()
}

// roundWait keeps three or four digits of a wait, as much as helps to read it.
func roundWait(d time.Duration) time.Duration {
	switch {
	case d > time.Second:
		return d.Round(time.Millisecond)
	case d > time.Millisecond:
		return d.Round(time.Microsecond)
	}
	return d
}

// Unwrap returns Err and, if there is one, Connect.
func (e *AcquireError) Unwrap() []error {
	if e.Connect == nil {
		return []error{e.Err}
	}
	return []error{e.Err, e.Connect}
}

// Timeout reports whether it was time that ran out: the timeout or a deadline of the context. With
// Temporary it makes an AcquireError a [net.Error].
func (e *AcquireError) Timeout() bool {
	return errors.Is(e.Err, ErrTimeout) || errors.Is(e.Err, context.DeadlineExceeded)
}

// Temporary is part of [net.Error], which has deprecated it; it says the same as Timeout.
func (e *AcquireError) Temporary() bool { return e.Timeout() }

var _ net.Error = (*AcquireError)(nil)

// UnsentError is returned by a Writer's Close and Err after a stream that could not write all that
// was sent on its channel.
type UnsentError struct {
	Unsent int64 // bytes taken from the channel, or left in it, and not written
	Err    error // what stopped the stream
}

func (e *UnsentError) Error() string {
	return fmt.Sprintf("plex: %d bytes sent on the stream were not written: %v", e.Unsent, e.Err)
}

// Unwrap returns Err.
func (e *UnsentError) Unwrap() error { return e.Err }

// errReaderMode is for a call that asks for read halves in another way than the first.
func errReaderMode(mode int32) error {
	call, first := "Reader", "ReadyReader"
	if mode == readsReady {
		call, first = first, call
	}
	return fmt.Errorf("%w: %s was called first (packages message and request call ReadyReader), so %s cannot be; use one multiplexer for each way",
		ErrReaderMode, first, call)
}

func errNilContext(call string) error {
	return fmt.Errorf("plex: %s: nil context; context.Background() is one without an end", call)
}
