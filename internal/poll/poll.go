// Package poll tells what happens on the sockets of many connections while nobody reads from them:
// that the peer has closed one, and that one can be read from. One goroutine for each of the two
// serves all connections.
//
// This file keeps the books. What the system is asked is in queue: epoll on Linux (queue_linux.go),
// nothing yet elsewhere (queue_other.go).
package poll

import (
	"errors"
	"sync"
	"sync/atomic"
	"syscall"
)

// errStopped is the error of what is asked of a Poller that has been stopped.
var errStopped = errors.New("poll: stopped")

// errNotAdded is the error of what is asked of a Member that was never added, or was removed.
var errNotAdded = errors.New("poll: not added")

// Poller watches its members. Each stands for a connection, which the caller knows as a T.
type Poller[T any] struct {
	ends     *queue
	readable atomic.Pointer[queue] // nil until StartReadable

	mu      sync.Mutex
	stopped bool
	last    uint32
	members map[uint32]*Member[T] // by a number that is not used again while an event may carry it, as a descriptor is
}

// Member is a connection of a Poller. It is made to be a field of a larger struct; the zero value
// is a member of nothing. Its methods may be called by several goroutines, but for that Add comes
// first.
type Member[T any] struct {
	poller *Poller[T]
	raw    syscall.RawConn
	value  T
	key    uint32
}

// New returns a Poller without members. Its error is that of the system, which may have no
// descriptor left, or [errors.ErrUnsupported] unless [Available].
func New[T any]() (*Poller[T], error) {
	ends, err := newQueue("plex ends")
	if err != nil {
		return nil, err
	}
	return &Poller[T]{ends: ends, members: make(map[uint32]*Member[T])}, nil
}

// Ends calls told once for each member whose end has come since its WatchEnd, until Stop. Reset
// says that the peer has reset the connection, if the system knows. While told runs no other end is
// told.
func (p *Poller[T]) Ends(told func(value T, reset bool)) {
	p.ends.run(func(e event) {
		if m := p.find(e.key); m != nil {
			told(m.value, e.failed)
		}
	})
}

// StartReadable makes Arm and Readable work, which takes another descriptor. It does nothing when
// called again.
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
	if err == nil {
		p.readable.Store(q)
	}
	return err
}

// Readable calls told once for each Arm, when the member can be read from or has come to its end,
// until Stop. It returns at once before StartReadable. While told runs nothing else is told.
func (p *Poller[T]) Readable(told func(value T, tag uint32)) {
	q := p.readable.Load()
	if q == nil {
		return
	}
	q.run(func(e event) {
		if m := p.find(e.key); m != nil {
			told(m.value, e.tag)
		}
	})
}

// Stop ends Ends and Readable, and gives the descriptors back. It does not wait for a function that
// is being told.
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
	m.poller, m.raw, m.value, m.key = p, raw, value, p.last
	p.members[m.key] = m
}

func (p *Poller[T]) find(key uint32) *Member[T] {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.members[key]
}

// Added reports whether m has been added, though it may have been removed.
func (m *Member[T]) Added() bool { return m.poller != nil }

// WatchEnd has Ends told of the end of the connection, once, also if it has come already or there
// is unread data before it. It is called once. An error says that nothing is watched: the system
// has no room, or does not watch such a descriptor, or m has been removed.
func (m *Member[T]) WatchEnd() error {
	if m.poller == nil || m.poller.find(m.key) != m {
		return errNotAdded
	}
	err := m.poller.ends.add(m.raw, m.key)
	if m.poller.find(m.key) != m { // removed meanwhile, perhaps before it was in the queue
		m.poller.ends.remove(m.raw)
		return errNotAdded
	}
	return err
}

// Arm has Readable told, once and with tag, when the connection can be read from or has come to its
// end, also if that is so already. Arming again before it is told replaces the tag; of two at the
// same time, either may be the later. An error says that nothing will be told: the system has no
// room, does not watch such a descriptor, or it is closed.
func (m *Member[T]) Arm(tag uint32) error {
	if m.poller == nil {
		return errNotAdded
	}
	q := m.poller.readable.Load()
	if q == nil {
		return errNotAdded
	}
	return q.arm(m.raw, m.key, tag)
}

// Remove ends the watching of m, before its connection is closed; a function that is being told is
// not waited for. Removing it again, or what was never added, does nothing.
func (m *Member[T]) Remove() {
	p := m.poller
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

// event is what a queue tells.
type event struct {
	key, tag uint32
	failed   bool // there is an error on the socket
}
