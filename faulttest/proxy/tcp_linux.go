package proxy

import (
	"encoding/binary"
	"net"
	"syscall"
)

// State is the kernel's state of the connection.
func State(c *net.TCPConn) TCPState {
	raw, err := c.SyscallConn()
	if err != nil {
		return Closed
	}
	state := Closed
	_ = raw.Control(func(fd uintptr) { // it fails if c is closed, which is what state says already
		// The state is the first byte of struct tcp_info.
		if info, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO); err == nil {
			var b [4]byte
			binary.NativeEndian.PutUint32(b[:], uint32(info))
			state = TCPState(b[0])
		}
	})
	return state
}

// TakeError takes the error that the kernel has for whoever asks next, who will not be told of it any more.
func TakeError(c *net.TCPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var n int
	ctlErr := raw.Control(func(fd uintptr) { n, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ERROR) })
	if ctlErr != nil {
		return ctlErr
	}
	if err == nil && n != 0 {
		err = syscall.Errno(n)
	}
	return err
}
