//go:build !plexportable

package poll

import (
	"os"
	"sync"
	"syscall"
)

const (
	endEvents      = syscall.EPOLLRDHUP | syscall.EPOLLONESHOT
	readableEvents = syscall.EPOLLIN | syscall.EPOLLRDHUP | syscall.EPOLLONESHOT
)

// queue is an epoll descriptor that sits in Go's own poller, so that the goroutine that waits for
// its events is parked like any that reads from a network. Epoll and connection are both used
// within their RawConn's Control, so that neither is closed meanwhile.
type queue struct {
	file *os.File
	raw  syscall.RawConn
}

func newQueue(name string) (*queue, error) {
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
	return &queue{file: file, raw: raw}, nil
}

// add has the end of a connection told.
func (q *queue) add(raw syscall.RawConn, key uint32) error {
	e := syscall.EpollEvent{Events: endEvents, Fd: int32(key)}
	return q.control(raw, syscall.EPOLL_CTL_ADD, &e)
}

// remove has nothing more told of a connection. That it is not there, or closed, is no error.
func (q *queue) remove(raw syscall.RawConn) {
	_ = q.control(raw, syscall.EPOLL_CTL_DEL, nil)
}

func (q *queue) control(raw syscall.RawConn, op int, e *syscall.EpollEvent) error {
	var err, closed error
	if closedToo := raw.Control(func(fd uintptr) {
		closed = q.raw.Control(func(epfd uintptr) { err = syscall.EpollCtl(int(epfd), op, int(fd), e) })
	}); closedToo != nil {
		return closedToo
	}
	if closed != nil {
		return closed
	}
	return os.NewSyscallError("epoll_ctl", err)
}

// run calls handle for each event, until stop.
func (q *queue) run(handle func(event)) {
	events, n := make([]syscall.EpollEvent, 128), 0
	wait := func(fd uintptr) bool { // made once, because there is a wait for each event
		n, _ = syscall.EpollWait(int(fd), events, 0)
		return n > 0 // else wait until there is one
	}
	for {
		if q.raw.Read(wait) != nil {
			return // stopped
		}
		for _, e := range events[:n] {
			handle(event{key: uint32(e.Fd), tag: uint32(e.Pad), failed: e.Events&syscall.EPOLLERR != 0})
		}
	}
}

func (q *queue) stop() { _ = q.file.Close() }

// arm has it told, once, that a connection can be read from.
func (q *queue) arm(raw syscall.RawConn, key, tag uint32) error {
	a := armings.Get().(*arming)
	a.queue, a.err = q, nil
	a.event = syscall.EpollEvent{Events: readableEvents, Fd: int32(key), Pad: int32(tag)}
	err := raw.Control(a.socket)
	if err == nil {
		err = a.err
	}
	a.queue = nil
	armings.Put(a)
	if err == syscall.EEXIST {
		return nil // another Arm has added it meanwhile, which is as good
	}
	return err
}

// arming is what arm needs for the two descriptors. It is reused, as there is one for each lease.
type arming struct {
	queue  *queue
	event  syscall.EpollEvent
	fd     int
	err    error
	socket func(fd uintptr)   // is called with the connection's
	epoll  func(epfd uintptr) // and then, within, with the epoll's
}

var armings = sync.Pool{New: func() any {
	a := &arming{}
	a.socket = func(fd uintptr) {
		a.fd = int(fd)
		if err := a.queue.raw.Control(a.epoll); err != nil {
			a.err = err
		}
	}
	a.epoll = func(epfd uintptr) {
		a.err = syscall.EpollCtl(int(epfd), syscall.EPOLL_CTL_MOD, a.fd, &a.event)
		if a.err == syscall.ENOENT {
			a.err = syscall.EpollCtl(int(epfd), syscall.EPOLL_CTL_ADD, a.fd, &a.event)
		}
	}
	return a
}}
