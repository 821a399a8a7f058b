//go:build unix

package sock

import "syscall"

// ShutDown ends both directions of a connection but does not close it: whoever is blocked in a Read
// or Write returns. It is no error if the connection has ended already.
func (s Socket) ShutDown() {
	s.control(func(fd int) { _ = syscall.Shutdown(fd, syscall.SHUT_RDWR) })
}

// ResetOnClose makes the coming Close of a TCP connection a reset: what is unsent is dropped. If
// the system refuses, it is an ordinary close.
func (s Socket) ResetOnClose() {
	s.control(func(fd int) {
		_ = syscall.SetsockoptLinger(fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
	})
}

// control calls f with the descriptor, if there is one and it is open.
func (s Socket) control(f func(fd int)) {
	if s.raw != nil {
		_ = s.raw.Control(func(fd uintptr) { f(int(fd)) })
	}
}
