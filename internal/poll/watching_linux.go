//go:build !plexportable

package poll

// The Poller of Linux: two epoll descriptors, each with one goroutine for all connections. This
// file keeps the books; queue_linux.go asks the system.

import (
	"sync"
	"sync/atomic"
	"syscall"
)

// Available says whether this system has a Poller.
const Available = true

// Parks says that a goroutine waits for each member. Here it does not.
const Parks = false

// Poller watches its members. Each stands for a connection, which the caller knows as a T.
type Poller[T any] struct {
	calls    Calls[T]
	ends     *queue
	readable atomic.Pointer[queue] // nil until StartReadable

	mu      sync.Mutex
	stopped bool
	last    uint32
	members map[uint32]*Member[T] // by a number that is not used again while an event may carry it, as a descriptor is
}

// Member is a connection of a Poller. It is made to be a field of a larger struct; the zero value
// is a member of nothing. Its methods may be called by several goroutines, also while it is added;
// before that, they find it to be a member of nothing.
type Member[T any] struct {
	poller atomic.Pointer[Poller[T]] // set by Add, after the rest
	raw    syscall.RawConn
	value  T
	key    uint32
}

// New returns a Poller without members. Its error is that of the system, which may have no
// descriptor left, or [errors.ErrUnsupported] unless [Available].
func New[T any](calls Calls[T]) (*Poller[T], error) {
	ends, err := newQueue("plex ends")
	if err != nil {
		return nil, err
	}
	p := &Poller[T]{calls: calls, ends: ends, members: make(map[uint32]*Member[T])}
	if !calls.Start(func() { ends.run(p.ended) }) {
		ends.stop()
		return nil, errStopped
	}
	return p, nil
}

func (p *Poller[T]) ended(e event) {
	if m := p.find(e.key); m != nil {
		p.calls.Ended(m.value, e.failed)
	}
}

func (p *Poller[T]) arrived(e event) {
	if m := p.find(e.key); m != nil {
		p.calls.Arrived(m.value, e.tag)
	}
}

// StartReadable makes Arm work, which takes another descriptor. It does nothing when called again.
func (p *Poller[T]) StartReadable() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.stopped:
		return errStopped
	case p.readable.Load() != nil:
		return nil
	}
	q, err := newQueue("plex readable")
	if err != nil {
		return err
	}
	if !p.calls.Start(func() { q.run(p.arrived) }) {
		q.stop()
		return errStopped
	}
	p.readable.Store(q)
	return nil
}

// Stop ends the calls, and gives the descriptors back. It does not wait for a call that is under
// way.
func (p *Poller[T]) Stop() {
	p.mu.Lock()
	stopped := p.stopped
	p.stopped = true
	p.mu.Unlock()
	if stopped {
		return
	}
	p.ends.stop()
	if q := p.readable.Load(); q != nil {
		q.stop()
	}
}

// Add makes m, which is a member of nothing, a member that stands for value. Nothing is watched
// yet.
func (p *Poller[T]) Add(m *Member[T], raw syscall.RawConn, value T) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for used := true; used || p.last == 0; { // after four thousand million connections
		p.last++
		_, used = p.members[p.last]
	}
	m.raw, m.value, m.key = raw, value, p.last
	p.members[m.key] = m
	m.poller.Store(p)
}

func (p *Poller[T]) find(key uint32) *Member[T] {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.members[key]
}

// Added reports whether m has been added, though it may have been removed.
func (m *Member[T]) Added() bool { return m.poller.Load() != nil }

// WatchEnd has Ended called at the end of the connection, once, also if it has come already or there
// is unread data before it. It is called once. An error says that nothing is watched: the system
// has no room, or does not watch such a descriptor, or m has been removed.
func (m *Member[T]) WatchEnd() error {
	p := m.poller.Load()
	if p == nil || p.find(m.key) != m {
		return errNotAdded
	}
	err := p.ends.add(m.raw, m.key)
	if p.find(m.key) != m { // removed meanwhile, perhaps before it was in the queue
		p.ends.remove(m.raw)
		return errNotAdded
	}
	return err
}

// Arm has Arrived called, once and with tag, when the connection can be read from or has come to its
// end, also if that is so already. Arming again before that replaces the tag; of two at the same
// time, either may be the later. An error says that there will be no call: the system has no room,
// does not watch such a descriptor, or it is closed.
func (m *Member[T]) Arm(tag uint32) error {
	p := m.poller.Load()
	if p == nil {
		return errNotAdded
	}
	q := p.readable.Load()
	if q == nil {
		return errNotAdded
	}
	return q.arm(m.raw, m.key, tag)
}

// Remove ends the watching of m, before its connection is closed; a call that is under way is not
// waited for. Removing it again, or what was never added, does nothing.
func (m *Member[T]) Remove() {
	p := m.poller.Load()
	if p == nil {
		return
	}
	p.mu.Lock()
	known := p.members[m.key] == m
	if known {
		delete(p.members, m.key)
	}
	p.mu.Unlock()
	if !known {
		return
	}
	p.ends.remove(m.raw)
	if q := p.readable.Load(); q != nil {
		q.remove(m.raw)
	}
}

// Failure returns nil: the Poller is told of no error.
func (m *Member[T]) Failure() error { return nil }

// Out returns a channel that is closed: no goroutine waits on m.
func (m *Member[T]) Out() <-chan struct{} { return closedChannel }

// event is what a queue tells.
type event struct {
	key, tag uint32
	failed   bool // there is an error on the socket
}
