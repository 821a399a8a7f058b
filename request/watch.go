package request

// Watching the Writes that last. The table's mutex guards everything here.

import (
	"context"
	"time"

	"go.atomizer.io/plex"
)

// watching is what the table knows of the Write of a flusher.
type watching struct {
	place   int         // in table.busy
	serial  uint64      // of the Write
	seen    bool        // the timer had been set when it began, or has fired since
	stalled bool        // it has lasted for writePatience
	due     time.Time   // when the peer must have taken it, if it is stalled
	unwatch func() bool // keeps the caller's context from interrupting it; nil if it does not
}

// beginLocked gives a batch to the connection whose writer f has, and begins to watch the Write. The
// batch carries so many requests; it has none if it cancels or pings. The timer fires at most once in writePatience, because to
// set it for each Write would cost a lone caller a tenth of its requests.
func (t *table[R]) beginLocked(f *flusher[R], l *link[R], b *batch[R], carried int) {
	b.on = l
	l.writer, l.writing = f.writer, b
	f.batch, f.carried = b, carried
	t.serial++
	f.watching = watching{place: len(t.busy), serial: t.serial}
	t.busy = append(t.busy, f)
	if !t.soon {
		t.soon, f.seen = true, true
		t.watcher.Reset(writePatience)
	}
}

// endLocked ends it.
func (t *table[R]) endLocked(f *flusher[R]) {
	last := len(t.busy) - 1
	t.busy[f.place] = t.busy[last]
	t.busy[f.place].place = f.place
	t.busy[last] = nil
	t.busy = t.busy[:last]
}

// findings is what watch has found.
type findings[R any] struct {
	role    role         // for another flusher, because a Write of the one that led is stalled
	overdue []plex.Conn  // to be killed
	stalled []stalled[R] // since now
}

// stalled is a Write that is stalled in the goroutine of a caller whose context can end.
type stalled[R any] struct {
	flusher *flusher[R]
	serial  uint64
	caller  context.Context
	writer  plex.Writer
}

// watch looks at the Writes that last.
func (t *table[R]) watch(timeout time.Duration) (w findings[R]) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.soon = false
	now := time.Now()
	next := timeout
	for _, f := range t.busy {
		switch {
		case !f.seen:
			f.seen, t.soon = true, true
		case !f.stalled:
			f.stalled, f.due = true, now.Add(timeout-writePatience)
			if t.leader == f.number {
				t.leader = 0
			}
			if f.caller != nil {
				w.stalled = append(w.stalled, stalled[R]{f, f.serial, f.caller, f.writer})
			}
		case !now.Before(f.due):
			conn := f.batch.on.conn
			f.batch.on.condemn(errNotTaken(conn, timeout))
			w.overdue = append(w.overdue, conn)
			f.due = now.Add(timeout) // it is over soon
		}
		if f.stalled {
			next = min(next, f.due.Sub(now))
		}
	}
	if t.leader == 0 && t.first != nil {
		w.role = t.leadLocked()
	}
	switch {
	case t.soon:
		t.watcher.Reset(writePatience)
	case len(t.busy) > 0:
		t.watcher.Reset(max(next, writePatience))
	}
	return w
}

// mayResume reports whether a Write may have been interrupted for its caller: it is stalled, so that
// its flusher has lost the lead, and its connection goes on. The end of a connection interrupts the
// Write, too, and there is nothing to go on with then.
func (t *table[R]) mayResume(f *flusher[R]) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return f.stalled && f.batch.on.ended == nil
}

// watched notes what keeps the caller's context from interrupting a Write. It reports false if the
// Write has ended.
func (t *table[R]) watched(s stalled[R], unwatch func() bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := s.flusher; f.batch != nil && f.serial == s.serial {
		f.unwatch = unwatch
		return true
	}
	return false
}
