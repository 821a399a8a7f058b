package plex

// The watcher: one goroutine and one epoll descriptor see the end of any
// connection of the pool. The descriptor sits in Go's own poller, so that
// the goroutine is parked like any that reads from a network.

import (
	"os"
	"sync"
	"syscall"
)

type watcher struct {
	m    *Multiplexer
	file *os.File // of the epoll descriptor
	raw  syscall.RawConn

	mu    sync.Mutex
	next  uint64 // connections are known by a number that is never used again, as a descriptor is
	conns map[uint64]*conn
}

func newWatcher(m *Multiplexer) (*watcher, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := syscall.SetNonblock(fd, true); err != nil {
		_ = syscall.Close(fd)
		return nil, os.NewSyscallError("setnonblock", err)
	}
	file := os.NewFile(uintptr(fd), "plex watcher")
	raw, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return &watcher{m: m, file: file, raw: raw, conns: make(map[uint64]*conn)}, nil
}

// watches reports whether the watcher can see the end of a connection like c.
func watches(c *conn) bool { return !c.udp && socketOf(c.nc) != nil }

// add begins to watch c. If its end has come already, that is seen at once.
func (w *watcher) add(c *conn) {
	raw := socketOf(c.nc)
	if raw == nil {
		return
	}
	w.mu.Lock()
	w.next++
	c.watchKey = w.next
	w.conns[c.watchKey] = c
	w.mu.Unlock()
	event := syscall.EpollEvent{
		Events: syscall.EPOLLRDHUP | syscall.EPOLLONESHOT,
		Fd:     int32(uint32(c.watchKey)), Pad: int32(uint32(c.watchKey >> 32)),
	}
	added := false
	err := raw.Control(func(fd uintptr) {
		added = w.control(syscall.EPOLL_CTL_ADD, int(fd), &event)
	})
	if err != nil || !added { // it is closed already, or its end shows when it is used
		w.forget(c)
	}
}

// remove ends the watching of c, before its transport is closed.
func (w *watcher) remove(c *conn) {
	w.forget(c)
	if raw := socketOf(c.nc); raw != nil {
		_ = raw.Control(func(fd uintptr) { w.control(syscall.EPOLL_CTL_DEL, int(fd), nil) })
	}
}

// control is epoll_ctl, as long as the epoll descriptor is open.
func (w *watcher) control(op, fd int, event *syscall.EpollEvent) (ok bool) {
	err := w.raw.Control(func(epfd uintptr) { ok = syscall.EpollCtl(int(epfd), op, fd, event) == nil })
	return ok && err == nil
}

func (w *watcher) forget(c *conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, c.watchKey)
}

// run tells each connection of its end, until stop.
func (w *watcher) run() {
	events := make([]syscall.EpollEvent, 128)
	for {
		n := 0
		err := w.raw.Read(func(fd uintptr) bool {
			n, _ = syscall.EpollWait(int(fd), events, 0)
			return n > 0 // else wait until there is one
		})
		if err != nil {
			return // stopped
		}
		for _, e := range events[:n] {
			key := uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32
			w.mu.Lock()
			c := w.conns[key]
			w.mu.Unlock()
			if c == nil {
				continue
			}
			// In its own goroutine, so that nothing about one connection
			// delays another.
			reset := e.Events&syscall.EPOLLERR != 0
			w.m.spawn(func() { c.noticed(reset) })
		}
	}
}

func (w *watcher) stop() { _ = w.file.Close() }
