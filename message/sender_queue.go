package message

// The queue of a Sender. A batch is what one Write carries.
//
//	add ─▶ queue of batches ─▶ take ─▶ one Write, under no lock ─▶ settle ─▶ written, handed back,
//	            │     ▲                                              │        or given up
//	            ▼     └──────────── what was not on the wire ────────┘
//	        dropped, given up, failed
//
// Where a message is follows from its batch.

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/caller"
)

const (
	// largeMessage is the size in bytes from which on a message has a Write of its own: it has
	// little to gain from company, and to gather it would cost a copy under the mutex.
	largeMessage = 8 << 10

	// keptBatches is how many batches are kept for reuse: as many as the queue holds by default.
	keptBatches = 16

	// mostParts bounds the messages in a batch, because empty ones do not fill it.
	mostParts = 16 << 10
)

// queue is guarded by mu.
type queue struct {
	mu   sync.Mutex
	most int // bytes that are gathered in a batch; does not change

	first, last *batch
	held        int // bytes that count for WithQueue: those of Queue in a batch
	leading
	busyness
	handing

	oldest, newest *epoch // those that are not over
	sealed         *epoch // the one before newest
	spare          []*batch
	stats          SenderStats

	running int           // flushers, and goroutines that interrupt their Writes
	quiet   chan struct{} // closed when all is over after Close; nil before
	closed  bool
	aborted error // why what was left has been handed back; nil if it has not
	lost    int   // messages that have failed since closed
	lostErr error // the first of them
}

// batch is messages that one Write carries. Each exists until its last message is written or has
// been handed back.
type batch struct {
	next, prev *batch // in the queue
	epoch      *epoch
	data       []byte
	parts      []part // in the order of data
	head       int    // the first part that counts: those before it are over
	off        int    // where it begins
	look       int    // no part before this one can be dropped
	live       int    // parts that are not gone
	gone       int    // bytes behind off of parts that are
	sends      int    // live parts that a Send waits for
	charge     int    // bytes that count for WithQueue
	own        bool   // data is one large message, which is not gathered
	tries      int    // Writes in a row of which nothing was taken
	writer     plex.Writer
	writing    bool
}

// part is a message in a batch.
type part struct {
	size int
	call *call // nil if it was queued
	gone bool  // dropped or given up
}

// call is a Send that waits.
type call struct {
	done  chan struct{}
	err   error
	batch *batch // where its message is; nil once it is over
	index int
	quits bool // ctx has ended, and its Write, which it shares with nobody, is being interrupted
}

// take returns the outcome, and clears it for the next Send.
func (c *call) take() error {
	err := c.err
	*c = call{done: c.done}
	return err
}

// epoch is what was given to a Sender between two Flushes.
type epoch struct {
	next    *epoch
	pending int           // batches and failures
	done    chan struct{} // closed when this epoch and all before it are over; nil for the newest
}

// closedChannel is a Flush that has nothing to wait for.
var closedChannel = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// add appends a message to the queue, and sees to it that it is written. c is nil for Queue.
func (s *Sender) add(data []byte, c *call) error {
	large := len(data) > largeMessage
	owned := data
	if large && c == nil {
		if len(data) <= s.cfg.queue.Get() {
			owned = bytes.Clone(data) // not under the mutex
		}
	}
	f, err := s.append(owned, c, large)
	if f != nil {
		go f.run()
	}
	return err
}

// append is add, under the mutex. It returns the flusher that has to be started.
func (s *Sender) append(data []byte, c *call, large bool) (*senderFlusher, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		s.stats.Failed++
		return nil, errSenderClosed
	}
	if c == nil && !s.makeRoomLocked(charge(len(data))) {
		s.stats.Dropped++
		return nil, ErrFull
	}
	b := s.last
	if b == nil || large || b.epoch != s.newest || b.full(len(data), s.most) {
		b = s.newBatchLocked()
		s.pushLocked(b)
	}
	if large {
		b.data, b.own = data, true
	} else {
		if len(data) > cap(b.data)-len(b.data) && s.first != b {
			b.data = slices.Grow(b.data, s.most-len(b.data)) // it is going to be full
		}
		b.data = append(b.data, data...)
	}
	if c != nil {
		c.batch, c.index = b, len(b.parts)
		b.sends++
	} else {
		n := charge(len(data))
		b.charge += n
		s.held += n
	}
	b.parts = append(b.parts, part{size: len(data), call: c})
	b.live++
	s.stats.Queued++
	if s.leader == 0 {
		return s.leadLocked(), nil
	}
	return nil, nil
}

// full reports whether a batch has no room for a message of n bytes.
func (b *batch) full(n, most int) bool {
	return b.own || len(b.data)+n > most || len(b.parts) >= mostParts
}

// charge is what a message of Queue counts for.
func charge(size int) int { return max(size, 1) }

// makeRoomLocked reports whether a message that counts for n bytes may be queued. It drops others
// for it if the policy says so.
func (s *Sender) makeRoomLocked(n int) bool {
	bound := s.cfg.queue.Get()
	if n > bound || s.owed >= bound {
		return false
	}
	if s.cfg.drop.Get() == DropOldest {
		for b := s.first; b != nil && n > bound-s.held; {
			next := b.next
			s.dropLocked(b, n-(bound-s.held))
			b = next
		}
	}
	return n <= bound-s.held
}

// dropLocked drops the oldest messages of a batch in the queue, until n bytes are free or none is
// left.
func (s *Sender) dropLocked(b *batch, n int) {
	for i := b.look; i < len(b.parts) && b.charge > 0 && n > 0; i++ {
		b.look = i + 1
		p := &b.parts[i]
		if p.gone || p.call != nil {
			continue
		}
		n -= charge(p.size)
		if s.cfg.failed != nil {
			s.failOneLocked(bytes.Clone(b.at(i)), &SendError{Err: ErrFull}, b.epoch)
		}
		s.stats.Dropped++
		s.removeLocked(b, i)
	}
	s.tidyLocked(b)
}

// at returns the data of a part.
func (b *batch) at(i int) []byte {
	at := b.off
	for _, p := range b.parts[b.head:i] {
		at += p.size
	}
	return b.data[at : at+b.parts[i].size]
}

// removeLocked marks a part as gone. It is not counted as queued any more.
func (s *Sender) removeLocked(b *batch, i int) {
	p := &b.parts[i]
	if p.call != nil {
		p.call.batch, p.call = nil, nil
		b.sends--
	} else {
		n := charge(p.size)
		b.charge -= n
		s.held -= n
	}
	p.gone = true
	b.live--
	b.gone += p.size
	s.stats.Queued--
	if b.writing {
		return // its data must not move
	}
	b.skip()
}

// skip passes over the parts at the front that are gone.
func (b *batch) skip() {
	for b.head < len(b.parts) && b.parts[b.head].gone {
		n := b.parts[b.head].size
		b.off += n
		b.gone -= n
		b.head++
	}
}

// tidyLocked takes a batch in the queue out of it if nothing is left of it, and closes its gaps if
// they are more than half of it.
func (s *Sender) tidyLocked(b *batch) {
	switch {
	case b.live == 0:
		s.unlinkLocked(b)
		s.doneLocked(b)
		if s.first == nil && s.stop != nil {
			s.stop()
		}
	case b.gone > len(b.data)/2:
		b.compact()
	}
}

// compact closes the gaps that messages which are gone have left.
func (b *batch) compact() {
	from, to, kept := b.off, 0, 0
	for _, p := range b.parts[b.head:] {
		if !p.gone {
			copy(b.data[to:], b.data[from:from+p.size])
			if p.call != nil {
				p.call.index = kept
			}
			b.parts[kept] = p
			kept++
			to += p.size
		}
		from += p.size
	}
	clear(b.parts[kept:])
	b.data, b.parts = b.data[:to], b.parts[:kept]
	b.head, b.off, b.look, b.gone = 0, 0, 0, 0
}

// giveUp is called when the ctx of a Send has ended.
func (s *Sender) giveUp(ctx context.Context, c *call) error {
	s.mu.Lock()
	b := c.batch
	switch {
	case b == nil: // it was just too late
		s.mu.Unlock()
		<-c.done
		return c.take()
	case b.writing && b.own:
		// The Write reads the caller's memory.
		c.quits = true
		w := b.writer
		s.mu.Unlock()
		_ = w.Close() // interrupts the Write
		<-c.done
		err := c.take()
		if failed, ok := err.(*SendError); ok {
			return &SendError{MaybeSent: failed.MaybeSent, Err: caller.ContextError(ctx)}
		}
		return err
	}
	maybe := b.writing
	s.removeLocked(b, c.index)
	s.stats.Failed++
	if !b.writing {
		s.tidyLocked(b)
	}
	s.mu.Unlock()
	_ = c.take()
	return &SendError{MaybeSent: maybe, Err: caller.ContextError(ctx)}
}

// refuse counts a message that was not accepted.
func (s *Sender) refuse() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Failed++
}

// -------------------------------------------------------------------------------------------------
// Batches

// newBatchLocked returns an empty batch.
func (s *Sender) newBatchLocked() *batch {
	var b *batch
	if n := len(s.spare); n > 0 {
		b, s.spare = s.spare[n-1], s.spare[:n-1]
	} else {
		b = new(batch)
	}
	b.epoch = s.newest
	b.epoch.pending++
	return b
}

// doneLocked is called when no message of a batch is left. It keeps the batch for reuse.
func (s *Sender) doneLocked(b *batch) {
	s.overLocked(b.epoch)
	if len(s.spare) == keptBatches {
		return
	}
	data, parts := b.data[:0], b.parts[:0]
	if b.own {
		data = nil
	}
	*b = batch{data: data, parts: parts}
	s.spare = append(s.spare, b)
}

// pushLocked puts a batch at the end of the queue.
func (s *Sender) pushLocked(b *batch) {
	if b.prev = s.last; b.prev == nil {
		s.first = b
	} else {
		b.prev.next = b
	}
	s.last = b
}

// pushFrontLocked puts a batch at the front of the queue.
func (s *Sender) pushFrontLocked(b *batch) {
	if b.next = s.first; b.next == nil {
		s.last = b
	} else {
		b.next.prev = b
	}
	s.first = b
}

// unlinkLocked takes a batch out of the queue.
func (s *Sender) unlinkLocked(b *batch) {
	if b.prev == nil {
		s.first = b.next
	} else {
		b.prev.next = b.next
	}
	if b.next == nil {
		s.last = b.prev
	} else {
		b.next.prev = b.prev
	}
	b.next, b.prev = nil, nil
}

// -------------------------------------------------------------------------------------------------
// Epochs

// seal ends the newest epoch, and returns a channel that is closed when it is over.
func (s *Sender) seal() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sealLocked()
}

func (s *Sender) sealLocked() <-chan struct{} {
	e := s.newest
	if e.pending == 0 {
		// Nothing has come since the last Flush, so its channel will do.
		if s.oldest == e {
			return closedChannel
		}
		return s.sealed.done
	}
	e.done = make(chan struct{})
	e.next = new(epoch)
	s.sealed, s.newest = e, e.next
	return e.done
}

// overLocked is called when a batch or a failure of an epoch is over.
func (s *Sender) overLocked(e *epoch) {
	e.pending--
	for e := s.oldest; e != s.newest && e.pending == 0; e = s.oldest {
		close(e.done)
		s.oldest = e.next
	}
	s.quietLocked()
}

// -------------------------------------------------------------------------------------------------
// Closing

// shut refuses further messages, and returns a channel that is closed when all are over, and so are
// the goroutines that write.
func (s *Sender) shut() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed, s.quiet = true, make(chan struct{})
		s.quietLocked()
	}
	return s.quiet
}

// quietLocked closes quiet if the time has come.
func (s *Sender) quietLocked() {
	if s.closed && s.running == 0 && s.oldest == s.newest && s.newest.pending == 0 {
		select {
		case <-s.quiet:
		default:
			close(s.quiet)
		}
	}
}

// ended is called when one of those that run has ended.
func (s *Sender) ended() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running--
	s.quietLocked()
}

// abort hands back what is left.
func (s *Sender) abort(why error) {
	var writers []plex.Writer
	s.mu.Lock()
	if s.aborted == nil {
		s.aborted = why
	}
	s.failQueueLocked(&SendError{Err: s.aborted})
	for _, f := range s.busy {
		writers = append(writers, f.writer)
		s.running++
	}
	s.mu.Unlock()
	s.cancel()
	for _, w := range writers {
		go func() {
			defer s.ended()
			_ = w.Close() // interrupts its Write
		}()
	}
}

// outcome is what Close returns.
func (s *Sender) outcome() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.stats.Queued // of transports whose Write does not return
	switch {
	case s.lost+n == 0:
		return nil
	case s.lost == 0:
		return errUnwritten(n, s.aborted)
	}
	return errUnwritten(s.lost+n, s.lostErr)
}

// watchPatience is how long a Write may last before somebody else leads.
const watchPatience = time.Millisecond
