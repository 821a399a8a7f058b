package plex

// What the poller tells: that the peer has ended a connection, or that something has arrived. Plan
// 9 has no poller: there an end is seen by whoever uses the connection next.

import (
	"fmt"
	"net"
	"sync"
	"time"

	"go.atomizer.io/plex/internal/poll"
)

// checkInterval is how often it is checked whether somebody else has closed a connection.
const checkInterval = time.Second

// watcher is the multiplexer's poller.
type watcher struct {
	m    *Multiplexer
	done chan struct{} // closed by stop

	mu       sync.Mutex
	poller   *poll.Poller[*conn] // nil before the first connection that it can watch
	readable bool                // what arrives is of interest
	checks   bool                // it is checked whether transports have been closed by somebody else
	stopped  bool
}

func newWatcher(m *Multiplexer) *watcher {
	return &watcher{m: m, done: make(chan struct{}), readable: m.cfg.quietIdle}
}

// watch begins to watch a connection that has just been admitted.
func (w *watcher) watch(c *conn) {
	if !poll.Available || !c.socket.Exists() {
		return
	}
	if err := w.add(c); err != nil && err != ErrClosed {
		w.m.news.warn("plex: idle connections are not watched", "addr", addrOf(c.remote), "cause", err)
		if c.attention != blind {
			c.attention = parked
		}
	}
}

// add makes c a member of the poller, and has it watched for its end. A datagram socket has none.
func (w *watcher) add(c *conn) error {
	p, err := w.thePoller()
	if err != nil {
		return err
	}
	p.Add(&c.member, c.socket.Raw(), c)
	w.startChecking()
	if !c.kind.Connectionless() {
		_ = c.member.WatchEnd() // it fails if c is closed already, or its end shows when it is used
	}
	w.m.mu.Lock()
	late := c.life.phase >= phaseClosing // and may have been removed before it was added
	w.m.mu.Unlock()
	if late {
		c.member.Remove()
	}
	return nil
}

// thePoller returns the poller, which begins with the first connection that it can watch.
func (w *watcher) thePoller() (*poll.Poller[*conn], error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.stopped:
		return nil, ErrClosed
	case w.poller != nil:
		return w.poller, nil
	}
	p, err := poll.New(poll.Calls[*conn]{
		Start:     w.m.tasks.start,
		Ended:     w.ended,
		Arrived:   (*conn).arrived,
		Use:       (*conn).use,
		Unread:    (*conn).unread,
		Unwatched: (*conn).parkSoon,
	})
	if err != nil {
		return nil, err
	}
	if w.readable {
		if err := p.StartReadable(); err != nil {
			p.Stop()
			return nil, err
		}
	}
	w.poller = p
	return p, nil
}

// startReadable has the poller tell what arrives, too.
func (w *watcher) startReadable() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return ErrClosed
	}
	if w.poller != nil {
		if err := w.poller.StartReadable(); err != nil {
			return fmt.Errorf("plex: watching for what arrives: %w", err)
		}
	}
	w.readable = true
	return nil
}

// ended is called by the poller. A connection gets a goroutine of its own for its end, so that
// nothing about one connection delays another.
func (w *watcher) ended(c *conn, reset bool) {
	w.m.tasks.start(func() { c.noticed(reset) })
}

// stop ends the watcher's goroutines.
func (w *watcher) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return
	}
	w.stopped = true
	close(w.done)
	if w.poller != nil {
		w.poller.Stop()
	}
}

// noticed is called when the peer has ended the connection, or reset it.
func (c *conn) noticed(reset bool) {
	m := c.m
	m.beginLook() // what is left is not overlooked when the connection does not count any more
	defer m.endLook()
	c.peerNoticed()
	reset = reset || c.wasReset()
	left := !reset && c.leave(whyLost)
	c.w.retire()
	c.inspect() // which may find why: a TLS alert, or a last line
	if left {
		c.noteLoss(errPeerClosed)
	}
	if reset && c.failure() == nil {
		// A consumer has the read half and may still read what had arrived; then it finds the
		// error. A consumer that does not read must not keep the slot.
		time.AfterFunc(resetGrace, func() { c.fail(c.resetCause()) })
	}
}

// startChecking starts the goroutine that checks whether somebody else in this process has closed a
// transport. The kernel tells nothing of that.
func (w *watcher) startChecking() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.checks && !w.stopped {
		done := w.done
		w.checks = w.m.tasks.start(func() { w.check(done) })
	}
}

func (w *watcher) check(done <-chan struct{}) {
	ticker := time.NewTicker(checkInterval)
	defer ticker.Stop()
	var conns []*conn
	for {
		select {
		case <-ticker.C:
		case <-done:
			return
		}
		conns = w.m.roster.appendTo(conns[:0])
		for _, c := range conns {
			if c.socket.Closed() && c.isOpen() { // in this order: plex does not close what is in service
				c.fail(errClosedElsewhere)
			}
		}
		clear(conns)
	}
}

var errClosedElsewhere = fmt.Errorf("plex: somebody else has closed the connection: %w", net.ErrClosed)

// use is for a poller that waits only on connections that are left alone: the word of the read half
// changes with every lease, and with every hold.
func (c *conn) use() (mark uint64, now poll.Usage) {
	w := c.r.word()
	switch {
	case w.is(leaseBusy | poolHeld):
		now = poll.Busy
	case w.is(leaseLive):
		now = poll.Leased
	}
	return uint64(w), now
}

// unread is called by a poller that does not see the peer's end behind what has arrived. It reads
// what has arrived, for the next lease, and reports whether it has.
func (c *conn) unread() bool {
	if c.m.reading.Load() == readsReady || c.attention == blind {
		return false // it is listed, and whoever comes for it reads it; or a Read could not be ended
	}
	return c.fetchIdle()
}

// leaveAlone ends the poller's business with a connection that is taken out of the pool, with its
// transport open.
func (c *conn) leaveAlone() {
	c.member.Remove()
	select {
	case <-c.member.Out():
		return
	default:
	}
	if guardDeadline(c.nc.SetReadDeadline, longAgo) == nil { // which the poller's goroutine heeds
		late := time.NewTimer(interruptGrace)
		defer late.Stop()
		select {
		case <-c.member.Out():
		case <-late.C:
		}
		_ = guardDeadline(c.nc.SetReadDeadline, time.Time{})
	}
}
