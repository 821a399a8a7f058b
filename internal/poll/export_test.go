package poll

// Members returns how many members p has.
func (p *Poller[T]) Members() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.members)
}

// SetLast has the numbers of members go on after last.
func (p *Poller[T]) SetLast(last uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = last
}

// Key is the number of m.
func (m *Member[T]) Key() uint32 { return m.key }
