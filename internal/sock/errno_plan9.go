package sock

import "syscall"

const connReset = syscall.ErrorString("connection reset")

// Plan 9 has texts in the place of numbers, and says nothing about single messages.
var messageErrors, networkErrors []syscall.ErrorString

// BrokenPipe is always false: Plan 9 has no such error.
func BrokenPipe(error) bool { return false }

// BacklogFull is always false, too.
func BacklogFull(error) bool { return false }
