package peer

import (
	"net"
	"syscall"
)

// readSeldom makes a TCP connection readable only when much has arrived. The
// reader of many small messages is then awake for few of them, and how often
// it has to be woken, which is the writer's to pay, is not left to chance.
func readSeldom(nc net.Conn) {
	tc, ok := nc.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tc.SyscallConn()
	if err != nil {
		return
	}
	// Without it the figures are less steady, and no less right.
	_ = raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, 64<<10)
	})
}
