// Package shards simulates what it would give, and cost, to divide the queue of idle halves among
// the processors.
//
// It is a model, so it is the same in every run. A queue serves one operation at a time, and an
// operation costs more if another processor made the one before, as the queue's memory then moves
// from core to core. Waking a goroutine is left out: it costs the same with one queue and with many.
package shards

import (
	"slices"
	"time"
)

// Model is one set-up.
type Model struct {
	Processors  int
	Workers     int // for each processor: goroutines that lease, use and give back, over and over
	Connections int
	Use         time.Duration // processor time of what is done with a lease

	Local time.Duration // an operation on a queue that this processor has used last
	Moved time.Duration // one on a queue that another has

	Sharded bool // each processor has a queue of its own
	// Oldest is at which release, of those of one processor, the half goes to the caller who has
	// waited longest, wherever it waits. Otherwise it goes to the first in the own queue. 0 is never.
	Oldest int
}

// Result is what comes of it.
type Result struct {
	Leases     int
	Took       time.Duration
	Overtaken  int // the most callers who came later than one who waited, and were served before it
	BeyondMost int // by how much any was overtaken more often than the bound allows; 0 if none was
}

// PerSecond is how many leases there are in a second.
func (r Result) PerSecond() float64 { return float64(r.Leases) / r.Took.Seconds() }

// Most is the bound on how many may overtake a caller who finds so many others waiting. Of each
// Oldest releases of a processor one goes to the caller who has waited longest. That caller is
// served, at the latest, by as many of those as were waiting before it and one more, and each
// processor may be just about to make its first.
func (m Model) Most(waiting int) int { return (m.Oldest - 1) * (waiting + 1 + m.Processors) }

// queue is one queue of idle halves.
type queue struct {
	free  time.Duration // when it can serve the next operation
	last  int           // the processor that used it last
	idle  int
	given int // releases of its processor
}

// worker is one goroutine.
type worker struct {
	processor int
	holds     bool          // it has a lease
	from      time.Duration // when it can go on
	found     int           // how many waited when it came
	overtaken int
}

// processor is one core.
type processor struct {
	now   time.Duration
	ready []*worker
}

type simulation struct {
	Model
	queues     []*queue
	processors []*processor
	waiting    []*worker // in the order in which they came
	result     Result
}

// Run has so many leases taken and given back.
func (m Model) Run(leases int) Result {
	s := &simulation{Model: m}
	for i := range m.Processors {
		p := new(processor)
		for range m.Workers {
			p.ready = append(p.ready, &worker{processor: i})
		}
		s.processors = append(s.processors, p)
		if i == 0 || m.Sharded {
			s.queues = append(s.queues, &queue{last: i})
		}
	}
	for i := range m.Connections {
		s.queues[i%len(s.queues)].idle++
	}
	for s.result.Leases < leases {
		s.step()
	}
	for _, w := range s.waiting {
		s.note(w)
	}
	return s.result
}

// step has the processor that is behind the others run a worker until it needs a queue again.
func (s *simulation) step() {
	var p *processor
	for _, other := range s.processors {
		if len(other.ready) > 0 && (p == nil || other.now < p.now) {
			p = other
		}
	}
	w := p.ready[0]
	p.ready = p.ready[1:]
	p.now = max(p.now, w.from)
	if !w.holds {
		s.acquire(p, w)
		return
	}
	p.now += s.Use
	s.release(p, w)
	p.ready = append(p.ready, w)
	s.result.Leases++
	s.result.Took = max(s.result.Took, p.now)
}

// home is a worker's queue.
func (s *simulation) home(w *worker) *queue { return s.queues[w.processor%len(s.queues)] }

// operate has a processor wait for a queue and use it.
func (s *simulation) operate(p *processor, by int, q *queue) {
	cost := s.Moved
	if q.last == by {
		cost = s.Local
	}
	q.last = by
	q.free = max(p.now, q.free) + cost
	p.now = q.free
}

// acquire takes an idle half from the own queue or another, or waits in the own one.
func (s *simulation) acquire(p *processor, w *worker) {
	q := s.home(w)
	s.operate(p, w.processor, q)
	for i := 1; q.idle == 0 && i < len(s.queues); i++ {
		if other := s.queues[(w.processor+i)%len(s.queues)]; other.idle > 0 {
			s.operate(p, w.processor, other)
			q = other
		}
	}
	if q.idle > 0 {
		q.idle--
		w.holds = true
		p.ready = append([]*worker{w}, p.ready...) // it runs on
		return
	}
	w.found, w.overtaken = len(s.waiting), 0
	s.waiting = append(s.waiting, w)
}

// release gives a half to a caller who waits, or back to the own queue.
func (s *simulation) release(p *processor, w *worker) {
	w.holds = false
	q := s.home(w)
	s.operate(p, w.processor, q)
	if len(s.waiting) == 0 {
		q.idle++
		return
	}
	q.given++
	own := slices.IndexFunc(s.waiting, func(other *worker) bool { return s.home(other) == q })
	if s.Oldest > 0 && q.given%s.Oldest == 0 {
		own = 0
	}
	at := max(own, 0)
	next := s.waiting[at]
	for _, other := range s.waiting[:at] {
		other.overtaken++
	}
	s.waiting = slices.Delete(s.waiting, at, at+1)
	if theirs := s.home(next); theirs != q {
		s.operate(p, w.processor, theirs)
	}
	s.note(next)
	next.holds, next.from = true, p.now
	other := s.processors[next.processor]
	other.ready = append(other.ready, next)
}

// note keeps account of how often a caller who has waited was overtaken.
func (s *simulation) note(w *worker) {
	s.result.Overtaken = max(s.result.Overtaken, w.overtaken)
	s.result.BeyondMost = max(s.result.BeyondMost, w.overtaken-s.Most(w.found))
}
