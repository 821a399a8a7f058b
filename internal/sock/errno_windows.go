package sock

import (
	"errors"
	"syscall"
)

const (
	connReset  = syscall.WSAECONNRESET
	brokenPipe = syscall.EPIPE
)

// The numbers that package syscall has no names for.
const (
	wsaEMSGSIZE     = syscall.Errno(10040)
	wsaENETDOWN     = syscall.Errno(10050)
	wsaENETUNREACH  = syscall.Errno(10051)
	wsaENOBUFS      = syscall.Errno(10055)
	wsaECONNREFUSED = syscall.Errno(10061)
	wsaEHOSTUNREACH = syscall.Errno(10065)
)

// messageErrors say that one message was not sent, or did not fit into the buffer that it was read
// into.
var messageErrors = []syscall.Errno{wsaEMSGSIZE, wsaENOBUFS}

// networkErrors say that the peer's port is closed, which Windows reports as a reset, or that there
// is no route, at this moment.
var networkErrors = []syscall.Errno{
	syscall.WSAECONNRESET, wsaECONNREFUSED, syscall.ECONNREFUSED, wsaEHOSTUNREACH, wsaENETUNREACH, wsaENETDOWN,
}

// BrokenPipe reports whether err is that of a Write after the write side has ended.
func BrokenPipe(err error) bool { return errors.Is(err, brokenPipe) }

// Refused reports whether err, of a datagram connection, says that nobody listens at the peer's
// port. Windows reports that as a reset.
func Refused(err error) bool {
	return isAny(err, []syscall.Errno{wsaECONNREFUSED, syscall.ECONNREFUSED, syscall.WSAECONNRESET})
}

// BacklogFull is always false: Windows has no such error.
func BacklogFull(error) bool { return false }
