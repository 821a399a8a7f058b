package plex

// Ready readers: a second way to lease read halves, for callers that want
// whichever has something to deliver. The first caller of ReadyReader turns
// attention on, for good: from then on each read half that becomes idle is
// attended until it has something, and is then put into the ready queue.
//
// A half in the ready queue is still idle and in the readers' queue, so that
// plain readers, the auto-scaler and the healer deal with it as ever. Three
// flags of its word keep the two ways apart:
//
//	queued  it is in the ready queue, once
//	fresh   something has come since the last lease ended, and nobody has had it
//	held    with leased: it is lent, leased by the ready queue; its entry in the
//	        readers' queue is dropped by whoever comes upon it, as with any hold
//
// Nothing is overlooked, because the end of every lease and of every hold
// attends to the half anew, when it is idle: it looks first at what is
// there and then waits for more, in one step (an armed epoll reports what is
// there already). And nothing is delivered that is not there: any lease takes
// the fresh flag away, and an event that was armed before it is told by its
// number.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// attention says how plex comes to know that a connection has something to
// deliver.
type attention int8

const (
	armed  attention = iota // the kernel tells, and its bytes are all there is: TCP, UDP, Unix
	inside                  // the kernel tells, but there can be bytes inside the transport, or too few to deliver any: TLS and unknown types
	polled                  // nobody tells, so it is looked at from time to time
	blind                   // it cannot be looked at either, as it refuses deadlines: it counts as ready whenever it is idle
)

// ReadyReader leases the read half of whichever idle connection has something to
// deliver: bytes that have arrived, bytes that an earlier lease has left over, or
// an end, which the first Read returns. So a few goroutines can serve any number
// of connections, those that healing and scaling add later as well, and no reply
// waits on a connection that nobody reads.
//
// Callers are served first come, first served, and so are connections: one that
// always has something goes to the end of the line when its lease ends. ctx and
// timeout are as in [Multiplexer.Reader], and so are the errors; with a connector
// a caller goes on waiting while no connection is open. Waiting here is no reason
// to add a connection, and no part of the figures of [Stats] but WaitingReady.
//
// On Linux the kernel tells what arrives, for TCP, UDP and Unix sockets, and for
// TLS and whatever else shows the socket beneath it (by SyscallConn, or NetConn as
// *tls.Conn does); no connection has a goroutine. Elsewhere, and for connections
// without a socket, such as a [net.Pipe], one goroutine for each connection looks at it, at
// most 20 ms apart. One that refuses deadlines cannot be looked at: its lease is
// given out when it is idle, and its Read may block.
//
// Reader and ReadyReader can be used side by side, but seldom should be. Whoever
// holds a lease gets what arrives. And as long as callers of Reader wait, who take
// any half, each half that is freed goes to them.
func (m *Multiplexer) ReadyReader(ctx context.Context, timeout time.Duration) (Reader, error) {
	if ctx == nil {
		return Reader{}, errNilContext("ReadyReader")
	}
	if !m.attending.Load() {
		if err := m.startAttending(); err != nil {
			return Reader{}, m.acquireFailed(&m.ready, 0, err)
		}
	}
	h, lease, err := m.acquireSlow(ctx, timeout, &m.ready)
	if err == nil && m.tracks {
		h.remember(lease)
	}
	return Reader{h, lease}, err
}

// startAttending turns attention on, once.
func (m *Multiplexer) startAttending() error {
	m.mu.Lock()
	if m.attending.Load() {
		m.mu.Unlock()
		return nil
	}
	if m.ready.idle == nil {
		m.ready.init("ready reader", m.capacity, attendedRemains)
		m.ready.lends = true
		if m.hopelessLocked() != nil {
			m.ready.token = true
			m.ready.put(nil)
		}
	}
	if m.watcher != nil {
		if err := m.watcher.attendLocked(); err != nil {
			m.mu.Unlock()
			return fmt.Errorf("watching for what arrives: %w", err)
		}
	}
	all := make([]*conn, 0, len(m.conns))
	for c := range m.conns {
		if c.admitted {
			all = append(all, c)
		}
	}
	// From here on admit sees to those that come.
	m.attending.Store(true)
	m.mu.Unlock()
	for _, c := range all {
		c.startAttention()
	}
	return nil
}

// startAttention makes a read half one that is attended. It is idle now, or
// the end of its lease or hold finds the flag.
func (c *conn) startAttention() {
	if c.attention == armed || c.attention == inside {
		if err := c.makeKnown(); err != nil {
			if err != ErrClosed {
				c.m.log("plex: what arrives is looked for from time to time", "addr", text(c.remote), "cause", err)
			}
			c.attention = polled
		}
	}
	h := &c.r
	if w := h.state.Or(attended); w&(leased|held|gone|attended) == 0 {
		h.attend(w&^flags, false)
	}
}

// attend is called when a read half has become idle, after the lease, or the
// hold, with the number lease; looked says that nothing is left inside the transport.
// It may come late, when there have been other leases since; see arrived.
func (h *half) attend(lease uint64, looked bool) {
	c := h.conn
	switch w := h.state.Load(); {
	case w&(backlog|ending) != 0 || c.attention == blind:
		h.becomeReady(uint32(lease / leaseOne))
	case c.attention == polled:
		c.pollSoon()
	case c.attention == inside && !looked:
		c.m.spawn(c.glance) // whose end comes back here
	default:
		if err := c.arm(lease); err != nil {
			c.pollSoon() // the kernel has no room, or does not watch such a descriptor
		}
	}
}

// arrived is called by the watcher when c can be read from.
func (c *conn) arrived(lease uint32) {
	if c.attention == inside {
		c.m.spawn(c.glance) // what has arrived may be too little to deliver anything
		return
	}
	h := &c.r
	h.becomeReady(lease)
	// What was armed after an earlier lease may have taken the place of what was
	// armed after the last, if the end of that one overtook the end of the earlier.
	// Only a half that is idle is seen to here: the end of a lease or a hold arms anew.
	if w := h.state.Load(); w&(leased|held|gone) == 0 && uint32(w/leaseOne) != lease {
		h.attend(w&^flags, true)
	}
}

// becomeReady puts an idle half into the ready queue, unless it is there, or has
// been leased after the lease that number is the lower part of.
func (h *half) becomeReady(number uint32) {
	// Not before it is clear that no plain reader has it, or a ready reader would
	// lose its place in the line for nothing. The end of a lease does not wait for that.
	if !h.yieldToWaiter() {
		h.conn.m.spawn(func() {
			h.deferToWaiter()
			h.becomeReady(number)
		})
		return
	}
	for {
		w := h.state.Load()
		if w&(leased|gone) != 0 || uint32(w/leaseOne) != number || w&(fresh|queued) == fresh|queued {
			return
		}
		if h.state.CompareAndSwap(w, w|fresh|queued) {
			if w&queued == 0 {
				h.conn.m.ready.put(h)
			}
			return
		}
	}
}

// lend leases a half that has come out of the ready queue. It reports false if
// there is nothing to deliver any more, or somebody else has the half: then what
// is to be done is done when that ends. Locked says that the caller has
// Multiplexer.mu.
func (h *half) lend(locked bool) (id uint64, ok bool) {
	if locked {
		_ = h.yieldToWaiter()
	} else {
		h.deferToWaiter()
	}
	h.state.And(^uint64(queued))
	for {
		w := h.state.Load()
		if w&(leased|held|gone) != 0 || w&fresh == 0 {
			return 0, false
		}
		next := w&^fresh + leaseOne | lent
		if h.state.CompareAndSwap(w, next) {
			h.queue.stale.Add(1) // its entry in the readers' queue
			h.queue.noteLow()
			return next &^ flags, true
		}
	}
}

// peek fetches what the transport has inside itself, without waiting for more.
// The lease is ending and nobody busy; clear sets the deadline back. If it has
// found the end, a look has begun, which is to end when the half is idle.
func (h *half) peek() (looking bool) {
	w := h.state.Load()
	if w&attended == 0 || w&gone != 0 || h.conn.attention != inside || len(h.back) > 0 || h.ended {
		return false
	}
	h.mu.Lock()
	h.calmLocked()
	h.state.Or(deadline)
	err := h.setDeadline(longAgo)
	h.mu.Unlock()
	if err == nil {
		err = h.fetch()
	}
	if err == nil || isClosed(err) || errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	h.conn.m.beginLook()
	h.lookFailed(err)
	return true
}

// fetch reads once into back. The caller owns the half.
func (h *half) fetch() error {
	h.looked = true
	buf := byteBuffers.Get().(*[byteBuffer]byte)
	defer byteBuffers.Put(buf)
	if !h.conn.tls { // crypto/tls heeds deadlines
		v := &vigil{h: h}
		defer v.end(time.AfterFunc(interruptGrace, v.look))
	}
	n, err := h.conn.nc.Read(buf[:])
	if n > 0 || err == nil && h.conn.datagram {
		h.back = append(h.back, append([]byte{}, buf[:n]...))
	}
	h.noteBacklog()
	return err
}

// vigil is kept while plex reads from a transport of which it does not know
// whether it heeds its deadline. One that does not is closed, as the only way, if
// a lease cannot end because of it, or it is of no more use; else there is no
// harm in it: what it has been waiting for is something to deliver.
type vigil struct {
	h    *half
	over atomic.Bool
}

func (v *vigil) look() {
	switch w := v.h.state.Load(); {
	case v.over.Load():
	case w&gone != 0:
		v.h.conn.fail(ErrClosed)
	case w&leased != 0:
		v.h.conn.fail(errUninterruptible)
	default:
		time.AfterFunc(interruptGrace, v.look)
	}
}

func (v *vigil) end(first *time.Timer) {
	v.over.Store(true)
	first.Stop()
}

// lookFailed acts on an error of a Read of plex's own. What had arrived before is
// still delivered, and where somebody may ask for ready readers, so is the end.
func (h *half) lookFailed(err error) {
	tell := h.state.Load()&attended != 0
	if (len(h.back) > 0 || tell) && h.verdict(err) == fatal {
		h.ended = true
		h.state.Or(ending)
		h.conn.kept.Store(true)
		h.conn.fail(err)
	} else {
		_ = h.failedOperation(err) // it acts on it; there is nobody to tell yet
	}
	h.untold = h.ended && tell
}

// undelivered reports whether a read half has something that a ready reader will
// come for, so that it should not be retired now for want of use, or for its age.
func (h *half) undelivered() bool {
	w := h.state.Load()
	return w&backlog != 0 || w&(attended|fresh) == attended|fresh
}

// over reports whether a read half that plex holds has nothing to be leased for.
func (h *half) over() bool {
	return h.ended && len(h.back) == 0 && h.state.Load()&attended == 0
}

// attentionOf says how a transport can be attended to. Deadlines says whether it
// has them.
func attentionOf(c *conn, deadlines bool) attention {
	switch {
	case !arms || c.socket == nil:
		if !deadlines {
			return blind
		}
		return polled
	default:
		switch c.nc.(type) {
		case *net.TCPConn, *net.UnixConn, *net.UDPConn, *net.IPConn:
			return armed
		}
		if !deadlines {
			return blind
		}
		return inside
	}
}

const (
	pollShort = time.Millisecond      // the pause after something has happened
	pollLong  = 20 * time.Millisecond // the pause after a while of nothing
)

// pollSoon has a connection be looked at again soon.
func (c *conn) pollSoon() {
	c.m.mu.Lock()
	poll := c.pollWake
	if poll == nil {
		poll = make(chan struct{}, 1)
		c.pollWake = poll
		c.m.mu.Unlock()
		c.m.spawn(func() { c.poll(poll) })
		return
	}
	c.m.mu.Unlock()
	select {
	case poll <- struct{}{}:
	default:
	}
}

// poll looks at a connection whenever it is idle and has nothing to deliver yet,
// until its read half is gone.
func (c *conn) poll(wake <-chan struct{}) {
	pause := pollShort
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		var later <-chan time.Time
		switch w := c.r.state.Load(); {
		case w&gone != 0:
			return
		case w&(leased|backlog|ending) != 0: // wakes when that has changed
		default:
			c.glance()
			select {
			case <-wake: // by the end of the glance itself
			default:
			}
			timer.Reset(pause)
			later = timer.C
		}
		select {
		case <-later:
			pause = min(2*pause, pollLong)
		case <-wake:
			pause = pollShort
		case <-c.m.closing:
			return
		}
	}
}
