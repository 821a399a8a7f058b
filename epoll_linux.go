package plex

import (
	"os"
	"syscall"
)

// epoll is an epoll descriptor that sits in Go's own poller, so that the
// goroutine that waits for its events is parked like any that reads from a
// network.
type epoll struct {
	file *os.File
	raw  syscall.RawConn
}

func newEpoll(name string) (*epoll, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := syscall.SetNonblock(fd, true); err != nil {
		_ = syscall.Close(fd)
		return nil, os.NewSyscallError("setnonblock", err)
	}
	file := os.NewFile(uintptr(fd), name)
	raw, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return &epoll{file: file, raw: raw}, nil
}

// control is epoll_ctl, as long as the epoll descriptor is open.
func (e *epoll) control(op, fd int, event *syscall.EpollEvent) error {
	var err error
	if closed := e.raw.Control(func(epfd uintptr) { err = syscall.EpollCtl(int(epfd), op, fd, event) }); closed != nil {
		return closed
	}
	return err
}

// run calls handle for each event, until stop.
func (e *epoll) run(handle func(event syscall.EpollEvent)) {
	events := make([]syscall.EpollEvent, 128)
	for {
		n := 0
		err := e.raw.Read(func(fd uintptr) bool {
			n, _ = syscall.EpollWait(int(fd), events, 0)
			return n > 0 // else wait until there is one
		})
		if err != nil {
			return // stopped
		}
		for _, event := range events[:n] {
			handle(event)
		}
	}
}

func (e *epoll) stop() { _ = e.file.Close() }
