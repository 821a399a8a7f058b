package sock

import (
	"encoding/binary"
	"syscall"
	"unsafe"
)

// tcpClose is the kernel's TCP_CLOSE. A connection that the peer has closed, and we have not, is in
// CLOSE_WAIT; one that was reset is in CLOSE.
const tcpClose = 7

// WasReset reports whether a TCP connection that has ended was reset. The kernel tells the error of
// a reset only once; the next Read returns io.EOF, and the next Write EPIPE. It says nothing about
// a connection whose write side was closed here: that is in the same state after a clean end.
func (s Socket) WasReset() bool {
	reset := false
	s.control(func(fd int) { reset = tcpState(fd) == tcpClose })
	return reset
}

// Unsent returns how many bytes a TCP connection was given to send and the peer has not
// acknowledged; a close of the write side counts for one. It is 0 for a connection that has ended.
func (s Socket) Unsent() int {
	var queued int32
	s.control(func(fd int) {
		if state := tcpState(fd); state == 0 || state == tcpClose {
			return
		}
		_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&queued)))
		if errno != 0 {
			queued = 0
		}
	})
	return int(queued)
}

// tcpState returns the kernel's state of a TCP connection, 0 for any other socket.
func tcpState(fd int) byte {
	// The state is the first byte of struct tcp_info; the kernel fills as much of it as is asked
	// for.
	info, err := syscall.GetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_INFO)
	if err != nil {
		return 0
	}
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], uint32(info))
	return b[0]
}
