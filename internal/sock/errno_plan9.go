package sock

import (
	"strings"
	"syscall"
)

const (
	connReset  = syscall.ErrorString("connection reset")
	brokenPipe = syscall.ErrorString("write on closed pipe")
)

// Plan 9 has texts in the place of numbers, and says nothing about single messages.
var messageErrors, networkErrors []syscall.ErrorString

// BrokenPipe is always false: Plan 9 has no such error.
func BrokenPipe(error) bool { return false }

// Refused reports whether err says that nobody listens at the peer's port.
func Refused(err error) bool {
	return err != nil && strings.Contains(err.Error(), "connection refused")
}

// BacklogFull is always false, too.
func BacklogFull(error) bool { return false }
