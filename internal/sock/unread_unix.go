//go:build unix && !linux && !aix

package sock

import "syscall"

// Unread returns how many bytes have arrived and were not read, and whether that is known. Here it
// is one byte if there is any. Package syscall has no MSG_DONTWAIT for AIX.
func (s Socket) Unread() (n int, known bool) {
	s.control(func(fd int) {
		var one [1]byte
		size, _, err := syscall.Recvfrom(fd, one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		n, known = max(0, size), err == nil || err == syscall.EAGAIN
	})
	return n, known
}
