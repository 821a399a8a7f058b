package plex

import (
	"encoding/binary"
	"net"
	"syscall"
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
	raw := socketOf(nc)
	if raw == nil {
		return false
	}
	reset := false
	err := raw.Control(func(fd uintptr) {
		// The state is the first byte of struct tcp_info; the kernel fills
		// as much of it as is asked for. On what is not TCP this fails.
		info, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO)
		var b [4]byte
		binary.NativeEndian.PutUint32(b[:], uint32(info))
		reset = err == nil && b[0] == tcpClose
	})
	return err == nil && reset
}
