package request

// The errors that callers tell apart, and the types that say what is known about a failure.
// Everything here is immutable.

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"go.atomizer.io/plex"
)

// ErrClosed is what requests fail with when the client has been closed. It matches [net.ErrClosed].
var ErrClosed error = closedError{}

type closedError struct{}

func (closedError) Error() string        { return "request: client closed" }
func (closedError) Is(target error) bool { return target == net.ErrClosed }

// Error is what [Client.Do] returns for a request that failed.
type Error struct {
	// MaybeSent says whether the server may have got the request and acted on it. It is false only
	// if nothing of the request can have reached the server: there was no identifier or no
	// connection for it, it could not be encoded, or not one byte of it was written. Nothing is
	// ever sent twice. If it is true, the caller decides whether to repeat the request, because
	// only the caller knows what it does.
	MaybeSent bool

	// Conn is the connection that the request was given to; zero if it was given to none. If
	// MaybeSent is false nevertheless, the connection failed before a byte of the request was written.
	Conn plex.Conn

	// Err is the reason: the error of the context, the cause of the connection's loss, a
	// *plex.AcquireError, a *WaitError, the error of Append or Parse, ErrClosed, or plex.ErrClosed.
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

// WaitError says why a request never got its turn: until its context ended, as many requests were
// in flight as [WithInFlight] or [WithIDs] allows. The figures are from that moment.
type WaitError struct {
	Waited    time.Duration // how long the caller waited
	InFlight  int           // requests in flight
	Limit     int           // most requests in flight, as set by WithInFlight; 0 if not set
	Abandoned int           // identifiers of requests given up, whose replies may still come
	IDs       uint64        // the largest identifier
	Waiting   int           // callers waiting, not counting this one
	Err       error         // the context's error
}

// Error says what was missing, for how long, and who has it.
func (e *WaitError) Error() string {
	what := "identifier free"
	if e.full() {
		what = fmt.Sprintf("turn (at most %d in flight)", e.Limit)
	}
	return fmt.Sprintf("request: no %s after %v: %v "+
		"(in flight %d, given up with their replies still to come %d, waiting %d)",
		what, e.Waited.Round(time.Microsecond), e.Err, e.InFlight, e.Abandoned, e.Waiting)
}

// full reports whether the caller waited because of the bound on requests in flight.
func (e *WaitError) full() bool { return e.Limit > 0 && e.InFlight >= e.Limit }

// Unwrap returns Err.
func (e *WaitError) Unwrap() error { return e.Err }

// PanicError is a panic in a function of the user, which the client has recovered.
type PanicError struct {
	Call  string // the method or option: Parse, WithUnsolicited, AppendCancel, "Ping or Append"
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

// errLost is what all requests on a connection fail with when the connection has ended.
func errLost(conn plex.Conn, cause error) error {
	return fmt.Errorf("request: connection to %v lost: %w", conn.RemoteAddr(), cause)
}

// errOutOfStep is the same for a connection that has brought something that makes no sense.
func errOutOfStep(conn plex.Conn, cause error) error {
	return fmt.Errorf("request: connection to %v killed because it delivers nonsense: %w", conn.RemoteAddr(), cause)
}

// errNonsense is about a datagram. It costs nothing but the datagram.
func errNonsense(conn plex.Conn, cause error) error {
	return fmt.Errorf("request: a datagram from %v makes no sense: %w", conn.RemoteAddr(), cause)
}

// errRefused is what all requests on a datagram connection fail with when its peer does not listen.
func errRefused(conn plex.Conn, cause error) error {
	return fmt.Errorf("request: %v does not listen: %w", conn.RemoteAddr(), cause)
}

// errNotTaken is what requests fail with on a connection whose peer has stopped reading.
func errNotTaken(conn plex.Conn, d time.Duration) error {
	return fmt.Errorf("request: connection to %v killed because its peer has not taken in %v what was written: %w",
		conn.RemoteAddr(), d, os.ErrDeadlineExceeded)
}

var (
	errNilContext  = errors.New("request: Do: nil context; use context.Background() for one that never ends")
	errExited      = errors.New("request: Parse ended its goroutine with runtime.Goexit")
	errWriteExited = errors.New("request: the transport's Write has ended its goroutine with runtime.Goexit")
	errEmpty       = errors.New("request: Append appended nothing for the request; it must append the whole frame")
)
