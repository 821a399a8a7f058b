package plex

// Parking: where nobody tells what arrives, a goroutine of the connection's own sits in a Read of
// its idle read half, which costs nothing while nothing arrives. The half is held meanwhile.
// Whoever needs it gets it by take, which interrupts the Read.

import "sync"

// parking is the state of a half whose connection has such a goroutine. The half is held, or let
// go, in the same moment as in changes, so that whoever finds it held and not in may go away: the
// goroutine is out of its Read, and looks next at what the connection is needed for.
type parking struct {
	mu   sync.Mutex
	in   bool   // the goroutine is in its Read, or about to be
	next func() // has asked for the half and is called with it, held; nil if nobody has
}

// parkSoon has a connection's goroutine go back to its Read. The first time starts it.
func (c *conn) parkSoon() {
	c.m.mu.Lock()
	wake := c.parkWake
	if wake == nil {
		wake = make(chan struct{}, 1)
		c.parkWake = wake
		c.m.mu.Unlock()
		c.m.tasks.start(func() { c.keepParked(wake) })
		return
	}
	c.m.mu.Unlock()
	wakeUp(wake)
}

// wakeUp sends on a channel that holds one, unless it is full.
func wakeUp(wake chan<- struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

// parkedBuffer is how much is read at first of what arrives. The lease that comes for it reads the
// rest.
const parkedBuffer = 512

// keepParked reads whenever the read half is idle and has nothing to deliver yet, until it is
// retired.
func (c *conn) keepParked(wake <-chan struct{}) {
	buf := make([]byte, parkedBuffer)
	if c.kind.Datagram() {
		pooled := c.buffers().Get().(*[]byte)
		defer c.buffers().Put(pooled)
		buf = *pooled
	}
	for {
		switch w := c.r.word(); {
		case w.over():
			return
		case w.is(dataLeft | connEnded | poolListed): // there is something to be leased
		case c.r.beginParking():
			c.park(buf)
			continue
		}
		select {
		case <-wake: // something has changed
		case <-c.m.tasks.closing:
			return
		}
	}
}

// beginParking holds the half, if it is idle.
func (h *half) beginParking() bool {
	p := &h.parking
	p.mu.Lock()
	defer p.mu.Unlock()
	p.in = h.hold()
	return p.in
}

// park reads until something has arrived, or somebody needs the half.
func (c *conn) park(buf []byte) {
	var err error
	defer func() { c.unpark(err) }() // also if the transport ends the goroutine
	err = c.r.readParked(buf)
}

// unpark acts on what the Read has brought, and passes the half on.
func (c *conn) unpark(err error) {
	h := &c.r
	c.m.beginLook() // what has been read is not overlooked before the half is back
	defer c.m.endLook()
	next, interrupted := h.endParking()
	if err != nil && !(interrupted && h.operation().missed(err)) {
		h.lookFailed(err)
	}
	switch {
	case next != nil:
		next()
	case h.word().is(connDue) || c.w.word().is(poolRetired) && c.drained():
		c.lookDue(h)
	default:
		h.arrive(c.afterLook(fromHold))
	}
}

// endParking says who has asked for the half, and whether the Read has been interrupted, which it
// takes back.
func (h *half) endParking() (next func(), interrupted bool) {
	p := &h.parking
	p.mu.Lock()
	next = p.next
	p.in, p.next = false, nil
	p.mu.Unlock()

	h.mu.Lock()
	interrupted = h.deadlines.force.Load() != nil
	err := h.deadlines.clear(h, interrupted)
	h.mu.Unlock()
	if !h.word().is(poolRetired) {
		h.deadlineLeft(err)
	}
	return next, interrupted
}

// take has f called with the half held: at once if the half is idle, and soon, in another
// goroutine, if it is parked. It reports false if neither is so; f is not called then.
func (h *half) take(f func()) bool {
	p := &h.parking
	p.mu.Lock()
	if h.hold() {
		p.mu.Unlock()
		f()
		return true
	}
	defer p.mu.Unlock()
	if !p.in || p.next != nil {
		return false
	}
	p.next = f
	h.interruptParked()
	return true
}

// leaveParking has a half that is retired come out of its Read.
func (h *half) leaveParking() {
	p := &h.parking
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.in {
		h.interruptParked()
	}
}

// interruptParked interrupts the Read in a goroutine, because a transport may take long to set a
// deadline. If that comes too late, and interrupts the next Read, that begins again.
func (h *half) interruptParked() {
	c := h.conn
	c.m.tasks.startForeign(transportTask, func() {
		if c.attention == blind {
			c.sayGoodbye()                                 // nothing but its end can interrupt it
			c.m.tasks.after(c.m.cfg.linger.Get(), c.hurry) // Close ends it by itself
			return
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.isParked() {
			h.deadlines.interrupt(parkedHalf{h})
		}
	})
}

// hurry ends a parked connection that refuses deadlines, when its peer has not ended it for the
// linger.
func (c *conn) hurry() {
	if c.r.isParked() {
		parkedHalf{&c.r}.stuck()
	}
}

// parkedHalf is a half that is parked, for its deadlines.
type parkedHalf struct{ *half }

// stuck closes a connection whose transport does not heed the deadline. At the multiplexer's end
// that is no loss.
func (h parkedHalf) stuck() {
	if !h.word().is(poolRetired) {
		h.half.stuck()
		return
	}
	h.conn.fail(ErrClosed)
	h.conn.shut() // if it is being closed, that waits for the Read
}

// isParked reports whether the goroutine is in its Read.
func (h *half) isParked() bool {
	p := &h.parking
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.in
}
