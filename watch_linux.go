package plex

// The watcher: one goroutine and one epoll descriptor see the end of any
// connection of the pool; once anyone has asked for ready readers, another of
// each sees what arrives.

import (
	"sync"
	"syscall"
)

type watcher struct {
	m    *Multiplexer
	ends *epoll

	mu    sync.Mutex
	next  uint32 // connections are known by a number that is not used again, as a descriptor is
	conns map[uint32]*conn
	ready *epoll // nil until anyone has asked for ready readers
}

func newWatcher(m *Multiplexer) (*watcher, error) {
	ends, err := newEpoll("plex watcher")
	if err != nil {
		return nil, err
	}
	return &watcher{m: m, ends: ends, conns: make(map[uint32]*conn)}, nil
}

// watches reports whether the watcher can see the end of a connection like c.
func watches(c *conn) bool { return !c.udp && c.socket != nil }

// know gives c the number that its events carry.
func (w *watcher) know(c *conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.watchKey != 0 {
		return
	}
	for {
		w.next++
		if _, used := w.conns[w.next]; !used && w.next != 0 { // after four thousand million connections
			break
		}
	}
	c.watchKey = w.next
	w.conns[c.watchKey] = c
}

func (w *watcher) find(key int32) *conn {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.conns[uint32(key)]
}

func (w *watcher) forget(c *conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, c.watchKey)
}

// add begins to watch for the end of c. If it has come already, that is seen
// at once.
func (w *watcher) add(c *conn) {
	w.know(c)
	event := syscall.EpollEvent{Events: syscall.EPOLLRDHUP | syscall.EPOLLONESHOT, Fd: int32(c.watchKey)}
	// It fails if c is closed already, or its end shows when it is used.
	_ = c.socket.Control(func(fd uintptr) { _ = w.ends.control(syscall.EPOLL_CTL_ADD, int(fd), &event) })
}

// remove ends the watching of c, before its transport is closed.
func (w *watcher) remove(c *conn) {
	w.forget(c)
	if c.socket == nil {
		return
	}
	w.mu.Lock()
	ready := w.ready
	w.mu.Unlock()
	_ = c.socket.Control(func(fd uintptr) {
		_ = w.ends.control(syscall.EPOLL_CTL_DEL, int(fd), nil)
		if ready != nil {
			_ = ready.control(syscall.EPOLL_CTL_DEL, int(fd), nil)
		}
	})
}

// run tells each connection of its end, until stop.
func (w *watcher) run() {
	w.ends.run(func(e syscall.EpollEvent) {
		if c := w.find(e.Fd); c != nil {
			// In its own goroutine, so that nothing about one connection
			// delays another.
			reset := e.Events&syscall.EPOLLERR != 0
			w.m.spawn(func() { c.noticed(reset) })
		}
	})
}

func (w *watcher) stop() {
	w.ends.stop()
	w.mu.Lock()
	ready := w.ready
	w.mu.Unlock()
	if ready != nil {
		ready.stop()
	}
}

// attendLocked makes the watcher one that sees what arrives; Multiplexer.mu is
// held.
func (w *watcher) attendLocked() error {
	ready, err := newEpoll("plex ready watcher")
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.ready = ready
	w.mu.Unlock()
	w.m.spawnLocked(func() {
		ready.run(func(e syscall.EpollEvent) {
			if c := w.find(e.Fd); c != nil {
				c.arrived(uint32(e.Pad))
			}
		})
	})
	return nil
}

// arms says that the watcher can tell what arrives.
const arms = true

// makeKnown lets the watcher find c by its events.
func (c *conn) makeKnown() error {
	w, err := c.m.theWatcher()
	if err == nil {
		w.know(c)
		c.watcher = w
	}
	return err
}

// arm asks for one event when c can be read from, or can be already. The event
// carries the lower bits of the number of the lease that was the last before:
// if there has been another by then, it is of no interest. An error says that
// there will be none.
func (c *conn) arm(lease uint64) error {
	a := armings.Get().(*arming)
	a.ready, a.err = c.watcher.ready, nil
	a.event = syscall.EpollEvent{
		Events: syscall.EPOLLIN | syscall.EPOLLRDHUP | syscall.EPOLLONESHOT,
		Fd:     int32(c.watchKey), Pad: int32(uint32(lease / leaseOne)),
	}
	// It fails if c is closed already: then its end is told in other ways.
	_ = c.socket.Control(a.socket)
	err := a.err
	a.ready = nil
	armings.Put(a)
	if err == syscall.EEXIST {
		return nil // another has added it meanwhile, see conn.arrived
	}
	return err
}

// arming is what arm needs for the two descriptors, of which either may be
// closed meanwhile. It is reused, as there is one for each lease.
type arming struct {
	ready  *epoll
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
		if err := a.ready.raw.Control(a.epoll); err != nil {
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
