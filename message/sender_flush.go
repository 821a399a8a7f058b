package message

// Flushing: one goroutine at a time takes what is gathered, and writes it within one lease of a
// write half. If its Write lasts, another one begins. The mutex of the queue guards what is said to
// be locked.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/caller"
	"go.atomizer.io/plex/internal/sock"
)

// noWait has the multiplexer give a writer now or never.
const noWait = -1

var errWriteExited = errors.New("message: the transport's Write has ended its goroutine")

// leading is who writes. There is a leader whenever there is something in the queue. A flusher whose
// Write lasts loses the lead to another. One that does not lead ends after its Write.
type leading struct {
	leader  uint64 // the number of the flusher that leads; 0 if none does
	leaders uint64 // the latest number
	stop    func() // ends the leader's wait for a connection; nil while it does not wait
}

// busyness is the flushers that write, and the timer that looks after them.
type busyness struct {
	busy    []*senderFlusher
	watcher *time.Timer
	soon    bool // it fires within watchPatience
}

// senderFlusher is what a goroutine needs to write batches. It is pooled, and belongs to one
// goroutine at a time, except for what the mutex guards.
type senderFlusher struct {
	run    func() // begins the goroutine; made once, so that it is not allocated each time
	writer plex.Writer
	crowd  bool // the latest Write has carried several messages
	more   bool // when it ended, another full batch was waiting
	dead   bool // it has failed, and so has its connection

	// Guarded by the mutex.
	number  uint64
	batch   *batch // being written; nil if none is
	place   int    // in busy
	seen    bool   // the timer had been set when the Write began, or has fired since
	stalled bool   // it has lasted for watchPatience
	awaited bool   // it was given the lead because it is about to fail; once is enough
	due     time.Time
	overdue bool // its connection is killed for it
}

func (s *Sender) newFlusher() any {
	f := new(senderFlusher)
	f.run = func() { s.flush(f) }
	return f
}

// leadLocked makes a flusher that leads. The caller starts it.
func (s *Sender) leadLocked() *senderFlusher {
	f := s.flushers.Get().(*senderFlusher)
	s.takeLeadLocked(f)
	s.running++
	return f
}

func (s *Sender) takeLeadLocked(f *senderFlusher) {
	s.leaders++
	s.leader, f.number = s.leaders, s.leaders
}

// flush writes batch after batch for as long as it has the lead.
func (s *Sender) flush(f *senderFlusher) {
	for s.lease(f) {
		if !s.writeOne(f) {
			break
		}
		if f.crowd && !f.more {
			runtime.Gosched() // those that were just woken may have something to send
		}
	}
	s.ended()
	run := f.run
	*f = senderFlusher{run: run}
	s.flushers.Put(f)
}

// lease leases a writer. It waits for as long as there is something to be written. If it reports
// false, there is nothing, and f does not lead any more.
func (s *Sender) lease(f *senderFlusher) bool {
	var err error
	if f.writer, err = s.mux.Writer(s.ctx, noWait); err == nil {
		return true
	}
	for {
		ctx, cancel := context.WithCancel(s.ctx)
		if !s.await(f, cancel) {
			cancel()
			return false
		}
		f.writer, err = s.mux.Writer(ctx, 0)
		gaveUp := ctx.Err() != nil
		s.awaited()
		cancel()
		switch {
		case err == nil:
			return true
		case !gaveUp:
			s.failQueue(err)
		}
	}
}

// await notes that f waits for a connection, until stop is called because nobody needs one any more.
func (s *Sender) await(f *senderFlusher, stop func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first == nil {
		s.resignLocked(f)
		return false
	}
	s.stop = stop
	return true
}

func (s *Sender) awaited() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop = nil
}

func (s *Sender) resignLocked(f *senderFlusher) {
	if s.leader == f.number {
		s.leader = 0
	}
}

// writeOne writes one batch within the lease that f has, and ends the lease. It reports whether f
// goes on.
func (s *Sender) writeOne(f *senderFlusher) (next bool) {
	w := f.writer
	b := s.take(f, w.Conn().Datagram())
	if b == nil {
		_ = w.Close() // nothing was written
		return false
	}
	returned := false
	defer func() {
		if !returned { // the transport has ended the goroutine
			_ = w.Kill()
			if s.settle(f, 0, errWriteExited) {
				go f.run()
			} else {
				s.ended()
			}
		}
	}()
	p := b.data[b.off:]
	n, err := w.Write(p)
	if n == 0 && err != nil && sock.Refused(err) && w.Conn().Datagram() {
		n, err = w.Write(p) // the error was about an earlier datagram, and is told once
	}
	returned = true
	if err == nil {
		_ = w.Close()
		return s.settle(f, n, nil)
	}
	f.dead = w.Err() != nil
	next = s.settle(f, n, err) // what was not sent is in the queue before anybody gets the connection
	_ = w.Close()              // has nothing to add to what Write returned
	return next
}

// take gives the first batch to a flusher. If there is none, it returns nil, and f does not lead any
// more.
func (s *Sender) take(f *senderFlusher, datagram bool) *batch {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.first
	if b == nil {
		s.resignLocked(f)
		return nil
	}
	if earlier := s.failingLocked(); earlier != nil {
		s.leaveToLocked(earlier)
		return nil
	}
	switch {
	case datagram && b.live > 1:
		b = s.splitLocked(b)
	default:
		s.unlinkLocked(b)
	}
	if b.gone > 0 {
		b.compact()
	}
	b.writing, b.writer = true, f.writer
	f.batch, f.crowd = b, b.live > 1
	s.beginLocked(f)
	return b
}

// failingLocked returns a flusher whose Write fails, since its connection has failed. What it could
// not write comes before all that is in the queue: where the pool has one connection, to write
// something else first over the one that has taken its place would change the order.
func (s *Sender) failingLocked() *senderFlusher {
	for _, f := range s.busy {
		if !f.awaited && f.writer.Conn().Info().Err != nil {
			return f
		}
	}
	return nil
}

// leaveToLocked gives the lead to a flusher that is busy. It leads when its Write has ended, or
// loses the lead again if that lasts.
func (s *Sender) leaveToLocked(f *senderFlusher) {
	s.leader = f.number
	f.awaited = true
	s.lookAfterLocked(f)
}

// splitLocked makes a batch of the first message of another, which stays in the queue.
func (s *Sender) splitLocked(from *batch) *batch {
	p := from.parts[from.head]
	b := s.newBatchLocked()
	s.newest.pending--
	b.epoch = from.epoch
	b.epoch.pending++
	b.data = append(b.data, from.at(from.head)...)
	b.parts = append(b.parts, p)
	b.live = 1
	if p.call != nil {
		p.call.batch, p.call.index = b, 0
		b.sends, from.sends = 1, from.sends-1
	} else {
		b.charge = charge(p.size)
		from.charge -= b.charge
	}
	from.parts[from.head] = part{size: p.size, gone: true}
	from.live--
	from.gone += p.size
	from.skip()
	return b
}

// settle is called when a Write has ended after n bytes. It reports whether f goes on.
func (s *Sender) settle(f *senderFlusher, n int, err error) (next bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := f.batch
	f.batch = nil
	s.endLocked(f)
	b.writing, b.writer = false, plex.Writer{}
	s.stats.Writes++
	if err == nil {
		s.writtenLocked(b, b.live, len(b.data)-b.off-b.gone)
		s.held -= b.charge
		s.wakeLocked(b, nil)
		s.doneLocked(b)
	} else {
		s.settleFailedLocked(f, b, n, err)
	}
	if s.first != nil && s.leader == 0 {
		s.takeLeadLocked(f)
	}
	f.more = s.first != s.last
	return s.leader == f.number
}

// writtenLocked counts messages that were written.
func (s *Sender) writtenLocked(b *batch, messages, bytes int) {
	s.stats.Messages += uint64(messages)
	s.stats.Bytes += uint64(bytes)
	s.stats.Queued -= messages
	b.tries = 0
}

// wakeLocked tells all Sends whose messages are in a batch what has become of them.
func (s *Sender) wakeLocked(b *batch, err error) {
	for i := b.head; b.sends > 0; i++ {
		if c := b.parts[i].call; c != nil {
			b.parts[i].call = nil
			b.sends--
			c.end(err)
		}
	}
}

// end wakes a Send.
func (c *call) end(err error) {
	c.batch, c.err = nil, err
	c.done <- struct{}{}
}

// settleFailedLocked is settle for a Write that has failed. Messages that were written whole are
// done. One that was cut may have been sent. Those behind it were not: they are written over another
// connection.
func (s *Sender) settleFailedLocked(f *senderFlusher, b *batch, n int, err error) {
	refused := !f.dead && f.writer.Conn().Datagram() // the datagram, and nothing else
	final := s.aborted != nil || refused || b.quits()
	switch {
	case caller.IsCrash(err) || err == errWriteExited: // nobody knows how much was written
		s.failLocked(b, &SendError{MaybeSent: true, Err: err})
		return
	case f.overdue:
		err = fmt.Errorf("message: %s did not accept what was written within %v, and was killed: %w",
			from(f.writer.Conn()), s.cfg.writeTimeout.Get(), os.ErrDeadlineExceeded)
	case s.aborted != nil && errors.Is(err, plex.ErrLeaseClosed):
		err = s.aborted
	}
	if n == 0 {
		b.tries++
	}
	for pos := 0; b.head < len(b.parts) && pos < n; {
		p := b.parts[b.head]
		switch whole := pos+p.size <= n; {
		case p.gone:
			b.gone -= p.size
		case whole:
			s.writtenLocked(b, 1, p.size)
			s.partLocked(b, p, nil)
		default:
			failed := &SendError{MaybeSent: true, Err: err}
			s.countFailedLocked(1, failed)
			if p.call == nil && s.cfg.failed != nil {
				s.failOneLocked(bytesAt(b, p.size), failed, b.epoch)
			}
			s.partLocked(b, p, failed)
		}
		pos += p.size
		b.off += p.size
		b.head++
	}
	b.look = b.head
	switch {
	case b.live == 0:
		s.doneLocked(b)
	case final || b.tries > s.enoughTries(b):
		s.failLocked(b, &SendError{Err: err})
	default:
		b.skip()
		s.pushFrontLocked(b)
	}
}

// enoughTries is how many connections may refuse a batch before it is handed back: more than can
// have been dead all at once. It keeps a message that no transport takes from ending one connection
// after the other for ever.
func (s *Sender) enoughTries(b *batch) int {
	const some = 16
	if b.tries <= some {
		return some
	}
	return some + s.mux.Stats().Capacity
}

// quits reports whether the Send that a batch belongs to has been given up.
func (b *batch) quits() bool {
	return b.own && b.parts[0].call != nil && b.parts[0].call.quits
}

// partLocked takes the first part out of a batch: it is over.
func (s *Sender) partLocked(b *batch, p part, err error) {
	b.live--
	if p.call == nil {
		n := charge(p.size)
		b.charge -= n
		s.held -= n
		return
	}
	b.sends--
	b.parts[b.head].call = nil
	p.call.end(err)
}

// -------------------------------------------------------------------------------------------------
// Watching

// beginLocked begins to watch the Write of f. The timer fires at most once in watchPatience, because
// to set it for each Write would cost more.
func (s *Sender) beginLocked(f *senderFlusher) {
	f.place, f.awaited, f.overdue = len(s.busy), false, false
	s.busy = append(s.busy, f)
	s.lookAfterLocked(f)
}

// lookAfterLocked has the timer look whether the Write of f lasts, from now on.
func (s *Sender) lookAfterLocked(f *senderFlusher) {
	f.seen, f.stalled = false, false
	if !s.soon {
		s.soon, f.seen = true, true
		s.watcher.Reset(watchPatience)
	}
}

func (s *Sender) endLocked(f *senderFlusher) {
	last := len(s.busy) - 1
	s.busy[f.place] = s.busy[last]
	s.busy[f.place].place = f.place
	s.busy[last] = nil
	s.busy = s.busy[:last]
}

// watch is called by the timer while something is being written. It hands the lead on where a Write
// lasts, and ends connections whose peers have stopped reading.
func (s *Sender) watch() {
	lead, overdue := s.lasting()
	if lead != nil {
		go lead.run()
	}
	for _, w := range overdue {
		_ = w.Kill() // has no effect if the Write has just ended
	}
}

// lasting looks at the Writes that last.
func (s *Sender) lasting() (lead *senderFlusher, overdue []plex.Writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	timeout := s.cfg.writeTimeout.Get()
	now := time.Now()
	next := timeout
	s.soon = false
	for _, f := range s.busy {
		switch {
		case !f.seen:
			f.seen, s.soon = true, true
		case !f.stalled:
			f.stalled, f.due = true, now.Add(timeout-watchPatience)
			s.resignLocked(f)
		case !now.Before(f.due):
			f.overdue, f.due = true, now.Add(timeout)
			overdue = append(overdue, f.writer)
		}
		if f.stalled {
			next = min(next, f.due.Sub(now))
		}
	}
	if s.first != nil && s.leader == 0 {
		lead = s.leadLocked()
	}
	switch {
	case s.soon:
		s.watcher.Reset(watchPatience)
	case len(s.busy) > 0:
		s.watcher.Reset(max(next, watchPatience))
	}
	return lead, overdue
}
