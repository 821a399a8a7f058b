//go:build !linux

package poll

import (
	"errors"
	"syscall"
)

// Available says whether this system has a Poller.
const Available = false

// queue stands for what the system does not have. There never is one.
type queue struct{}

func newQueue(string) (*queue, error) { return nil, errors.ErrUnsupported }

func (*queue) add(syscall.RawConn, uint32) error         { return errors.ErrUnsupported }
func (*queue) arm(syscall.RawConn, uint32, uint32) error { return errors.ErrUnsupported }
func (*queue) remove(syscall.RawConn)                    {}
func (*queue) run(func(event))                           {}
func (*queue) stop()                                     {}
