package plex

// What read and write streams share: their start and stop. A stream is one goroutine that holds its
// half busy. It is started by Recv and its likes and ends by itself when the data ends or fails, or
// when it is halted: by its ctx, by the end of its lease, or by the multiplexer's Close.

import (
	"context"
	"fmt"
	"sync/atomic"

	"go.atomizer.io/plex/internal/caller"
)

const (
	defaultChunk = 64 << 10 // bytes of a chunk, or of gathered chunks, if the caller says 0
	byteBuffer   = 64 << 10 // bytes read or gathered at a time by a stream of bytes; any datagram of a network fits
	unixDatagram = 1 << 20  // any datagram of a Unix socket fits
	chunkQueue   = 4        // chunks that a chunk channel holds
	mostBuffer   = 1 << 30  // what a consumer may ask for; more is a mistake
)

type stream struct {
	h     *half
	lease word

	halted chan struct{} // closed by haltLocked
	reason error         // why it was halted; written before halted is closed

	// Write streams only.
	counted   chan struct{} // closed when unsent and err are final for the lease's Close
	abandoned chan struct{} // closed when the consumer has nothing more to do with it
	unsent    atomic.Int64  // bytes that were sent and not written, once err is set
	err       error         // why the stream ended; guarded by h.mu
}

// haltLocked stops s for a reason; h.mu is held. The first reason counts.
func (s *stream) haltLocked(reason error) {
	if s.reason != nil {
		return
	}
	s.reason = reason
	close(s.halted)
}

// isHalted reports whether s shall end.
func (s *stream) isHalted() bool {
	select {
	case <-s.halted:
		return true
	default:
		return false
	}
}

// startStream makes the caller's lease busy with a stream, which runs as a goroutine of the
// multiplexer. It calls open before run, when nothing is wrong with the arguments.
func (h *half) startStream(ctx context.Context, id word, call string, size int, open func(), run func(*stream)) error {
	switch {
	case ctx == nil:
		return errNilContext(call)
	case size < 0:
		return fmt.Errorf("plex: %s: the size is %d; it must not be negative", call, size)
	case size > mostBuffer:
		return fmt.Errorf("plex: %s: the size is %d; it must be at most %d", call, size, mostBuffer)
	case h == nil:
		return ErrLeaseClosed
	}
	if ctx.Err() != nil {
		return caller.ContextError(ctx)
	}
	if err := h.enter(id); err != nil {
		return err
	}
	if h.reclaim != nil {
		h.takeBack()
	}
	if cause := h.conn.failure(); cause != nil && len(h.back) == 0 {
		h.leave(id)
		return cause
	}

	s := &stream{h: h, lease: id, halted: make(chan struct{})}
	if h.writes() {
		h.retireSent()
		s.counted, s.abandoned = make(chan struct{}), make(chan struct{})
	}
	h.mu.Lock()
	if !h.live(id) {
		h.mu.Unlock()
		h.leave(id)
		return ErrLeaseClosed
	}
	h.set(leaseStream)
	h.stream, h.result = s, nil
	if h.writes() {
		h.sent = s
		h.set(leaseWatched)
	}
	h.mu.Unlock()

	open()
	unwatch := func() bool { return true }
	if ctx.Done() != nil {
		// Once for a stream, not for each Read. There is no need to wait for it at the end: under
		// mu it sees that s is over.
		unwatch = context.AfterFunc(ctx, func() { h.interruptStream(s, caller.ContextError(ctx)) })
	}
	if !h.conn.m.tasks.start(func() {
		defer unwatch()
		run(s)
	}) {
		unwatch()
		h.endStream(s, ErrClosed)
		if h.writes() {
			close(s.counted)
		}
		return ErrClosed
	}
	return nil
}

// interruptStream halts s and interrupts its blocked Read or Write.
func (h *half) interruptStream(s *stream, reason error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stream == s && s.reason == nil {
		s.haltLocked(reason)
		h.interruptLocked()
	}
}

// haltStream ends the stream that h has, for the multiplexer's Close.
func (h *half) haltStream(reason error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stream != nil {
		h.stream.haltLocked(reason)
	}
}

// endStream gives the half back to its lease, in order: err is there before anyone can know of the
// end, the deadline is again the consumer's, and then the half is no longer busy.
func (h *half) endStream(s *stream, err error) {
	if s.isHalted() {
		// An interrupt shows as a missed deadline. Close interrupts a Read, but lets a Write go on,
		// so there a deadline is the consumer's.
		flushing := h.writes() && s.reason == ErrLeaseClosed
		if err == nil || h.isInterrupt(err) && !flushing {
			err = s.reason
		}
		if err == ErrLeaseClosed {
			err = nil // the consumer's own Close is a clean end
		}
	}
	h.mu.Lock()
	h.stream = nil
	if err != nil {
		h.result = &result{s.lease, err}
	}
	s.err = err
	resumed := h.deadlines.resume(h)
	h.mu.Unlock()
	h.deadlineLeft(resumed)
	h.leave(s.lease)
}
