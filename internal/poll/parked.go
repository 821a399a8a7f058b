//go:build !linux || plexportable

package poll

// The Poller of all systems but Linux: a goroutine for each member waits in Go's own poller until
// the socket can be read from, by RawConn.Read. Nothing is read by that, on any system.
//
// While the goroutine waits, it has the descriptor's read lock. A Read of the connection queues up
// behind it, and goes on as soon as something has arrived, the deadline has passed, or the
// connection is closed, since each of these ends the wait, too. So a Read waits no longer than it
// would anyway, nobody has to interrupt the goroutine before a Read, and what a lease needs in the
// common case knows nothing of all this. What it costs is that two goroutines are woken up in the
// place of one. So that a connection in use does not pay that for each Read, the goroutine ends
// with the first arrival, and waits again only when nobody has used the connection for settleTime:
// this is decided in patrol, and nowhere else.

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.atomizer.io/plex/internal/caller"
)

// Parks says that a goroutine waits for each member: the end of a connection is not seen behind
// unread data, and whoever takes a connection away has to wait for Out.
const Parks = true

const (
	// settleTime is how long a connection must have been left alone before it is waited on again.
	// One wait costs some microseconds, so however short the leases are and however many the
	// connections, each of them spends less than a thousandth of its time on that.
	settleTime = 10 * time.Millisecond

	// vainTime is how often it is looked whether somebody has used a connection on which waiting
	// was in vain: it has unread data that nobody may read, or a deadline that has passed.
	vainTime = time.Second
)

// Poller watches its members. Each stands for a connection, which the caller knows as a T.
type Poller[T any] struct {
	calls    Calls[T]
	done     chan struct{} // closed by Stop
	readable atomic.Bool   // StartReadable has been called
	stopped  atomic.Bool
	waiters  sync.Pool

	mu       sync.Mutex
	patrols  bool         // the goroutine of patrol runs
	restless []*Member[T] // wait again when they have been left alone
	vain     []*Member[T] // wait again when they have been used
}

// Member is a connection of a Poller. It is made to be a field of a larger struct; the zero value
// is a member of nothing. Its methods may be called by several goroutines, also while it is added;
// before that, they find it to be a member of nothing.
type Member[T any] struct {
	poller  atomic.Pointer[Poller[T]] // set by Add, after the next four
	raw     syscall.RawConn
	value   T
	refused error  // why the system does not watch it; nil if it does
	waiting func() // wait, made once

	failure atomic.Pointer[error] // that has ended the connection; nil if there is none

	mu      sync.Mutex
	removed bool
	parked  bool          // a goroutine waits
	out     chan struct{} // closed when it is out; nil if nobody waits for that
	watched bool          // Ended is to be called
	ended   bool          // Ended has been called, or is about to be
	armed   bool          // Arrived is to be called
	tag     uint32        // with this
	lapses  int8          // how often a deadline has ended the wait since it was asked for

	listed bool // it is among the restless or the vain; guarded by Poller.mu

	// Owned by whoever lists it, and then by patrol.
	mark   uint64 // of its use when it was last looked at
	inVain int    // how often waiting was in vain since that use; 0 if it was not
	skip   int    // so many looks pass before it is tried again
}

// New returns a Poller without members. Its error is [errors.ErrUnsupported], unless [Available].
func New[T any](calls Calls[T]) (*Poller[T], error) {
	if !Available {
		return nil, errors.ErrUnsupported
	}
	return &Poller[T]{calls: calls, done: make(chan struct{}), waiters: sync.Pool{New: newWaiter[T]}}, nil
}

// StartReadable makes Arm work. It does nothing when called again.
func (p *Poller[T]) StartReadable() error {
	if p.stopped.Load() {
		return errStopped
	}
	p.readable.Store(true)
	return nil
}

// Stop ends the calls. It does not wait for a call that is under way. A goroutine that waits on a
// member ends when the connection is closed.
func (p *Poller[T]) Stop() {
	if !p.stopped.Swap(true) {
		close(p.done)
	}
}

// Add makes m, which is a member of nothing, a member that stands for value. Nothing is watched
// yet.
func (p *Poller[T]) Add(m *Member[T], raw syscall.RawConn, value T) {
	m.raw, m.value, m.waiting = raw, value, m.wait
	if err := raw.Control(func(fd uintptr) { m.refused = watchable(fd) }); err != nil {
		m.refused = err
	}
	m.poller.Store(p)
}

// Added reports whether m has been added, though it may have been removed.
func (m *Member[T]) Added() bool { return m.poller.Load() != nil }

// WatchEnd has Ended called at the end of the connection, once, also if it has come already. If
// there is unread data before it, Unread is called first. An error says that nothing is watched:
// the system does not wait for such a descriptor, or m has been removed.
func (m *Member[T]) WatchEnd() error {
	return m.park(func() bool {
		m.watched = true
		return !m.ended
	})
}

// Arm has Arrived called, once and with tag, when the connection can be read from or has come to
// its end, also if that is so already. Arming again before that replaces the tag; of two at the
// same time, either may be the later. An error says that there will be no call: the system does not
// wait for such a descriptor, or m has been removed.
func (m *Member[T]) Arm(tag uint32) error {
	if p := m.poller.Load(); p == nil || !p.readable.Load() {
		return errNotAdded
	}
	return m.park(func() bool {
		m.armed, m.tag = true, tag
		return true
	})
}

// park notes what is asked for, and has a goroutine wait for it if wanted says so, unless one does.
func (m *Member[T]) park(wanted func() bool) error {
	p := m.poller.Load()
	switch {
	case p == nil:
		return errNotAdded
	case m.refused != nil:
		return m.refused
	case p.stopped.Load():
		return errStopped
	}
	m.mu.Lock()
	if m.removed {
		m.mu.Unlock()
		return errNotAdded
	}
	m.lapses = 0
	begins := wanted() && !m.parked
	if begins {
		m.parked = true
	}
	m.mu.Unlock()
	if begins && !p.calls.Start(m.waiting) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.leaveLocked()
		return errStopped
	}
	return nil
}

// Remove ends the watching of m, before its connection is closed; a call that is under way is not
// waited for. A goroutine that waits on it goes on until the connection is closed, has something to
// read, or gets a deadline in the past; see Out. Removing it again, or what was never added, does
// nothing.
func (m *Member[T]) Remove() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.removed = true
}

// Out returns a channel that is closed when no goroutine waits on m.
func (m *Member[T]) Out() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.parked {
		return closedChannel
	}
	if m.out == nil {
		m.out = make(chan struct{})
	}
	return m.out
}

// leaveLocked notes that the goroutine is out.
func (m *Member[T]) leaveLocked() {
	m.parked = false
	if m.out != nil {
		close(m.out)
		m.out = nil
	}
}

// Failure returns the error that the connection has ended with, if the Poller was told of it; the
// system tells it once. It is known here before whoever reads next is told of an EOF.
func (m *Member[T]) Failure() error {
	if p := m.failure.Load(); p != nil {
		return *p
	}
	return nil
}

// state is what can be seen of a socket without reading from it.
type state int8

const (
	silent state = iota // there is nothing to be read
	unread              // something has arrived
	ended               // the peer has sent all that it will send, and it has been read
	failed              // the connection is of no more use
)

// news is what a wait has come to, and who is to be told.
type news struct {
	state   state
	tag     uint32
	arrived bool // Arrived, with the tag
	ended   bool // Ended
	unread  bool // Unread
	goes    bool // it is to be watched further
}

// waiter is what a goroutine that waits needs. It is reused, as there is one for each lease of a
// ready reader.
type waiter[T any] struct {
	m    *Member[T]
	look peeker
	news news
	wait func() error // RawConn.Read
	see  func(fd uintptr) bool
}

func newWaiter[T any]() any {
	w := &waiter[T]{}
	w.see = func(fd uintptr) bool {
		s, err := w.look.peek(fd)
		if s != silent {
			w.news = w.m.found(s, err)
		}
		return s != silent
	}
	w.wait = func() error { return w.m.raw.Read(w.see) }
	return w
}

// wait is the goroutine that waits. What it finds, and what was asked for by then, are noted while
// it has the descriptor's read lock: nobody can read what has arrived before that. Whoever asks for
// something later has another goroutine wait.
func (m *Member[T]) wait() {
	p := m.poller.Load()
	w := p.waiters.Get().(*waiter[T])
	w.m = m
	again := true
	for again {
		w.news, w.look = news{}, peeker{}
		err := caller.Guard("a method of the connection's RawConn", w.wait)
		again = false
		switch {
		case w.news.state != silent:
			m.tell(w.news)
		case errors.Is(err, os.ErrDeadlineExceeded):
			watch := false
			if again, watch = m.lapsed(); watch {
				p.rest(m, true)
			}
		case errors.Is(err, net.ErrClosed), isErrno(err):
			m.tell(m.found(failed, err))
		default: // a RawConn of a type that nobody knows
			m.unwatched()
		}
	}
	w.m = nil
	p.waiters.Put(w)
}

// found ends a wait that has come to something.
func (m *Member[T]) found(s state, err error) news {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.leaveLocked()
	if err != nil {
		m.failure.CompareAndSwap(nil, &err)
	}
	n := news{state: s, tag: m.tag}
	if m.removed || m.poller.Load().stopped.Load() {
		return n
	}
	n.arrived = m.armed
	n.ended = s != unread && m.watched && !m.ended
	n.unread = s == unread && m.watched && !m.armed
	n.goes = s == unread && m.watched
	m.armed, m.ended = false, m.ended || n.ended
	return n
}

// lapsed is called when a deadline has ended a wait, and reports whether to wait again, now or later.
// That may have been the deadline of a lease that has ended meanwhile; then the second wait goes on.
// If it does not, the connection is being used, and whoever uses it arms it again afterwards.
func (m *Member[T]) lapsed() (again, later bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lapses++
	if m.lapses == 1 && !m.removed {
		return true, false
	}
	m.armed = false
	m.leaveLocked()
	return false, m.watched && !m.removed
}

// unwatched is called when the descriptor cannot be waited for.
func (m *Member[T]) unwatched() {
	m.mu.Lock()
	armed := m.armed && !m.removed
	m.armed = false
	m.leaveLocked()
	m.mu.Unlock()
	if armed {
		m.poller.Load().calls.Unwatched(m.value)
	}
}

// tell makes the calls for what a wait has come to.
func (m *Member[T]) tell(n news) {
	p := m.poller.Load()
	if n.ended {
		p.calls.Ended(m.value, n.state == failed)
	}
	if n.arrived {
		p.calls.Arrived(m.value, n.tag)
	}
	switch {
	case !n.goes:
	case n.unread && p.calls.Unread(m.value):
		_ = m.WatchEnd()
	default:
		p.rest(m, n.unread)
	}
}

// rest has m watched again when it has been left alone for a while; and if waiting was in vain, not
// before it has been used.
func (p *Poller[T]) rest(m *Member[T], inVain bool) {
	mark, _ := p.calls.Use(m.value)
	p.mu.Lock()
	begins := false
	if !m.listed && !p.stopped.Load() {
		m.listed = true
		if inVain && m.mark == mark {
			m.inVain++
		} else if m.mark, m.inVain = mark, 1; !inVain {
			m.mark, m.inVain = ^mark, 0 // from the next look on
		}
		m.skip = min(1<<min(m.inVain, 10), int(vainTime/settleTime))
		p.restless = append(p.restless, m)
		begins = !p.patrols
		p.patrols = true
	}
	p.mu.Unlock()
	if begins {
		p.calls.Start(p.patrol)
	}
}

// patrol is a goroutine that looks at the restless every settleTime. It ends when there are none
// left, so that a pool that nobody uses costs nothing.
func (p *Poller[T]) patrol() {
	timer := time.NewTimer(settleTime)
	defer timer.Stop()
	looked := time.Now() // at the vain
	for {
		select {
		case <-timer.C:
		case <-p.done:
			return
		}
		now := time.Now()
		late := now.Sub(looked) >= vainTime
		if late {
			looked = now
		}
		next := p.look(late)
		if next == 0 {
			return
		}
		timer.Reset(next)
	}
}

// look has those wait again that have been left alone. It returns when to look again, 0 if there is
// nothing left to look at.
func (p *Poller[T]) look(atVain bool) time.Duration {
	p.mu.Lock()
	list := p.restless
	p.restless = nil
	if atVain {
		list = append(list, p.vain...)
		p.vain = nil
	}
	p.mu.Unlock()

	var keep, vain, alone []*Member[T]
	for _, m := range list {
		mark, now := p.calls.Use(m.value)
		switch {
		case now == Busy || mark != m.mark:
			m.mark, m.inVain = mark, 0
			keep = append(keep, m)
		case m.inVain > 0 && now == Idle:
			vain = append(vain, m)
		case m.inVain > 0 && m.skip > 0: // who has it may have read meanwhile, which leaves no mark
			m.skip--
			keep = append(keep, m)
		default:
			alone = append(alone, m)
		}
	}

	p.mu.Lock()
	for _, m := range alone {
		m.listed = false
	}
	p.restless = append(p.restless, keep...)
	p.vain = append(p.vain, vain...)
	next := time.Duration(0)
	switch {
	case len(p.restless) > 0 || len(alone) > 0: // some of which may be here again soon
		next = settleTime
	case len(p.vain) > 0:
		next = vainTime
	default:
		p.patrols = false
	}
	p.mu.Unlock()

	for _, m := range alone {
		_ = m.WatchEnd() // an error says that it has been removed
	}
	return next
}
