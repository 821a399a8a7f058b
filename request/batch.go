package request

// Gathering: what callers ask at the same time is written together. A batch is what one Write
// carries. The table's mutex guards everything here.
//
//	gather ─▶ queue of batches ─▶ take ─▶ one Write, under no lock ─▶ settle
//	             │                          │
//	             ▼ cutOut                   ▼ reply, giveUp, the end of the connection
//
// Where a call is follows from its batch: gathered while the batch is in the queue, given to a
// connection from then on. The calls of a batch are a piece of their connection's list, in the
// order of their frames, because take hangs them in as they are. So a connection's list always has
// the order of the bytes on the wire.

import "time"

const (
	// largeFrame is the size in bytes from which on a frame is not copied: it is a batch of its
	// own. To copy it would hold the table's mutex for as long, and a Write that carries so much
	// has little to gain from company. Package net can write from several buffers at once, but a
	// lease has one Write, like any net.Conn.
	largeFrame = 8 << 10

	// keptBatches is how many batches are kept for reuse.
	keptBatches = 256

	// keptBuffers is how many of their buffers are kept: one is gathered into while another is
	// being written.
	keptBuffers = 2
)

// batch is the requests that one Write carries. It exists until the last of them has ended.
type batch[R any] struct {
	next   *batch[R] // in the queue
	prev   *batch[R]
	on     *link[R] // the connection that it was given to; nil while it is in the queue
	calls  list[R]  // while it is in the queue; then its link has them
	live   int      // calls that are in it
	frames []byte
	cut    int      // bytes of frames that belong to requests given up
	own    *scratch // the memory of its only frame; nil if frames are gathered
}

// scratch is memory that requests are encoded into.
type scratch struct{ data []byte }

// gathering is what is to be written, and who does it.
//
// At most one flusher leads: it takes one batch after the other. There is a leader whenever there
// is something in the queue. If its Write lasts for long, it loses the lead, and another one
// begins. A flusher that does not lead any more takes one batch at most, if it has not yet taken
// one.
type gathering[R any] struct {
	most  int // bytes in a batch
	large int // bytes in a frame from which on it is not copied

	first, last *batch[R]
	leader      uint64 // the number of the flusher that leads; 0 if none does
	leaders     uint64 // the latest number
	total       uint64 // requests that were ever gathered

	busy    []*flusher[R] // that write
	watcher *time.Timer   // looks after them
	soon    bool          // it fires within writePatience
	serial  uint64        // of the latest Write

	stop    func()        // ends the leader's wait for a connection; nil while it does not wait
	waiting time.Duration // since when it waits, on the table's clock

	yielding
	batches []*batch[R] // spare ones
	buffers [][]byte
}

// role is the lead, as it is given to a flusher. The zero role is none.
type role struct {
	number uint64
	yield  bool   // let others run before you write
	total  uint64 // of requests gathered when it was given
}

// gather adds the frame of a call to what is to be written next. If it returns a role, nobody
// leads, and the caller must. taken says that the memory s now belongs to the batch. If the client
// has been closed, nothing is added, and done tells.
func (t *table[R]) gather(c *call[R], frame []byte, s *scratch) (r role, taken bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.state == idle {
		t.stats.Requests++
		if t.closed != nil {
			t.failLocked(c, false, new(list[R]))
			c.err = t.closed
			c.done <- loss
			return role{}, false
		}
		t.calls[c.id] = c
	} else if c.state != admitted {
		return role{}, false
	}
	b := t.last
	if taken = len(frame) > t.large; taken {
		b = t.appendLocked()
		b.frames, b.own = frame, s
		c.begin, c.size = 0, 0
	} else {
		if b == nil || b.own != nil || len(b.frames)+len(frame) > t.most {
			b = t.appendLocked()
			b.frames = t.bufferLocked()
		}
		c.begin, c.size = int32(len(b.frames)), int32(len(frame))
		b.frames = append(b.frames, frame...)
	}
	b.calls.push(c)
	b.live++
	t.total++
	c.state, c.in, c.unsent, c.since = flying, b, false, 0
	if t.stop != nil {
		c.since = t.clock()
	}
	if t.leader == 0 || t.alone() && t.stop == nil {
		r = t.leadLocked()
	}
	return r, taken
}

// alone reports whether each caller writes for itself. Then the latest of them leads.
func (t *table[R]) alone() bool { return t.most == 0 || t.slow }

// leadLocked gives the lead to a new flusher.
func (t *table[R]) leadLocked() role {
	t.leaders++
	t.leader = t.leaders
	return t.goOnLocked()
}

// goOnLocked is the role of the flusher that leads. A lone caller has nobody to wait for, so it
// does not yield.
func (t *table[R]) goOnLocked() role {
	yield := t.most > 0 && (t.crowd || t.inFlightLocked() > 1) && t.due()
	return role{number: t.leader, yield: yield, total: t.total}
}

// appendLocked adds an empty batch to the queue.
func (t *table[R]) appendLocked() *batch[R] {
	b := t.batchLocked()
	if b.prev = t.last; b.prev == nil {
		t.first = b
	} else {
		b.prev.next = b
	}
	t.last = b
	return b
}

// batchLocked returns an empty batch.
func (t *table[R]) batchLocked() *batch[R] {
	n := len(t.batches)
	if n == 0 {
		return new(batch[R])
	}
	b := t.batches[n-1]
	t.batches = t.batches[:n-1]
	return b
}

// leaveLocked takes a batch out of the queue.
func (t *table[R]) leaveLocked(b *batch[R]) {
	if b.prev == nil {
		t.first = b.next
	} else {
		b.prev.next = b.next
	}
	if b.next == nil {
		t.last = b.prev
	} else {
		b.next.prev = b.prev
	}
	b.next, b.prev = nil, nil
}

// bufferLocked returns an empty buffer.
func (t *table[R]) bufferLocked() []byte {
	n := len(t.buffers)
	if n == 0 {
		return nil
	}
	b := t.buffers[n-1]
	t.buffers = t.buffers[:n-1]
	return b
}

// cutOutLocked takes a call out of its batch, which nobody has taken yet.
func (t *table[R]) cutOutLocked(c *call[R]) {
	b := c.in
	b.calls.remove(c)
	b.cut += int(c.size)
	if b.cut > len(b.frames)/2 && b.own == nil {
		b.compact()
	}
	t.partLocked(c)
	if b.live > 0 {
		return
	}
	t.leaveLocked(b)
	t.writtenLocked(b)
	t.doneLocked(b)
	if t.first == nil && t.stop != nil {
		t.stop()
	}
}

// compact closes the gaps that requests given up have left.
func (b *batch[R]) compact() {
	var at int32
	for c := b.calls.head; c != nil; c = c.next {
		copy(b.frames[at:], b.frames[c.begin:c.begin+c.size])
		c.begin = at
		at += c.size
	}
	b.frames, b.cut = b.frames[:at], 0
}

// take gives the first batch to a writer. From then on replies to its calls may come, or the
// connection end. If there is none, because everybody has given up, it returns nil, and f has lost
// the lead.
func (t *table[R]) take(f *flusher[R]) *batch[R] {
	conn := f.writer.Conn()
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.yielded > 0 {
		t.took(f.yielded, t.total-f.total)
		f.yielded = 0
	}
	if f.waits {
		t.stop, f.waits = nil, false
	}
	b := t.first
	if b == nil {
		if t.leader == f.number {
			t.leader = 0
		}
		return nil
	}
	l := t.linkLocked(conn)
	if space := t.spaceLocked(l, b); b.live > space {
		b = t.splitLocked(b, space)
	} else {
		t.leaveLocked(b)
	}
	if b.cut > 0 {
		b.compact()
	}
	t.pinLocked(l)
	l.calls.splice(&b.calls)
	l.live += b.live
	l.held += b.live
	if t.stall > 0 {
		t.expectLocked(l, b.live)
	}
	t.stats.Sent += uint64(b.live)
	t.beginLocked(f, l, b, b.live)
	return b
}

// settle is called when a Write has ended after n bytes. It finds the calls of which nothing was
// sent, and takes out those that must be failed, with the reason. If it returns a role, f goes on.
func (t *table[R]) settle(f *flusher[R], n int, err error, refused bool) (victims list[R], next role, why error, parked bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := f.batch
	on := b.on
	f.batch, f.own = nil, b.own
	t.endLocked(f)
	if f.carried > 0 {
		t.crowd = f.carried > 1 || t.first != nil
		t.stats.Writes++
	} else {
		t.canceledLocked(on, err)
	}
	if err == nil && t.quiet {
		t.endQuietLocked(b)
	}
	if err != nil || on.ended != nil {
		why = t.settleFailedLocked(b, n, err, refused, &victims)
	}
	on.writing = nil
	parked = err == nil && t.parkLocked(on)
	t.writtenLocked(b)
	if b.live == 0 {
		t.doneLocked(b)
	}
	switch {
	case t.leader != f.number, f.number == 0:
	case t.first == nil:
		t.leader = 0
	default:
		next = t.goOnLocked()
	}
	return victims, next, why, parked
}

// settleFailedLocked is settle for a Write that has failed, or whose connection has ended
// meanwhile. A call of which something was sent waits for the connection's end: a reply may have
// arrived before.
func (t *table[R]) settleFailedLocked(b *batch[R], n int, err error, refused bool, victims *list[R]) (why error) {
	l := b.on
	if why = l.ended; why == nil {
		why = err
	}
	// If the connection was killed, the reason is yet to come.
	waits := l.ended == nil && (refused || isKill(err) || l.why != nil)
	for c := l.calls.tail; c != nil && c.in == b; {
		before := c.prev
		c.unsent = err != nil && int(c.begin) >= n
		if l.ended != nil || (c.unsent || c.quiet) && !waits {
			t.detachAndFailLocked(c, victims)
			t.freeLocked(c.id)
		}
		c = before
	}
	t.turnsLocked()
	return why
}

// partLocked takes a call out of its batch.
func (t *table[R]) partLocked(c *call[R]) {
	b := c.in
	c.in = nil
	if b.live--; b.live == 0 && b.on != nil && b.on.writing != b {
		t.doneLocked(b)
	}
}

// writtenLocked keeps the buffer of a batch that nobody writes any more.
func (t *table[R]) writtenLocked(b *batch[R]) {
	if b.own == nil && len(t.buffers) < keptBuffers {
		t.buffers = append(t.buffers, b.frames[:0])
	}
	b.frames = nil
}

// doneLocked keeps a batch that no call is in any more.
func (t *table[R]) doneLocked(b *batch[R]) {
	*b = batch[R]{}
	if len(t.batches) < keptBatches {
		t.batches = append(t.batches, b)
	}
}
