package request

// The errors that callers tell apart, and the types that carry what is to be known about a failure. Everything here is
// immutable.

import (
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"strings"
	"time"

	"go.atomizer.io/plex"
)

// ErrClosed is what requests fail with when the client has been closed. It matches [net.ErrClosed].
var ErrClosed error = closedError{}

type closedError struct{}

func (closedError) Error() string        { return "request: client closed" }
func (closedError) Is(target error) bool { return target == net.ErrClosed }

// Error is what [Client.Do] returns for a request that went wrong.
type Error struct {
	// MaybeSent says whether the server may have got the request, and acted on it. It is false only if nothing of it
	// can have reached the server: no identifier or no connection was to be had, it could not be encoded, or not a
	// byte of it was written. Nothing is ever sent twice; when it is true, whether to repeat the request is for the
	// caller to decide, who knows what it does.
	MaybeSent bool

	// Err is why: the error of the context, the cause of the connection's loss, a *plex.AcquireError, a *WaitError,
	// the error of Append or Parse, ErrClosed, or plex.ErrClosed.
	Err error
}

// Error says whether the request may have been sent, and why it failed.
func (e *Error) Error() string {
	said := "not sent"
	if e.MaybeSent {
		said = "may have been sent, no reply"
	}
	return "request: " + said + ": " + strings.TrimPrefix(e.Err.Error(), "request: ")
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// WaitError says why a request never got its turn: as many as [WithInFlight] or [WithIDs] allow were in flight until
// its context ended. The figures are those of that moment.
type WaitError struct {
	Waited    time.Duration // how long the caller waited
	InFlight  int           // requests in flight
	Limit     int           // most requests in flight, as set by WithInFlight; 0 if nothing was
	Abandoned int           // identifiers of requests given up, whose replies can still come
	IDs       uint64        // the largest identifier
	Waiting   int           // callers waiting, this one not counted
	Err       error         // the context's error
}

// Error reads like a diagnosis: what there was none of, for how long, and who has them.
func (e *WaitError) Error() string {
	what := "identifier free"
	if e.full() {
		what = fmt.Sprintf("turn (at most %d in flight)", e.Limit)
	}
	return fmt.Sprintf("request: no %s after %v: %v "+
		"(in flight %d, given up with their replies still to come %d, waiting %d)",
		what, e.Waited.Round(time.Microsecond), e.Err, e.InFlight, e.Abandoned, e.Waiting)
}

// full reports whether it was the bound on requests in flight that was waited for.
func (e *WaitError) full() bool { return e.Limit > 0 && e.InFlight >= e.Limit }

// Unwrap returns Err.
func (e *WaitError) Unwrap() error { return e.Err }

// PanicError is a panic of a function of the user's, which the client has recovered.
type PanicError struct {
	Call  string // Parse or WithUnsolicited
	Value any    // what it panicked with
	Stack []byte // where
}

// Error includes the stack.
func (e *PanicError) Error() string {
	return fmt.Sprintf("request: %s panicked: %v\n%s", e.Call, e.Value, e.Stack)
}

// Unwrap returns the value of the panic if that is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// recovered makes the present panic an error. It is deferred, and so is its recover the one that counts.
func recovered(call string, err *error) {
	if v := recover(); v != nil {
		*err = &PanicError{Call: call, Value: v, Stack: debug.Stack()}
	}
}

// errLost is what all requests on a connection fail with when it has come to its end.
func errLost(conn plex.Conn, cause error) error {
	return fmt.Errorf("request: connection to %v lost: %w", conn.RemoteAddr(), cause)
}

// errOutOfStep is the same for a connection on which something came that makes no sense.
func errOutOfStep(conn plex.Conn, cause error) error {
	return fmt.Errorf("request: connection to %v killed, what it delivers makes no sense: %w", conn.RemoteAddr(), cause)
}

// errNonsense is about a datagram, which costs nothing but itself.
func errNonsense(conn plex.Conn, cause error) error {
	return fmt.Errorf("request: a datagram from %v makes no sense: %w", conn.RemoteAddr(), cause)
}

var (
	errNilContext = errors.New("request: Do: nil context; context.Background() is one without an end")
	errExited     = errors.New("request: Parse ended its goroutine by runtime.Goexit")
	errEmpty      = errors.New("request: Append appended nothing for the request; it must append the whole frame")
)
