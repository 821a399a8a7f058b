package plex

import (
	"sync"
	"time"
)

// Stats is a snapshot of a multiplexer. Gauges say what is, counters what has been since New and
// only ever grow. A half that is leased while its connection is lost counts as leased until its
// lease ends, so that Leased may exceed Open for that long.
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
	Retired        uint64 // healthy connections that plex has taken out, for whatever reason: also the two above
	Killed         uint64 // connections killed by consumers; they count as lost, too
	Probed         uint64 // idle connections that were asked whether they live
	Refused        uint64 // acquires that failed at once, by WithMaxWaiting or WithFailFast
	SuspectedLeaks uint64 // leases that were held for longer than WithLeakDetection allows

	ConnectDuration  time.Duration // time that connects have taken, all added up
	Backoff          time.Duration // what is left of the pause before the next connect; 0 if there is none
	Connects         Histogram     // connects by how long they took
	WaitDuration     time.Duration // time that acquires have waited, all added up
	Waits            Histogram     // the same by their length
	LastConnectError error         // of the latest connect; nil if it succeeded
}

// Stats returns a snapshot. Each half is looked at once, so idle and leased halves add up. It costs
// a few nanoseconds for each connection, and none for those who acquire meanwhile.
func (m *Multiplexer) Stats() Stats {
	var halves Stats
	conns := snapshots.Get().(*[]*conn)
	*conns, halves.Acquired = m.roster.appendWithLeases((*conns)[:0])
	for _, c := range *conns {
		halves.Acquired += c.leases()
		c.r.word().tally(&halves.IdleReaders, &halves.LeasedReaders)
		c.w.word().tally(&halves.IdleWriters, &halves.LeasedWriters)
	}
	clear(*conns)
	snapshots.Put(conns)

	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.stats
	s.Acquired = halves.Acquired
	s.Capacity, s.Open, s.Connecting = m.capacity, m.open, m.connecting
	s.IdleReaders, s.LeasedReaders = halves.IdleReaders, halves.LeasedReaders
	s.IdleWriters, s.LeasedWriters = halves.IdleWriters, halves.LeasedWriters
	queues := []*queue{&m.writers, &m.readers}
	if m.readers.ready.Load() {
		queues = queues[:1] // waiting for what arrives says nothing about the pool
		s.WaitingReady = int(m.readers.waiting.Load())
	}
	for _, q := range queues {
		s.Waiting += int(q.waiting.Load())
		s.Waited += q.waited.Load()
		s.TimedOut += q.timedOut.Load()
		s.Canceled += q.canceled.Load()
		s.Refused += q.refused.Load()
		s.WaitDuration += time.Duration(q.waitTime.Load())
		q.waits.addTo(&s.Waits)
	}
	s.Backoff = m.healer.pace.Backoff(time.Now())
	s.LastConnectError = m.lastErr
	return s
}

// noteConnect accounts for how long a connect has taken.
func (s *Stats) noteConnect(took time.Duration) {
	s.ConnectDuration += took
	s.Connects.add(took)
}

// snapshots are copies of rosters, reused since some callers ask for Stats all the time.
var snapshots = sync.Pool{New: func() any { return new([]*conn) }}

// tally counts a half as idle or leased. One that is being admitted is neither.
func (w word) tally(idle, out *int) {
	switch {
	case w.over() || w.lease() == firstLease && w.is(leaseLive):
	case w.is(leaseLive):
		*out++
	case !w.is(poolRetired):
		*idle++
	}
}

// acquireFailed makes the diagnosis for an acquire that has failed.
func (m *Multiplexer) acquireFailed(q *queue, waited time.Duration, why error) *AcquireError {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &AcquireError{
		Pool: m.cfg.name.Get(), Half: q.name(), Waited: waited, Err: why, Connect: m.lastErr,
		Capacity: m.capacity, Open: m.open, Connecting: m.connecting,
		Leased: q.leased(), Waiting: int(q.waiting.Load()),
	}
}
