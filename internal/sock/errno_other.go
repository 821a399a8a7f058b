//go:build !windows && !plan9

package sock

import (
	"errors"
	"syscall"
)

const (
	connReset  = syscall.ECONNRESET
	brokenPipe = syscall.EPIPE
)

// messageErrors say that one message was not sent: it is too large, or there is no buffer at this
// moment.
var messageErrors = []syscall.Errno{syscall.EMSGSIZE, syscall.ENOBUFS}

// networkErrors say that the peer's port is closed, or that there is no route, at this moment.
// Linux returns EPERM for a packet that the firewall drops.
var networkErrors = []syscall.Errno{
	syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.ENETDOWN, syscall.EPERM,
}

// BrokenPipe reports whether err is that of a Write after the write side has ended, which also
// stands for a reset that somebody else has been told of.
func BrokenPipe(err error) bool { return errors.Is(err, brokenPipe) }

// Refused reports whether err says that nobody listens at the peer's port.
func Refused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

// BacklogFull reports whether err says that the service is there, and has not yet accepted as many
// connections as may wait for that. Only a connect to a Unix socket says so.
func BacklogFull(err error) bool { return errors.Is(err, syscall.EAGAIN) }
