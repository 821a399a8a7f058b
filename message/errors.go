package message

// The errors that a receiver delivers beside its messages, and that of Send. A receiver's errors
// are each about one connection, and come in a pair whose Message has nothing but that connection.
// The other connections go on.

import (
	"fmt"

	"go.atomizer.io/plex"
)

// CutError reports a message that has not come whole: its connection, or the datagram that it came
// in, ended in the middle of it.
type CutError struct {
	Conn plex.Conn // the connection that it came over
	Data []byte    // as much of it as came; it belongs to the receiver of the error

	// Err is the reason: the connection's error; [io.ErrUnexpectedEOF] after a clean EOF and for a
	// datagram; [plex.ErrClosed] after the multiplexer was closed; or [plex.ErrRetired].
	Err error
}

func (e *CutError) Error() string {
	return fmt.Sprintf("message: from %s: a message is cut off after %d bytes: %v", from(e.Conn), len(e.Data), e.Err)
}

// Unwrap returns Err.
func (e *CutError) Unwrap() error { return e.Err }

// TooLongError reports a message that is longer than allowed. Its connection has been killed,
// because the next message can only be found by reading all of this one. A datagram connection has
// not: the next datagram is a new beginning.
//
// [Prefix.Append] also returns it, for a message that it cannot write a prefix for. A split
// function may return it as soon as it knows that a message will be too long; [Prefix.Split] does.
type TooLongError struct {
	Conn plex.Conn // the connection; zero in what a split function or Append returns
	Size uint64    // the length in bytes as far as it is known; it may be more
	Max  int       // the length that is allowed
}

func (e *TooLongError) Error() string {
	text := fmt.Sprintf("a message of %d bytes or more; at most %d are allowed", e.Size, e.Max)
	if e.Conn == (plex.Conn{}) {
		return "message: " + text
	}
	return fmt.Sprintf("message: from %s: %s", from(e.Conn), text)
}

// SplitError reports a split function that has failed: it returned an error, panicked, ended its
// goroutine, advanced beyond its data, or returned a message without advancing. Nobody can tell
// where the next message begins, so the connection has been killed. A datagram connection has not.
type SplitError struct {
	Conn plex.Conn // the connection that the data came over
	Err  error     // what the split function returned, or what was wrong with it
}

func (e *SplitError) Error() string {
	return fmt.Sprintf("message: from %s: split function: %v", from(e.Conn), e.Err)
}

// Unwrap returns Err.
func (e *SplitError) Unwrap() error { return e.Err }

// DatagramError reports an error that a datagram connection survives. It is about a datagram that
// was sent earlier. Most often nobody listens at the peer's port, and it matches
// syscall.ECONNREFUSED.
type DatagramError struct {
	Conn plex.Conn // the connection that the datagram was sent over
	Err  error     // the error of the connection's Read
}

func (e *DatagramError) Error() string {
	return fmt.Sprintf("message: from %s: about a datagram sent earlier: %v", from(e.Conn), e.Err)
}

// Unwrap returns Err.
func (e *DatagramError) Unwrap() error { return e.Err }

// from names a connection by its remote address.
func from(c plex.Conn) string {
	if addr := c.RemoteAddr(); addr != nil {
		return addr.String()
	}
	return "an unknown address"
}

// SendError is what [Send] returns for a message that it could not send.
type SendError struct {
	// MaybeSent says that part of the message, or all of it, was handed to the operating system, so
	// the peer may have got it. If it is false, the peer has got nothing, and the message can be
	// sent again.
	MaybeSent bool

	// Err is the reason: a [plex.AcquireError] if there was no writer, the error of the connection,
	// or that of ctx.
	Err error
}

func (e *SendError) Error() string {
	if e.MaybeSent {
		return fmt.Sprintf("message: sent at least in part: %v", e.Err)
	}
	return fmt.Sprintf("message: not sent: %v", e.Err)
}

// Unwrap returns Err.
func (e *SendError) Unwrap() error { return e.Err }
