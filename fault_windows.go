package plex

import "syscall"

// datagramErrnos pass, see fault_linux.go. Windows reports a closed port as a
// reset (WSAECONNRESET), and a datagram larger than the buffer as an error
// (WSAEMSGSIZE).
var datagramErrnos = []syscall.Errno{
	syscall.WSAECONNRESET, syscall.ECONNREFUSED, 10040, 10055, 10065, 10051, 10050,
}
