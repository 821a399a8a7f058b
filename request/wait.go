package request

// Waiting for a connection: one flusher waits for all whose requests are gathered. The table's
// mutex guards everything here.

import (
	"errors"
	"time"

	"go.atomizer.io/plex"
)

// await notes that f waits for a connection, until stop is called because nobody needs one any
// more. The timeout is that of the call that has waited longest. If there is nothing to be written,
// or if another flusher waits already, ok is false, and f has lost the lead.
func (t *table[R]) await(f *flusher[R], stop func()) (timeout time.Duration, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.first == nil {
		if f.waits {
			t.stop, f.waits = nil, false
		}
		if t.leader == f.number {
			t.leader = 0
		}
		return 0, false
	}
	now := t.clock()
	switch {
	case f.waits:
	case t.stop != nil:
		return 0, false
	default:
		t.leader, t.waiting, f.waits = f.number, now, true
	}
	t.stop = stop
	if t.timeout > 0 {
		timeout = t.sinceLocked(t.first.calls.head) + t.timeout - now
		if timeout <= 0 {
			timeout = noWait
		}
	}
	return timeout, true
}

// sinceLocked is when a call has begun to wait for a connection.
func (t *table[R]) sinceLocked(c *call[R]) time.Duration {
	if c.since > 0 {
		return c.since
	}
	return t.waiting
}

// unserved takes out the calls that there is no connection for: those whose time is up, or, for any
// other error, all. The caller fails them.
func (t *table[R]) unserved(err error) (victims list[R]) {
	timedOut := errors.Is(err, plex.ErrTimeout)
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.clock()
	for t.first != nil {
		c := t.first.calls.head
		if timedOut && t.sinceLocked(c)+t.timeout > now {
			break
		}
		t.cutOutLocked(c)
		t.freeLocked(c.id)
		t.failLocked(c, false, &victims)
	}
	t.turnsLocked()
	return victims
}
