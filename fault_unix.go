//go:build !linux && !windows && !plan9

package plex

import "syscall"

// datagramErrnos pass, see fault_linux.go.
var datagramErrnos = []syscall.Errno{
	syscall.ECONNREFUSED, syscall.EMSGSIZE, syscall.ENOBUFS,
	syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.ENETDOWN,
}
