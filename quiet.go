package plex

// WithQuietIdle: where only requests are answered, what comes unasked is the reply to a request that
// somebody has given up, and whoever asks next would take it for its own. It is looked for when a
// Duplex ends and before one begins. In between, the read half is attended to as it is for ready
// readers, whatever the way in which read halves are asked for.

import (
	"fmt"
	"time"
)

// expectsNothing reports whether bytes that come now, while nobody has a lease, are unasked for.
func (c *conn) expectsNothing() bool { return c.m.cfg.quietIdle && c.isFree() }

// failUnasked fails a connection on which something unasked for has been read. The caller owns the
// read half; whole says that it has the write half, too.
func (c *conn) failUnasked(whole bool) {
	if !c.expectsNothing() || len(c.r.back) == 0 || !whole && c.w.word().is(leaseLive) || !c.isOpen() {
		return
	}
	said := c.r.back[0]
	c.fail(fmt.Errorf("%w: %d bytes, %q", ErrOutOfStep, c.r.leftOver(), said[:min(len(said), lastWords)]))
}

// examineUnread reads what has arrived. A look is short, so it is repeated if its time was over
// before the Read got to run.
func (h *half) examineUnread(leaseEnds bool) error {
	c := h.conn
	for wait := glanceTime; ; wait *= 2 {
		began := time.Now()
		until := began.Add(wait)
		unread, known := c.socket.Unread()
		if known && unread == 0 {
			if c.attention != inside {
				return nil
			}
			until = longAgo
		}
		err := h.examine(until, 0, leaseEnds)
		var ran bool
		switch {
		case !known:
			ran = time.Since(began) < 2*wait
		case unread == 0:
			ran = true
		default:
			left, _ := c.socket.Unread()
			ran = left < unread
		}
		if ran || err != nil || len(h.back) > 0 || wait > remainsTime {
			return err
		}
	}
}

// wholeNow leases the read half to a caller who has the write half, if it is idle and nothing has
// come unasked.
func (c *conn) wholeNow() (word, bool) {
	if c.m.cfg.quietIdle {
		c.lookUnasked()
	}
	rid, ok := c.r.leaseNow(true)
	return rid, ok && c.inStep(rid)
}

// lookUnasked looks for what has come unasked since the connection was in use, on behalf of a caller
// who has the write half.
func (c *conn) lookUnasked() {
	h := &c.r
	switch c.attention {
	case parked, blind:
		return // somebody reads while the connection is idle
	case armed:
		if n, known := c.socket.Unread(); known && n == 0 {
			return // which is all that there can be
		}
	}
	if h.word().is(dataLeft|connEnded) || !h.hold() {
		return
	}
	c.whileHeld(func() arrival {
		if err := h.examineUnread(false); err != nil {
			h.lookFailed(err)
		}
		c.failUnasked(true)
		return c.afterLook(fromHold)
	})
}

// inStep reports whether a whole connection that has just been leased has nothing left to be read
// that nobody has asked for. Otherwise the lease of the read half ends, and the connection with it.
func (c *conn) inStep(rid word) bool {
	if !c.m.cfg.quietIdle || !c.r.word().is(dataLeft) {
		return true
	}
	c.failUnasked(true)
	_ = c.r.close(rid)
	return false
}

// closeWhole is close for the read half of a whole connection that must leave nothing unread.
func (h *half) closeWhole(id word) error {
	h.mu.Lock()
	if h.live(id) {
		h.whole = id
	}
	h.mu.Unlock()
	return h.closeSlow(id)
}

// endsWhole reports whether the lease that is ending is that of a whole connection that must leave
// nothing unread.
func (h *half) endsWhole(w word) bool {
	if !h.queue.attended {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.whole == w.lease()
}
