//go:build unix

package harness

import (
	"syscall"
	"time"
)

// CPUTime is the processor time that this process has taken so far, on all cores.
func CPUTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return time.Since(began)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
