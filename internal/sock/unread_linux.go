package sock

import (
	"syscall"
	"unsafe"
)

// Unread returns how many bytes have arrived and were not read, and whether that is known. An end
// is not counted; of datagrams it is the size of the next.
func (s Socket) Unread() (n int, known bool) {
	var queued int32
	s.control(func(fd int) {
		_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TIOCINQ, uintptr(unsafe.Pointer(&queued)))
		known = errno == 0
	})
	return int(queued), known
}
