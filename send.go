package plex

// Streams of what is to be sent. The goroutine takes what is in the channel until it is empty for a
// moment, and writes it. When the stream ends before the sender has closed the channel, the
// goroutine gives the half back and goes on emptying the channel: a sender must not hang because a
// connection died meanwhile. What it so drops is counted.

import (
	"runtime"
	"time"
)

// When its lease has ended, a channel is emptied until its sender has been silent for
// senderPatience; when the multiplexer closes, which waits for it, until the sender has been silent
// for senderGrace, and for senderPatience at most.
const (
	senderGrace    = 100 * time.Millisecond
	senderPatience = 5 * time.Second
)

// gatherer makes few writes of many small pieces. It belongs to the stream's goroutine.
type gatherer struct {
	h      *half
	buf    []byte // not written yet
	wrote  bool   // a write has been made since the caller last looked
	err    error  // why nothing can be written any more
	unsent int64  // bytes that were not written because of err
	inHand int64  // bytes of a piece that is in none of these, while another is written
}

func (g *gatherer) flush() {
	if p := g.buf; len(p) > 0 {
		g.buf = p[:0]
		g.write(p)
	}
}

func (g *gatherer) write(p []byte) {
	n := 0
	defer func() { g.unsent += int64(len(p) - n) }() // also if the transport ends the goroutine
	if g.err == nil {
		g.wrote = true
		n, g.err = g.h.write(p)
	}
}

// pieces is a gatherer of bytes or of chunks.
type pieces[T any] interface {
	add(piece T)
	// take adds what ch holds, until it is empty for a moment, closed, or a write was made. Only a
	// closed channel makes it report false.
	take(ch <-chan T) (open bool)
	size(piece T) int // in bytes
}

type byteGatherer struct{ gatherer }

func (g *byteGatherer) size(byte) int { return 1 }

func (g *byteGatherer) add(b byte) {
	if g.buf = append(g.buf, b); len(g.buf) == cap(g.buf) {
		g.flush()
	}
}

// take is a loop of its own since a call for each byte, through an interface, would cost a tenth of
// the stream's speed.
func (g *byteGatherer) take(ch <-chan byte) (open bool) {
	for !g.wrote {
		select {
		case b, ok := <-ch:
			if !ok {
				return false
			}
			g.add(b)
		default:
			return true
		}
	}
	return true
}

type chunkGatherer struct{ gatherer }

func (g *chunkGatherer) size(p []byte) int { return len(p) }

func (g *chunkGatherer) add(p []byte) {
	switch {
	case g.h.conn.kind.Datagram():
		g.write(p)
	case len(g.buf)+len(p) <= cap(g.buf):
		g.buf = append(g.buf, p...)
	default:
		g.inHand = int64(len(p))
		g.flush()
		g.inHand = 0
		if len(p) >= cap(g.buf) {
			g.write(p)
		} else {
			g.buf = append(g.buf, p...)
		}
	}
}

func (g *chunkGatherer) take(ch <-chan []byte) (open bool) {
	for !g.wrote {
		select {
		case p, ok := <-ch:
			if !ok {
				return false
			}
			g.add(p)
		default:
			return true
		}
	}
	return true
}

// sendBytes and sendChunks run a write stream.
func (s *stream) sendBytes(ch <-chan byte) {
	buf := byteBuffers.Get().(*[]byte)
	defer byteBuffers.Put(buf)
	g := &byteGatherer{gatherer{h: s.h, buf: (*buf)[:0]}}
	sendFrom(s, ch, &g.gatherer, g)
}

func (s *stream) sendChunks(ch <-chan []byte, size int) {
	g := &chunkGatherer{gatherer{h: s.h}}
	if !s.h.conn.kind.Datagram() {
		g.buf = make([]byte, 0, size)
	}
	sendFrom(s, ch, &g.gatherer, g)
}

// sendFrom is the life of a write stream: write until the end, give the half back, and empty the
// channel. The pieces are those of g.
func sendFrom[T any](s *stream, ch <-chan T, g *gatherer, p pieces[T]) {
	open, returned := true, false
	defer func() {
		if !returned { // the transport has ended the goroutine
			g.err = s.h.conn.failure()
			g.unsent += int64(len(g.buf)) + g.inHand
		}
		afterWriting(s, ch, g, p, open)
	}()
	open = writeFrom(s, ch, g, p)
	returned = true
}

// afterWriting is the second part of the life of a write stream.
func afterWriting[T any](s *stream, ch <-chan T, g *gatherer, p pieces[T], open bool) {
	s.h.endStream(s, g.err)
	s.unsent.Add(g.unsent)

	// What still comes is dropped, and counted until the lease is over; unless its Close has had
	// all written that it had to, then it is over now. From then on, and when the multiplexer
	// closes, a sender that is silent is left to itself.
	var (
		lease   = s.abandoned              // closed when the lease is over; nil after that
		closing = s.h.conn.m.tasks.closing // closed when the multiplexer closes; nil after that
		clock   *time.Ticker
		tick    <-chan time.Time
		ticks   int // since the clock began, or the multiplexer closes
		silent  int // of these, since the sender was last heard
	)
	hurry := func() {
		if clock == nil {
			clock = time.NewTicker(senderGrace)
			tick = clock.C
		}
	}
	leaseOver := func() {
		close(s.counted)
		lease = nil
		hurry()
	}
	if flushed := g.err == nil && s.isHalted() && s.reason == ErrLeaseClosed; flushed {
		leaseOver()
	}
	count := func(v T) { s.unsent.Add(int64(p.size(v))) }
	for open {
		select {
		case v, ok := <-ch:
			open, silent = ok, 0
			if ok && lease != nil {
				count(v)
			}
		case <-lease:
			open = takeNow(ch, count)
			leaseOver()
		case <-closing:
			closing, ticks, silent = nil, 0, 0
			hurry()
		case <-tick:
			ticks++
			silent++
			const patience = int(senderPatience / senderGrace)
			if closing == nil {
				open = silent < 2 && ticks < patience
			} else {
				open = silent < patience
			}
		}
	}
	if lease != nil {
		close(s.counted)
	}
	if clock != nil {
		clock.Stop()
	}
}

// writeFrom writes what comes from ch until it is closed, a write fails, or the stream is halted.
// It reports whether the sender has yet to close ch.
func writeFrom[T any](s *stream, ch <-chan T, g *gatherer, p pieces[T]) (open bool) {
	for g.err == nil {
		select {
		case v, ok := <-ch:
			if !ok {
				return false
			}
			g.wrote = false
			p.add(v)
			open = p.take(ch)
			if open && !g.wrote {
				// Before a write is made of what may be a single byte, give a running sender the
				// chance to send its next.
				runtime.Gosched()
				open = p.take(ch)
			}
			g.flush()
			if !open {
				return false
			}
		case <-s.halted:
			if s.reason != ErrLeaseClosed {
				g.err = s.reason
				return true
			}
			// The lease's Close flushes what had been accepted when it began, and no more, or an
			// eager sender would keep it for ever.
			open = takeNow(ch, p.add)
			g.flush()
			return open
		}
	}
	return true
}

// takeNow adds what the channel holds at this moment.
func takeNow[T any](ch <-chan T, add func(T)) (open bool) {
	for range len(ch) {
		v, ok := <-ch
		if !ok {
			return false
		}
		add(v)
	}
	select {
	case v, ok := <-ch:
		if !ok {
			return false
		}
		add(v)
	default:
	}
	return true
}

// abandonLocked tells a write stream that its consumer has no more to do with it; h.mu is held.
func (s *stream) abandonLocked() {
	select {
	case <-s.abandoned:
	default:
		close(s.abandoned)
	}
}

// finishSending waits until what the lease's write streams have accepted is written or counted as
// not written, and returns the latter.
func (h *half) finishSending(id word) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.sent
	if s == nil {
		return nil
	}
	s.abandonLocked()
	h.mu.Unlock()
	<-s.counted
	h.mu.Lock()
	err := h.unsentLocked()
	if err != nil {
		h.result = &result{id, err}
	}
	return err
}

// retireSent makes room for another write stream on the lease: it keeps the account of the last
// one. The caller is busy.
func (h *half) retireSent() {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.sent
	if s == nil {
		return
	}
	s.abandonLocked()
	h.mu.Unlock()
	<-s.counted
	h.mu.Lock()
	h.unsent, h.sent = h.unsentTotalLocked(), nil
}

// unsentLocked says what the lease's write streams could not write.
func (h *half) unsentLocked() error {
	if e := h.unsentTotalLocked(); e != nil {
		return e
	}
	return nil
}

// unsentTotalLocked adds what the last stream could not write to what those before it could not,
// with the first error; nil if all was written.
func (h *half) unsentTotalLocked() *UnsentError {
	e := h.unsent
	if h.sent == nil {
		return e
	}
	switch n := h.sent.unsent.Load(); {
	case n == 0:
		return e
	case e == nil:
		return &UnsentError{Unsent: n, Err: h.sent.err}
	default:
		return &UnsentError{Unsent: e.Unsent + n, Err: e.Err}
	}
}
