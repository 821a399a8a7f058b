package message

// Messages that cannot be written are handed back: a Send gets its error, and what was queued goes
// to the function of WithFailed. A goroutine calls it, which exists while there is something.

import (
	"bytes"
	"fmt"
	"time"

	"go.atomizer.io/plex/internal/caller"
)

// callPatience is how long a call of the function of WithFailed delays the next.
const callPatience = time.Second

// handing is what waits for the function of WithFailed.
type handing struct {
	failures []failure // none if there is no function
	owed     int       // bytes in them
	hander   bool      // a goroutine hands them on
}

// failure is a batch, or a single message, that could not be written.
type failure struct {
	batch *batch // nil for a single message
	data  []byte
	err   error
	epoch *epoch
}

// bytesAt is a copy of the first message of a batch.
func bytesAt(b *batch, size int) []byte {
	return bytes.Clone(b.data[b.off : b.off+size])
}

// countFailedLocked counts messages that are not queued any more, because they have failed.
func (s *Sender) countFailedLocked(n int, err *SendError) {
	s.stats.Failed += uint64(n)
	s.stats.Queued -= n
	if s.closed && n > 0 {
		if s.lostErr == nil {
			s.lostErr = err
		}
		s.lost += n
	}
}

// failOneLocked hands on one message. There is a function.
func (s *Sender) failOneLocked(data []byte, err error, e *epoch) {
	e.pending++
	s.owed += charge(len(data))
	s.handOnLocked(failure{data: data, err: err, epoch: e})
}

// failLocked fails all messages of a batch that is not in the queue.
func (s *Sender) failLocked(b *batch, err *SendError) {
	s.countFailedLocked(b.live, err)
	sends := b.sends
	for i := b.head; b.sends > 0; i++ {
		if p := &b.parts[i]; p.call != nil {
			c := p.call
			p.call, p.gone = nil, true
			b.sends--
			c.end(err)
		}
	}
	b.live -= sends
	s.held -= b.charge
	if b.live == 0 || s.cfg.failed == nil {
		s.doneLocked(b)
		return
	}
	s.owed += b.charge
	s.handOnLocked(failure{batch: b, err: err, epoch: b.epoch})
}

// failQueue fails all that is in the queue.
func (s *Sender) failQueue(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failQueueLocked(&SendError{Err: err})
}

func (s *Sender) failQueueLocked(err *SendError) {
	for b := s.first; b != nil; b = s.first {
		s.unlinkLocked(b)
		s.failLocked(b, err)
	}
}

func (s *Sender) handOnLocked(f failure) {
	s.failures = append(s.failures, f)
	if !s.hander {
		s.hander = true
		go s.hand()
	}
}

// hand hands on what there is.
func (s *Sender) hand() {
	for {
		s.mu.Lock()
		if len(s.failures) == 0 {
			s.failures, s.hander = nil, false
			s.mu.Unlock()
			return
		}
		f := s.failures[0]
		s.failures[0] = failure{}
		s.failures = s.failures[1:]
		s.mu.Unlock()

		if f.batch == nil {
			s.handOne(f.data, f.err)
		} else {
			s.handBatch(f.batch, f.err)
		}

		s.mu.Lock()
		if f.batch == nil {
			s.overLocked(f.epoch)
		} else {
			s.doneLocked(f.batch)
		}
		s.mu.Unlock()
	}
}

func (s *Sender) handBatch(b *batch, err error) {
	at := b.off
	for _, p := range b.parts[b.head:] {
		if !p.gone {
			data := b.data[at : at+p.size : at+p.size]
			if !b.own {
				data = bytes.Clone(data)
			}
			s.handOne(data, err)
		}
		at += p.size
	}
}

// handOne calls the function, and waits for it, but not for ever. If it panics or ends its
// goroutine, only that call is lost.
func (s *Sender) handOne(data []byte, err error) {
	size := charge(len(data)) // the function may do with data what it likes
	done := make(chan struct{})
	go func() {
		defer close(done)
		crash := caller.Crash("the function of WithFailed", nil)
		defer func() { s.crashed(crash) }()
		crash = caller.Guard("the function of WithFailed", func() error {
			s.cfg.failed(data, err)
			return nil
		})
	}()
	patience := time.NewTimer(callPatience)
	defer patience.Stop()
	select {
	case <-done:
	case <-patience.C:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owed -= size
}

// crashed counts a call of the function that has panicked or ended its goroutine.
func (s *Sender) crashed(crash error) {
	if crash == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Panicked++
	s.stats.LastPanic = crash
}

func errUnwritten(n int, why error) error {
	return fmt.Errorf("message: Close: %d messages were not written, the first for this reason: %w", n, why)
}
