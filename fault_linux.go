package plex

import (
	"encoding/binary"
	"net"
	"syscall"
	"unsafe"
)

// datagramErrnos pass: the peer's port is closed for now, the datagram is too
// large, there is no buffer or no route at this moment.
var datagramErrnos = []syscall.Errno{
	syscall.ECONNREFUSED, syscall.EMSGSIZE, syscall.ENOBUFS,
	syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.ENETDOWN, syscall.EPERM,
}

// tcpClose is the kernel's TCP_CLOSE. A connection that the peer has ended, and
// we have not, is in CLOSE_WAIT; one that was reset is in CLOSE.
const tcpClose = 7

// wasReset reports whether an io.EOF from nc is really the second half of a
// reset, whose error the kernel tells only once.
func wasReset(nc net.Conn) bool {
	reset := false
	control(nc, func(fd int) { reset = tcpState(fd) == tcpClose })
	return reset
}

// tcpState returns the kernel's state of a TCP connection, 0 for what is none.
func tcpState(fd int) byte {
	// The state is the first byte of struct tcp_info; the kernel fills as much
	// of it as is asked for.
	info, err := syscall.GetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_INFO)
	if err != nil {
		return 0
	}
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], uint32(info))
	return b[0]
}

// unsent returns how many bytes a TCP connection that is not over has been given
// to send and the peer has not acknowledged.
func unsent(nc net.Conn) int {
	var queued int32
	control(nc, func(fd int) {
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

// shutDown ends both directions of a connection, but does not close it. That it
// may be at its end already is no error.
func shutDown(nc net.Conn) {
	control(nc, func(fd int) { _ = syscall.Shutdown(fd, syscall.SHUT_RDWR) })
}

// resetOnClose makes the coming Close of a TCP connection a reset. If that
// cannot be had, it is an ordinary close.
func resetOnClose(nc net.Conn) {
	control(nc, func(fd int) {
		_ = syscall.SetsockoptLinger(fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
	})
}

// control calls f with the descriptor of nc, if it has one and is open.
func control(nc net.Conn, f func(fd int)) {
	if raw := socketOf(nc); raw != nil {
		_ = raw.Control(func(fd uintptr) { f(int(fd)) })
	}
}
