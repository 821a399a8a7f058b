//go:build unix && (!linux || plexportable)

package poll

import (
	"errors"
	"os"
	"syscall"
)

// Available says whether this system has a Poller.
const Available = true

// watchable says why a descriptor cannot be watched, nil if it can. A datagram socket cannot: to
// look at what has arrived there takes away an error that is about a single message.
func watchable(fd uintptr) error {
	kind, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_TYPE)
	switch {
	case err != nil:
		return os.NewSyscallError("getsockopt", err)
	case kind != syscall.SOCK_STREAM && kind != syscall.SOCK_SEQPACKET:
		return errors.ErrUnsupported
	}
	return nil
}

// peeker looks at a socket without reading from it. There is one for each wait.
type peeker struct{}

// peek returns what is to be seen, and with failed the error, which nobody is told again. Go's own
// poller tells only of what is new, so peek is asked before the first wait, too.
func (*peeker) peek(fd uintptr) (state, error) {
	var b [1]byte
	for {
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			return silent, nil
		case err != nil:
			return failed, os.NewSyscallError("recvfrom", err)
		case n == 0:
			return ended, nil
		}
		return unread, nil
	}
}

// isErrno reports whether err is the system's.
func isErrno(err error) bool {
	var errno syscall.Errno
	return errors.As(err, &errno)
}
