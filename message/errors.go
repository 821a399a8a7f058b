package message

// The errors that a receiver reports beside its messages, and that of Send. Each of the first three is about one
// connection and comes in a pair whose Message has nothing but that connection; the others go on.

import (
	"fmt"

	"go.atomizer.io/plex"
)

// CutError reports a message that has not come whole: its connection ended in the middle of it, or, where messages come
// in datagrams, the datagram did.
type CutError struct {
	Conn plex.Conn // that it came over
	Data []byte    // what had come of it; it belongs to the receiver of the error

	// Err is why: the connection's error, [io.ErrUnexpectedEOF] after a clean end by the peer and for a datagram,
	// [plex.ErrClosed] after the multiplexer's Close, or [plex.ErrRetired].
	Err error
}

func (e *CutError) Error() string {
	return fmt.Sprintf("message: from %s: a message is cut off after %d bytes: %v", from(e.Conn), len(e.Data), e.Err)
}

// Unwrap returns Err.
func (e *CutError) Unwrap() error { return e.Err }

// TooLongError reports a message that is longer than is allowed. What comes behind it cannot be told from its rest
// without taking it all in, so its connection has been killed. A datagram's has not: the next datagram is a new
// beginning.
//
// [Prefix.Append] returns it too, for a message that it cannot put a prefix to; and a split function may return one, as
// [Prefix.Split] does, as soon as it knows that a message is going to be too long.
type TooLongError struct {
	Conn plex.Conn // that it came over; the zero Conn when a split function or Append returns it
	Size uint64    // its length in bytes, as far as it is known: it may be more
	Max  int       // the length that is allowed
}

func (e *TooLongError) Error() string {
	text := fmt.Sprintf("a message of %d bytes or more, where %d are allowed", e.Size, e.Max)
	if e.Conn == (plex.Conn{}) {
		return "message: " + text
	}
	return fmt.Sprintf("message: from %s: %s", from(e.Conn), text)
}

// SplitError reports that the split function did not do what a split function has to: it returned an error, panicked,
// ended its goroutine, went beyond its data, or returned a message without going on. There is no telling where the next
// message begins, so the connection has been killed; a datagram's has not.
type SplitError struct {
	Conn plex.Conn // that the data came over
	Err  error     // what the split function returned, or what was wrong with it
}

func (e *SplitError) Error() string {
	return fmt.Sprintf("message: from %s: split function: %v", from(e.Conn), e.Err)
}

// Unwrap returns Err.
func (e *SplitError) Unwrap() error { return e.Err }

// from names a connection by its remote address.
func from(c plex.Conn) string {
	if addr := c.RemoteAddr(); addr != nil {
		return addr.String()
	}
	return "an unknown address"
}

// SendError is what [Send] returns for a message that it could not send.
type SendError struct {
	// MaybeSent says that part of the message, or all of it, has been handed to the operating system, so the peer may
	// have got it. If it is false the peer has got nothing, and the message can be sent again.
	MaybeSent bool

	// Err is why: a [plex.AcquireError] if there was no writer, the error of the connection, or that of ctx.
	Err error
}

func (e *SendError) Error() string {
	if e.MaybeSent {
		return fmt.Sprintf("message: sent in part at least: %v", e.Err)
	}
	return fmt.Sprintf("message: not sent: %v", e.Err)
}

// Unwrap returns Err.
func (e *SendError) Unwrap() error { return e.Err }
