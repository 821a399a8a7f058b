// Package sock is what the system knows of a connection: the socket beneath it, its kind, and how
// it ended.
//
// Only Linux answers every question. Elsewhere the answers are those of a connection of which
// nothing is known, and the comments say what follows from that.
package sock

import (
	"errors"
	"net"
	"os"
	"syscall"

	"go.atomizer.io/plex/internal/caller"
)

// Socket is the socket beneath a connection. The zero value stands for a connection without one, of
// which nothing is known and to which nothing can be done. A Socket may be used by several
// goroutines, also after the connection has been closed.
type Socket struct{ raw syscall.RawConn }

// maxWrappers guards against a connection that says it wraps itself.
const maxWrappers = 8

// Of returns the socket beneath nc. It looks through TLS and other types that tell what they wrap.
// It calls methods of foreign types, which may panic.
func Of(nc net.Conn) Socket {
	for range maxWrappers {
		if caller.IsNil(nc) {
			break
		}
		switch c := nc.(type) {
		case syscall.Conn:
			raw, err := c.SyscallConn()
			if err != nil || caller.IsNil(raw) {
				return Socket{}
			}
			return Socket{raw}
		case interface{ NetConn() net.Conn }:
			nc = c.NetConn()
		default:
			return Socket{}
		}
	}
	return Socket{}
}

// Exists reports whether there is a socket.
func (s Socket) Exists() bool { return s.raw != nil }

// Closed reports whether the socket has been closed in this process.
func (s Socket) Closed() bool {
	return s.raw != nil && s.raw.Control(func(uintptr) {}) != nil
}

// Raw returns the socket for use with package poll, nil if there is none.
func (s Socket) Raw() syscall.RawConn { return s.raw }

// CloseWrite tells the peer that nothing more will come. For TLS that is a close_notify and nothing
// else: the TCP connection beneath stays open in both directions. It returns
// [errors.ErrUnsupported] if nc has no such method.
func CloseWrite(nc net.Conn) error {
	if c, ok := nc.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Reset and Pipe are the system's errors for a connection that the peer has reset, and for a Write
// to one of which an end has been seen; for transports that are not the system's.
var Reset, Pipe error = connReset, brokenPipe

// ErrReset is the error of a connection that the peer has reset, for those whom the kernel does not
// tell: it tells only the first who asks.
var ErrReset error = &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", connReset)}
