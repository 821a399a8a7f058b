package pace_test

// A simulation of one pool and one service in fake time: events in order of time, no goroutine, no clock. The tests
// that use it count connects and measure simulated time.

import (
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"go.atomizer.io/plex/internal/pace"
	"go.atomizer.io/plex/internal/pace/pacesim"
)

const (
	ms    = time.Millisecond
	never = time.Duration(-1)
)

// start is when each simulation begins.
var start = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// service is how the service behaves at a moment.
type service struct {
	dial    time.Duration // how long a connect takes
	refuses bool
	hangsUp time.Duration // how long it keeps a connection; never: for ever
	greets  bool          // it sends a line at once
	parts   bool          // it sends a line just before it hangs up
}

var healthy = service{dial: ms, hangsUp: never}

type attempt struct {
	epoch pace.Epochs
	stage pace.Stage
}

type connection struct {
	n        int // in the order of their admission
	epoch    pace.Epochs
	admitted time.Time
	lost     bool
}

// simulation is a pool that owns a Service with one address, 0.
type simulation struct {
	pace.Service[int]

	service service
	rng     *rand.Rand
	backoff func(failures int) time.Duration // nil: the default

	target, capacity, maxConnecting, waiting, overdue int

	now      time.Time
	admitted int
	agenda   pacesim.Agenda
	wake     time.Time

	attempts map[*attempt]bool
	conns    map[*connection]bool

	dials    []time.Time
	most     int         // connects under way at once
	inTime   int         // the same, of those that have not taken too long
	beside   int         // connects that started beside a probe of a service that is down
	answered pace.Epochs // the epoch in which the last connect succeeded
	earliest time.Time   // no connect may start before, by the pauses and their floor
	early    int         // connects that did
	wholeAt  time.Time   // when the pool was last made whole
}

func simulate(seed uint64, target int, s service) *simulation {
	sim := &simulation{
		service: s, target: target, capacity: target, now: start,
		rng:      rand.New(rand.NewPCG(seed, 1)),
		attempts: map[*attempt]bool{}, conns: map[*connection]bool{},
	}
	sim.List([]int{0}, start)

	return sim
}

func (s *simulation) after(d time.Duration, do func()) {
	s.agenda.Plan(s.now.Add(d).Sub(start), do)
}

// run goes on until so long after the present moment.
func (s *simulation) run(d time.Duration) {
	end := s.now.Add(d)
	s.decide()

	for at, ok := s.agenda.First(); ok && !start.Add(at).After(end); {
		s.now = start.Add(at)
		s.agenda.Take()()

		if at, ok = s.agenda.First(); !ok || start.Add(at).After(s.now) { // as a supervisor, woken by several things at once
			s.decide()
			at, ok = s.agenda.First()
		}
	}

	s.now = end
}

// untilWhole runs until nothing is missing, and returns how long that took.
func (s *simulation) untilWhole(most time.Duration) time.Duration {
	from := s.now
	for s.decide(); len(s.conns) < s.target && s.now.Sub(from) < most; {
		s.run(ms / 4)
	}

	return s.wholeAt.Sub(from)
}

func (s *simulation) decide() {
	if state, failures := s.Unpaused(); state != nil {
		pause := pace.DefaultBackoff(failures, s.rng.Float64())
		if s.backoff != nil {
			pause = s.backoff(failures)
		}

		state.SetPause(failures, pause, s.backoff == nil)
		s.earliest = s.now.Add(pause) // asked for in the moment of the failure
		if s.waiting > 0 && s.backoff == nil && pause > pace.WaiterFloor {
			s.earliest = s.now.Add(pace.WaiterFloor)
		}
	}

	d := pace.Demand{
		Target: s.target, Capacity: s.capacity, Open: len(s.conns), Connecting: len(s.attempts), MaxConnecting: s.maxConnecting,
		Waiting: s.waiting, Overdue: s.overdue,
	}

	starts, wake := s.Decide(s.now, d, nil)
	if !wake.IsZero() && !wake.Equal(s.wake) {
		s.wake = wake
		s.after(wake.Sub(s.now), func() { s.wake = time.Time{} })
	}

	for _, c := range starts {
		if c.Grows {
			s.target++
		}

		s.connect(c.Grows)
	}
}

func (s *simulation) connect(grows bool) {
	if s.now.Before(s.earliest) {
		s.early++
	}

	a := &attempt{epoch: s.Epoch(0), stage: pace.Healing}
	if grows {
		a.stage = pace.Growing
	}

	s.Begin(0, a.stage)
	inTime := 1

	for other := range s.attempts {
		if other.stage != pace.Slow {
			inTime++
		}

		// A consumer that has killed the connection that came says nothing about the service.
		if other.epoch == a.epoch && other.stage != pace.Slow && s.Failures(s.now) > 0 && s.answered != a.epoch {
			s.beside++
		}
	}

	s.inTime = max(s.inTime, inTime)
	s.attempts[a] = true
	s.dials = append(s.dials, s.now)
	s.most = max(s.most, len(s.attempts))
	as := s.service

	if as.dial > pace.Patience {
		s.after(pace.Patience, func() {
			s.Turn(0, a.stage, pace.Slow)
			a.stage = pace.Slow
			s.Failed(0, a.epoch, s.now)
		})
	}

	s.after(as.dial, func() {
		delete(s.attempts, a)
		s.End(0, a.stage)

		if as.refuses {
			s.Failed(0, a.epoch, s.now)
			return
		}

		s.earliest = time.Time{} // the service is there
		s.admitted++
		s.answered = s.Epoch(0)
		c := &connection{n: s.admitted, admitted: s.now, epoch: s.Connected(0, s.now)}
		s.conns[c] = true

		if len(s.conns) == s.target && len(s.attempts) == 0 {
			s.wholeAt = s.now
			s.Whole(s.now)
		}

		if as.greets {
			s.Delivered(0, c.epoch, c.admitted, s.now)
		}

		if as.hangsUp != never {
			s.after(as.hangsUp, func() {
				if as.parts && !c.lost {
					s.Delivered(0, c.epoch, c.admitted, s.now)
				}

				s.lose(c)
			})
		}
	})
}

func (s *simulation) lose(c *connection) {
	if !c.lost {
		c.lost = true
		delete(s.conns, c)
		s.Lost(0, c.epoch, c.admitted, s.now)
	}
}

// kill ends a connection as a consumer does.
func (s *simulation) kill(c *connection) {
	if !c.lost {
		c.lost = true
		delete(s.conns, c)
		s.Gone(0, c.epoch, c.admitted, s.now)
	}
}

// loseAll is what a restart of the service does.
func (s *simulation) loseAll() {
	for _, c := range s.open() {
		s.lose(c)
	}
}

// open returns the connections in the order of their admission, so that a seed is always the same run.
func (s *simulation) open() []*connection {
	return slices.SortedFunc(maps.Keys(s.conns), func(a, b *connection) int { return a.n - b.n })
}

// since counts the connects that started at that moment or later.
func (s *simulation) since(t time.Time) int {
	n := 0

	for _, at := range s.dials {
		if !at.Before(t) {
			n++
		}
	}

	return n
}

// bareLoop is how long n connects take, four at a time, one after the other.
func bareLoop(n int, dial time.Duration) time.Duration {
	return time.Duration((n+3)/4) * dial
}
