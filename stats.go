package plex

import "time"

// Stats is a snapshot of a multiplexer. Gauges say what is, counters what has
// been since New and only ever grow. A half that is leased while its connection
// is lost counts as leased until its lease ends, so that Leased may exceed Open
// for that long.
type Stats struct {
	// Gauges.
	Capacity      int // most connections open or being connected at one moment
	Open          int // connections open
	Connecting    int // connections on their way
	IdleReaders   int // read halves that can be leased now
	LeasedReaders int // read halves in consumers' hands
	IdleWriters   int // write halves that can be leased now
	LeasedWriters int // write halves in consumers' hands
	Waiting       int // callers blocked in Reader or Writer
	WaitingReady  int // callers blocked in ReadyReader

	// Counters.
	Acquired       uint64 // leases
	Waited         uint64 // acquires that had to wait, whatever came of it
	TimedOut       uint64 // acquires that failed by their timeout
	Canceled       uint64 // acquires that failed by their ctx
	Connected      uint64 // connects that brought a connection
	ConnectFailed  uint64 // connects that failed
	Lost           uint64 // connections that failed or were killed
	Healed         uint64 // lost connections replaced
	ScaledUp       uint64 // connections added because callers waited
	ScaledDown     uint64 // connections closed because nobody needed them
	Expired        uint64 // connections replaced because of their age
	Killed         uint64 // connections killed by consumers; they count as lost, too
	SuspectedLeaks uint64 // leases that were held for longer than WithLeakDetection allows

	WaitDuration     time.Duration // time that acquires have waited, all added up
	LastConnectError error         // of the latest connect; nil if it succeeded
}

// Stats returns a snapshot. Each half is looked at once, so idle and leased
// halves add up; it costs a few nanoseconds for each connection, and none for
// those who acquire meanwhile.
func (m *Multiplexer) Stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.statsLocked()
}

func (m *Multiplexer) statsLocked() Stats {
	s := m.stats
	s.Capacity, s.Open, s.Connecting = m.capacity, m.open, m.connecting
	for c := range m.conns {
		if !c.admitted {
			continue
		}
		s.Acquired += c.r.leases() + c.w.leases()
		c.r.tally(&s.IdleReaders, &s.LeasedReaders)
		c.w.tally(&s.IdleWriters, &s.LeasedWriters)
	}
	// A caller that comes upon a half which it cannot have is counted for a
	// moment.
	m.acquired = max(m.acquired, s.Acquired)
	s.Acquired = m.acquired
	for _, q := range []*queue{&m.readers, &m.writers} {
		s.Waiting += int(q.waiting.Load())
		s.Waited += q.waited.Load()
		s.TimedOut += q.timedOut.Load()
		s.Canceled += q.canceled.Load()
		s.WaitDuration += time.Duration(q.waitTime.Load())
	}
	s.WaitingReady = int(m.ready.waiting.Load())
	s.LastConnectError = m.lastErr
	return s
}

// tally counts h, of an admitted connection, as idle or leased.
func (h *half) tally(idle, out *int) {
	switch w := h.state.Load(); {
	case h.settled:
	case w&leased != 0 && w&^flags != firstLease: // the first lease is no consumer's
		*out++
	case w&gone == 0:
		*idle++
	}
}

// fewConnections can be looked at for each failed acquire.
const fewConnections = 64

// acquireFailed makes the diagnosis for an acquire that has failed.
func (m *Multiplexer) acquireFailed(q *queue, waited time.Duration, why error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	// To count what is leased costs a look at every connection. When many
	// callers fail at once, they share the figure of a moment ago.
	if now := time.Now(); len(m.conns) <= fewConnections || now.Sub(m.countedAt) > time.Millisecond {
		m.counts, m.countedAt = m.statsLocked(), now
	}
	s := m.counts
	e := &AcquireError{
		Half: q.name, Waited: waited, Err: why, Connect: m.lastErr,
		Capacity: m.capacity, Open: m.open, Connecting: m.connecting,
		Leased: s.LeasedReaders, Waiting: int(q.waiting.Load()),
	}
	if q == &m.writers {
		e.Leased = s.LeasedWriters
	}
	return e
}
