package plex

// The one place that decides what a transport's error means.

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
)

// operation is what judge needs to know beside the error.
type operation struct {
	write    bool
	udp      bool
	tls      bool
	deadline bool // a deadline may have been set, by the consumer or by an interrupt
}

type verdict int

const (
	passing    verdict = iota // says nothing about the connection
	peerClosed                // the peer has sent all that it will send
	fatal                     // the connection is of no more use
)

// judge decides what err, which is not nil, says about the connection.
func judge(err error, op operation) verdict {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		// The consumer's own doing, with two exceptions. A TLS connection
		// cannot write after a write that timed out. And if nobody set a
		// deadline, the error is a dead connection's memory of an earlier
		// one, as of a TLS connection inside another type. (A kernel's
		// ETIMEDOUT says Timeout() too, but is no deadline.)
		if !op.deadline || op.tls && op.write {
			return fatal
		}
		return passing
	case !op.write && errors.Is(err, io.EOF):
		return peerClosed
	case errors.Is(err, io.ErrShortWrite):
		return passing // what it leaves is a torn message, see half.write
	case op.udp && passingDatagram(err):
		return passing
	}
	return fatal
}

// passingDatagram reports whether err is one that an unconnected protocol
// reports about one datagram, or about the network at this moment.
func passingDatagram(err error) bool {
	for _, errno := range datagramErrnos {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// errReset stands for the reset that the kernel has told the other half about,
// or nobody yet.
var errReset error = &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}

// isClosed reports whether err says that a transport is closed, here or, for a
// pipe, by the peer.
func isClosed(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe)
}

// errPeerClosed is the cause of a loss that the watcher has seen: the peer has
// closed an idle connection.
var errPeerClosed = fmt.Errorf("plex: the peer closed the connection: %w", io.EOF)
