package request

import "time"

// rest has identifiers whose requests have failed, and to which a reply may come within moments, if
// at all. They are used again after they have rested for one to two periods of tidyEvery. Meanwhile
// they count as abandoned. The table's mutex guards it.
type rest[R any] struct {
	mark         call[R]  // stands for each of them in table.calls
	older, newer []uint64 // since before the last tidy, and after it
}

// addLocked makes an identifier rest that would otherwise be free now.
func (r *rest[R]) addLocked(t *table[R], id uint64) {
	t.calls[id] = &r.mark
	t.stats.Abandoned++
	r.newer = append(r.newer, id)
	t.tidyLaterLocked()
}

// tidyLocked frees those that have rested. It reports whether there are others.
func (r *rest[R]) tidyLocked(t *table[R]) (more bool) {
	r.freeLocked(t, r.older)
	r.older, r.newer = r.newer, r.older[:0]
	return len(r.older) > 0
}

// freeAllLocked frees all.
func (r *rest[R]) freeAllLocked(t *table[R]) {
	r.freeLocked(t, r.older)
	r.freeLocked(t, r.newer)
	r.older, r.newer = nil, nil
}

func (r *rest[R]) freeLocked(t *table[R], ids []uint64) {
	if len(ids) == 0 {
		return
	}
	for _, id := range ids {
		t.stats.Abandoned--
		t.freeLocked(id)
	}
	t.turnsLocked()
}

// quarantined is for how long at least the identifier of a request stays reserved that was cancelled
// and not answered.
const quarantined = time.Minute

// quarantine has identifiers whose requests have been cancelled. The server may never answer them,
// so without it their number would only grow for as long as their connections last. They are used
// again after one to two periods of quarantined, and only if they are so many that all others come
// before them.
type quarantine[R any] struct {
	rest[R]
	timer *time.Timer // nil before the first time
	runs  bool
}

func (q *quarantine[R]) addLocked(t *table[R], id uint64) {
	t.calls[id] = &q.mark
	t.stats.Abandoned++
	q.newer = append(q.newer, id)
	switch {
	case q.runs:
	case q.timer == nil:
		q.timer = time.AfterFunc(quarantined, func() { q.look(t) })
	default:
		q.timer.Reset(quarantined)
	}
	q.runs = true
}

// look frees those whose time is up.
func (q *quarantine[R]) look(t *table[R]) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed != nil {
		return
	}
	if q.runs = q.tidyLocked(t); q.runs {
		q.timer.Reset(quarantined)
	}
}

// endLocked frees all.
func (q *quarantine[R]) endLocked(t *table[R]) {
	q.freeAllLocked(t)
	if q.timer != nil {
		q.timer.Stop()
	}
}
