//go:build unix

package proxy

import (
	"errors"
	"net"
	"os"
	"syscall"
)

// setBacklog calls listen(2) again, which changes the length of the queue and leaves what is in it.
func setBacklog(l *net.TCPListener, n int) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	var listenErr error
	err = raw.Control(func(fd uintptr) { listenErr = syscall.Listen(int(fd), n) })
	return errors.Join(err, os.NewSyscallError("listen", listenErr))
}
