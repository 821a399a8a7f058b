package main

// The side of a round that sends messages by a message.Sender.

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"go.atomizer.io/plex/faulttest/layers"
	"go.atomizer.io/plex/faulttest/scaffold"
	"go.atomizer.io/plex/message"
)

// calmSenders is the first number of those who send in the calm.
const calmSenders = 1 << 20

type shipping struct {
	side
	taker   *layers.Taker
	tap     *layers.Tap // may be nil
	book    *layers.Shipped
	senders sync.WaitGroup
}

// begin starts those who send.
func (s *shipping) begin(end <-chan struct{}) {
	opts := []message.SenderOption{message.WithWriteBuffer(s.r.buffer), message.WithQueue(s.r.queue), message.WithDrop(s.r.drop)}
	if s.r.timeout > 0 {
		opts = append(opts, message.WithWriteTimeout(s.r.timeout))
	}
	book, err := layers.NewShipped(s.mux, opts...)
	if err != nil {
		panic(err) // nothing in it depends on anything
	}
	if !s.r.short {
		book.Size = layers.Mixed
	}
	s.r.mu.Lock()
	s.book = book
	s.r.mu.Unlock()
	for i := range max(1, s.r.callers/4) {
		s.senders.Go(func() { s.send(uint32(i), end) })
	}
}

// shipped is the book, nil before there is one.
func (s *shipping) shipped() *layers.Shipped {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	return s.book
}

// send sends until the round ends.
func (s *shipping) send(i uint32, end <-chan struct{}) {
	rng := s.r.Rand(0x30000+uint64(i), uint64(s.r.number))
	for !s.r.stopping.Load() {
		if !s.one(rng, i) {
			select {
			case <-end:
			default:
				s.r.fail(errEarly("a message", net.ErrClosed))
			}
			return
		}
	}
}

// one sends one message, or several that nobody waits for, or waits for those that are queued.
func (s *shipping) one(rng *rand.Rand, i uint32) (ok bool) {
	ctx, cancel := context.Background(), func() {}
	if rng.IntN(10) == 0 {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(rng.IntN(2000))*time.Microsecond)
	}
	defer cancel()
	switch n := rng.IntN(100); {
	case n < 60:
		_, ok = s.book.Send(ctx, i)
	case n < 97:
		ok = true
		for range rng.IntN(20) {
			if _, ok = s.book.Queue(i); !ok {
				break
			}
		}
		time.Sleep(time.Duration(rng.IntN(1000)) * time.Microsecond)
	default:
		err := s.book.Sender.Flush(ctx)
		ok = true
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			s.r.fail(fmt.Errorf("a flush: %w", err))
		}
	}
	return ok
}

// calm checks, when the faults have stopped and nobody sends, that all that is sent now comes: the connections from before
// are retired, because they may still end by what their scripts say.
func (s *shipping) calm() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*scaffold.Starving)
	defer cancel()
	s.r.check("renewal in the calm", s.mux.Renew(ctx))
	before := s.mux.Stats().Lost
	var all sync.WaitGroup
	for i := range uint32(8) {
		all.Go(func() {
			rng := s.r.Rand(0x40000+uint64(i), uint64(s.r.number))
			for range 200 {
				if rng.IntN(2) == 0 {
					s.book.Queue(calmSenders + i)
				} else {
					s.book.Send(context.Background(), calmSenders+i)
				}
			}
		})
	}
	s.r.Patient("a sender in the calm", all.Wait)
	s.r.check("Flush in the calm", s.book.Sender.Flush(ctx))
	s.r.check("Close of the sender in the calm", s.book.Sender.Close(ctx))
	s.r.check("Shutdown in the calm", s.mux.Shutdown(ctx))
	if s.mux.Stats().Lost > before {
		return // a Write has lasted for longer than the round allows
	}
	lost, sent := s.book.Lost(s.taker, calmSenders)
	for end := time.Now().Add(scaffold.Starving); lost > 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
		lost, _ = s.book.Lost(s.taker, calmSenders) // the server has all of it, and reads on
	}
	s.r.sums.shippedStrict += uint64(sent)
	if lost > 0 {
		s.r.sums.shippedLost += uint64(lost)
		s.r.fail(fmt.Errorf("in the calm %d messages of %d are lost that a Sender has written", lost, sent))
	}
}

// hurry closes the Sender under load, and gives it little time.
func (s *shipping) hurry() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
	defer cancel()
	_ = s.book.Sender.Close(ctx) // the books say whether the error is right
}

// finish closes the Sender when its pool is closed.
func (s *shipping) finish() {
	if s.book != nil {
		s.r.Patient("Close of a sender", func() { _ = s.book.Sender.Close(context.Background()) })
	}
}
