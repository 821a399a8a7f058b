package sock

import "syscall"

// ShutDown ends both directions of a connection but does not close it.
func (s Socket) ShutDown() {
	s.control(func(h syscall.Handle) { _ = syscall.Shutdown(h, syscall.SHUT_RDWR) })
}

// ResetOnClose makes the coming Close of a TCP connection a reset: what is unsent is dropped. If
// the system refuses, it is an ordinary close.
func (s Socket) ResetOnClose() {
	s.control(func(h syscall.Handle) {
		_ = syscall.SetsockoptLinger(h, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
	})
}

// control calls f with the handle, if there is one and it is open.
func (s Socket) control(f func(h syscall.Handle)) {
	if s.raw != nil {
		_ = s.raw.Control(func(fd uintptr) { f(syscall.Handle(fd)) })
	}
}
