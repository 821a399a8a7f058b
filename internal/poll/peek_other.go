//go:build !unix && !windows

package poll

import "errors"

// Available says whether this system has a Poller. Plan 9 cannot wait until something arrives
// without reading it, and what else comes here has no sockets.
const Available = false

// What stands for what the system does not have.

func watchable(uintptr) error { return errors.ErrUnsupported }

type peeker struct{}

func (*peeker) peek(uintptr) (state, error) { return failed, errors.ErrUnsupported }

func isErrno(error) bool { return false }
