package sock

import (
	"net"
	"os"
	"syscall"
	"time"
)

// HasUserTimeout says whether SetUserTimeout can work on this system.
const HasUserTimeout = true

// tcpUserTimeout is the kernel's TCP_USER_TIMEOUT, which package syscall does not have for all
// processors.
const tcpUserTimeout = 18

// SetUserTimeout makes the kernel give up a TCP connection whose peer has not acknowledged, or has
// had no room for, what was sent for d. The kernel counts whole milliseconds; d is rounded up, so
// that it never becomes 0, which stands for no timeout.
func (s Socket) SetUserTimeout(d time.Duration) error {
	err := net.ErrClosed
	s.control(func(fd int) {
		ms := (d + time.Millisecond - 1) / time.Millisecond
		err = os.NewSyscallError("setsockopt", syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, tcpUserTimeout, int(ms)))
	})
	return err
}
