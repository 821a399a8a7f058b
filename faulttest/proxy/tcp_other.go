//go:build !linux

package proxy

import (
	"net"
	"syscall"
)

// State cannot be asked here: a connection counts as open.
func State(*net.TCPConn) TCPState { return Open }

// TakeError takes nothing here.
func TakeError(*net.TCPConn) error { return syscall.ECONNRESET }
