package poll

import (
	"errors"
	"os"
	"syscall"
)

// Available says whether this system has a Poller.
const Available = true

// Names and numbers that package syscall does not have.
const (
	soType  = 0x1008
	msgPeek = 2
)

// watchable says why a socket cannot be watched, nil if it can. A datagram socket cannot: to look
// at what has arrived there takes away an error that is about a single message.
func watchable(fd uintptr) error {
	kind, err := syscall.GetsockoptInt(syscall.Handle(fd), syscall.SOL_SOCKET, soType)
	switch {
	case err != nil:
		return os.NewSyscallError("getsockopt", err)
	case kind != syscall.SOCK_STREAM:
		return errors.ErrUnsupported
	}
	return nil
}

// peeker looks at a socket without reading from it. There is one for each wait.
type peeker struct{ waited bool }

// peek returns what is to be seen, and with failed the error. Go waits by receiving no bytes, which
// ends at once if there is something. So peek looks only after that, when it cannot block.
func (p *peeker) peek(fd uintptr) (state, error) {
	if !p.waited {
		p.waited = true
		return silent, nil
	}
	var b byte
	var n uint32
	flags := uint32(msgPeek)
	err := syscall.WSARecv(syscall.Handle(fd), &syscall.WSABuf{Len: 1, Buf: &b}, 1, &n, &flags, nil, nil)
	switch {
	case err != nil:
		return failed, os.NewSyscallError("wsarecv", err)
	case n == 0:
		return ended, nil
	}
	return unread, nil
}

// isErrno reports whether err is the system's.
func isErrno(err error) bool {
	var errno syscall.Errno
	return errors.As(err, &errno)
}
