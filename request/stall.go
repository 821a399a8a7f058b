package request

// Stalled connections: those that bring nothing although something is expected of them. Each has one
// timer, which runs while something is expected. So a request costs no timer, and a reply no look
// at the clock.

import (
	"errors"
	"fmt"
	"time"

	"go.atomizer.io/plex"
)

// ErrStalled is why a connection was killed that has brought nothing for as long as
// [WithStallTimeout] allows, although there were requests in flight over it.
var ErrStalled = errors.New("request: connection stalled")

// stallTicks is in how many parts the stall timeout is looked at: a stalled connection is found when
// it is over by one of them at most.
const stallTicks = 4

// stalling is what the table knows of a connection that may be stalled. The table's mutex guards it.
type stalling[R any] struct {
	pulse   *pulse
	timer   *time.Timer // nil before the first time
	runs    bool
	begun   uint64    // how often something has been expected after nothing was
	asked   uint64    // the pulse when it was last given a request
	lapsed  bool      // a request was given up; if the pulse is not asked any more, that says nothing
	seen    uint64    // the pulse and begun at the latest tick
	silent  int       // ticks in a row at which that was the same
	writing *batch[R] // what was being written at the latest tick
}

// expectLocked notes that n requests have just been given to a connection.
func (t *table[R]) expectLocked(l *link[R], n int) {
	s := &l.stalling
	beats := s.pulse.beats.Load()
	if beats != s.asked {
		s.asked, s.lapsed = beats, false
	}
	if l.live == n && !s.lapsed {
		s.begun++
	}
	if s.runs {
		return
	}
	s.runs, s.silent, s.seen = true, 0, s.asked+s.begun
	if s.timer == nil {
		s.timer = time.AfterFunc(t.stallTick(), func() { t.lookForStall(l) })
	} else {
		s.timer.Reset(t.stallTick())
	}
}

func (t *table[R]) stallTick() time.Duration { return max(t.stall/stallTicks, 1) }

// expectsLocked reports whether something must come over a connection. Requests without a reply are
// on it only while they are being written, each time anew.
func (t *table[R]) expectsLocked(l *link[R]) bool {
	if t.inOrder {
		return l.held > 0
	}
	return l.live > 0 || l.stalling.lapsed
}

// lookForStall is called by the timer of a connection.
func (t *table[R]) lookForStall(l *link[R]) {
	if t.tickStall(l) {
		l.conn.Kill()
	}
}

func (t *table[R]) tickStall(l *link[R]) (stalled bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &l.stalling
	s.runs = false
	if t.links[l.conn] != l {
		return false
	}
	beats := s.pulse.beats.Load()
	if beats != s.asked {
		s.lapsed = false
	}
	if !t.expectsLocked(l) {
		return false
	}
	// A Write that lasts is the business of WithWriteTimeout.
	if now := beats + s.begun; now != s.seen || l.writing != nil && l.writing == s.writing {
		s.seen, s.silent = now, 0
	} else {
		s.silent++
	}
	s.writing = l.writing
	if s.silent >= stallTicks {
		l.condemn(errStalled(l.conn, t.stall))
		return true
	}
	s.runs = true
	s.timer.Reset(t.stallTick())
	return false
}

// endLocked ends it.
func (s *stalling[R]) endLocked() {
	if s.timer != nil {
		s.timer.Stop()
	}
}

// errStalled is what requests fail with on a connection that is stalled.
func errStalled(conn plex.Conn, d time.Duration) error {
	return fmt.Errorf("request: connection to %v killed because nothing has come over it for %v, with requests in flight: %w",
		conn.RemoteAddr(), d, ErrStalled)
}
