package request

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
