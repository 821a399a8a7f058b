package pace_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex/internal/pace"
)

var (
	dialTimes = []time.Duration{ms / 10, ms, 50 * ms, 500 * ms}
	sizes     = []int{1, 2, 3, 4, 5, 8, 16, 40, 100, 1000}
)

func TestANewPoolAndARestartWithoutARefusalTakeNoLongerThanABareLoop(t *testing.T) {
	for _, dial := range dialTimes {
		for _, n := range sizes {
			t.Run(fmt.Sprint(n, " connections, dials of ", dial), func(t *testing.T) {
				bare := bareLoop(n, dial)
				s := simulate(1, n, service{dial: dial, hangsUp: never})

				require.LessOrEqual(t, s.untilWhole(10*bare), bare, "a new pool")
				s.run(time.Minute)
				s.loseAll()

				took := s.untilWhole(10 * bare)
				t.Logf("whole after %v, the bare loop takes %v", took, bare)
				require.LessOrEqual(t, took, bare, "a restart")
				require.LessOrEqual(t, s.most, pace.MaxWindow)
				require.Len(t, s.dials, 2*n)
			})
		}
	}
}

// The service refuses connects for a while. From its return, the pool waits for the end of a pause, and is then whole in
// three times what a bare loop takes.
func TestAfterAnOutageAPoolIsWholeInThreeTimesABareLoop(t *testing.T) {
	for _, down := range []time.Duration{10 * ms, time.Second, 3 * time.Second, time.Minute, time.Hour} {
		for _, dial := range dialTimes {
			for _, n := range sizes {
				t.Run(fmt.Sprint("down for ", down, ", ", n, " connections, dials of ", dial), func(t *testing.T) {
					bare := bareLoop(n, dial)
					s := simulate(2, n, service{dial: dial, hangsUp: never})
					s.run(time.Minute + bare)
					s.service.refuses = true
					s.loseAll()
					s.run(max(down, 2*dial))
					s.service.refuses = false

					back, was := s.now, len(s.dials)
					s.run(5 * time.Minute)
					require.Greater(t, len(s.dials), was)

					probe := s.dials[was]
					took := s.wholeAt.Sub(probe)
					t.Logf("a probe %v after the return, whole %v later, the bare loop takes %v", probe.Sub(back), took, bare)
					require.Len(t, s.conns, n)
					require.LessOrEqual(t, took, 3*bare)
					require.LessOrEqual(t, probe.Sub(back), min(30*time.Second, 100*ms+down)+dial)
					require.Zero(t, s.early)
				})
			}
		}
	}
}

// probes is how often a service that refuses is dialled in so long a time, with the same chances.
func probes(seed uint64, dial, d time.Duration, waiting int) int {
	s := simulate(seed, 1, service{dial: dial, refuses: true})
	s.waiting = waiting
	s.run(d)

	return len(s.dials)
}

var ways = []struct {
	name          string
	greets, parts bool
}{{"silent", false, false}, {"greets first", true, false}, {"a last line", false, true}, {"both", true, true}}

// What a service that accepts and hangs up sees: each connection once, before anything can be known, and then the probes
// of the backoff.
func TestAServiceThatAcceptsAndHangsUpSeesTheProbesOfTheBackoff(t *testing.T) {
	const long = 10 * time.Minute

	for _, life := range []time.Duration{0, 5 * ms, 30 * ms, 50 * ms, 200 * ms, 900 * ms} {
		for _, way := range ways {
			for _, dial := range []time.Duration{ms, 50 * ms, 500 * ms} {
				for _, n := range []int{1, 4, 300} {
					for _, waiting := range []int{0, 5} {
						t.Run(fmt.Sprint(life, ", ", way.name, ", dials of ", dial, ", ", n, " connections, ", waiting, " waiting"), func(t *testing.T) {
							allowed := probes(3, dial, long, waiting)
							bad := service{dial: dial, hangsUp: life, greets: way.greets, parts: way.parts}

							s := simulate(3, n, service{dial: dial, hangsUp: never})
							s.waiting = waiting
							s.run(time.Minute + bareLoop(n, dial))
							s.service = bad
							s.loseAll()

							from := s.now
							s.run(long)
							t.Logf("%d connects in %v: the backoff allows %d, %d were missing", s.since(from), long, allowed, n)
							require.LessOrEqual(t, s.since(from), n+allowed+2)
							require.Zero(t, s.early)

							// Once seen, it is probed alone.
							from = s.now
							s.run(long)
							require.LessOrEqual(t, s.since(from), int(long/pace.WaiterFloor)*min(1, waiting)+int(long/(20*time.Second))+1)

							// And is trusted again when it is well: trials and pauses are over.
							s.service = healthy
							s.run(2 * time.Minute)
							require.Len(t, s.conns, n)
							require.Zero(t, s.Failures(s.now))
						})
					}
				}
			}
		}
	}
}

// A service that is not well yet when it comes back after an outage.
func TestAServiceThatRefusesAndThenHangsUpHasOneBurstAtMost(t *testing.T) {
	for _, life := range []time.Duration{0, 5 * ms, 30 * ms, 50 * ms, 200 * ms, 900 * ms} {
		for _, way := range ways {
			for seed := range uint64(10) {
				const (
					n    = 100
					long = time.Minute
				)

				s := simulate(seed, n, healthy)
				s.run(time.Minute)
				s.service = service{dial: ms, refuses: true, hangsUp: never}
				s.loseAll()
				s.run(300 * ms)
				s.service = service{dial: ms, hangsUp: life, greets: way.greets, parts: way.parts}

				from := s.now
				s.run(long)
				require.LessOrEqual(t, s.since(from), n+probes(seed, ms, long, 0)+2, "%v %v", life, way.name)
			}
		}
	}
}

// A service that lets its connections live twice as long each time gets a burst each time, and a longer pause after it.
func TestAServiceThatHangsUpLaterEachTimeCostsABurstForEachDoubling(t *testing.T) {
	const n = 100

	s := simulate(4, n, healthy)
	s.run(time.Minute)
	s.service.hangsUp = 10 * ms
	s.loseAll()

	from := s.now
	for range 200 {
		s.run(100 * ms)

		if s.service.hangsUp < 900*ms {
			s.service.hangsUp = s.service.hangsUp * 11 / 10
		}
	}

	require.LessOrEqual(t, s.since(from), 5*n+40)
}

// The service is full: it keeps so many connections, and hangs up on any more at once.
func TestAFullServiceIsLeftAlone(t *testing.T) {
	const most, n = 10, 16

	for _, way := range ways {
		s := simulate(5, n, healthy)
		s.target = most
		s.run(time.Minute)
		s.target = n
		s.service = service{dial: ms, hangsUp: 2 * ms, greets: way.greets, parts: way.parts}

		from := s.now
		s.run(10 * time.Minute)
		require.LessOrEqual(t, s.since(from), n-most+probes(5, ms, 10*time.Minute, 0)+2, way.name)
		require.Len(t, s.conns, most)
	}
}

// One of three servers behind a balancer hangs up. The pool becomes whole all the same, though some connects are in vain;
// sooner if its connections deliver something, since that proves the good ones useful though the pauses are long.
func TestABalancerWithOneBadServerInThree(t *testing.T) {
	for _, greets := range []bool{false, true} {
		for _, life := range []time.Duration{0, 30 * ms, 200 * ms, 600 * ms} {
			longest, dials := time.Duration(0), 0

			for seed := range uint64(40) {
				s := simulate(seed, 30, healthy)
				s.service.greets = greets
				chance := rand.New(rand.NewPCG(seed, 2))
				took := time.Duration(0)

				for ; took < 10*time.Minute && (len(s.conns) < 30 || s.now.Sub(s.wholeAt) < time.Second); took += ms {
					s.service.hangsUp = never
					if chance.IntN(3) == 0 {
						s.service.hangsUp = life
					}

					s.run(ms)
				}

				longest, dials = max(longest, took), max(dials, len(s.dials))
			}

			t.Logf("hangs up after %v, greets %v: whole after %v, with %d connects, at worst of 40", life, greets, longest, dials)
			require.Less(t, longest, 5*time.Minute)
			require.Less(t, dials, 200)

			if greets {
				require.Less(t, longest, time.Minute)
			}
		}
	}
}

// A consumer that kills its connections says nothing about the service.
func TestKilledConnectionsAreReplacedAtOnce(t *testing.T) {
	s := simulate(6, 4, healthy)
	s.run(10 * ms)

	for range 1000 {
		for _, c := range s.open() {
			s.kill(c)
		}

		from := s.now
		require.Equal(t, ms, s.untilWhole(time.Second))
		require.Equal(t, 4, s.since(from))
		require.Zero(t, s.Failures(s.now))
	}
}

// The one that is on trial is killed: another takes its place at once, with no pause, and the trial begins again.
func TestAKilledConnectionProvesNothing(t *testing.T) {
	s := simulate(7, 4, healthy)
	s.run(time.Minute)
	s.service.hangsUp = 30 * ms
	s.loseAll()
	s.run(10 * time.Second)
	s.service = healthy

	for len(s.conns) == 0 {
		s.run(ms)
	}

	failures := s.Failures(s.now)
	require.Greater(t, failures, 3)

	for range 100 {
		was := len(s.dials)

		s.run(50 * ms)
		require.Len(t, s.conns, 1)
		require.Len(t, s.dials, was)

		for _, c := range s.open() {
			s.kill(c)
		}

		s.run(ms)
		require.Len(t, s.dials, was+1)
		require.Equal(t, failures, s.Failures(s.now))
	}

	s.run(80 * ms)
	require.Len(t, s.conns, 4)
}

// Connects that hang are given up after the patience and probed under the backoff; those that are only slow come in.
func TestSlowConnects(t *testing.T) {
	for _, dial := range []time.Duration{999 * ms, 1500 * ms, 5 * time.Second, time.Minute} {
		s := simulate(8, 16, service{dial: dial, hangsUp: never})
		s.run(16 * dial)
		require.Len(t, s.conns, 16, dial)
		require.Len(t, s.dials, 16, dial)
	}

	hang := simulate(8, 1000, service{dial: time.Hour, hangsUp: never})
	hang.run(10 * time.Minute)
	require.LessOrEqual(t, len(hang.dials), 4+probes(8, ms, 10*time.Minute, 0))
}

// Whatever the service does: bounds are kept, no connect comes before its time, and in the end all is well.
func TestBoundsHoldAndThereIsAlwaysProgress(t *testing.T) {
	runs := uint64(200)
	if testing.Short() {
		runs = 50
	}

	for seed := range runs {
		rng := rand.New(rand.NewPCG(seed, 3))
		pick := func(ds ...time.Duration) time.Duration { return ds[rng.IntN(len(ds))] }
		s := simulate(seed, 1+rng.IntN(80), healthy)
		s.capacity += rng.IntN(20)

		if rng.IntN(2) == 0 {
			s.maxConnecting = 1 + rng.IntN(6)
		}

		if rng.IntN(4) == 0 {
			s.backoff = func(int) time.Duration {
				return pick(-1, 0, 1, ms, 100*ms, time.Second, 20*time.Second)
			}
		}

		for range 30 {
			s.service = service{
				dial: pick(0, ms/10, ms, 50*ms, 500*ms, 1500*ms), refuses: rng.IntN(3) == 0,
				hangsUp: pick(never, never, 0, 5*ms, 30*ms, 200*ms, 3*time.Second), greets: rng.IntN(2) == 0, parts: rng.IntN(2) == 0,
			}

			if s.service.dial == 0 && (s.service.refuses || s.service.hangsUp == 0) {
				s.service.dial = ms // else time stands still where the pause is 0
			}

			s.waiting = rng.IntN(3) * rng.IntN(20)
			s.overdue = min(s.waiting, rng.IntN(20))
			if s.waiting > 0 && s.earliest.After(s.now) && s.backoff == nil {
				s.earliest = s.now // who has just come may find the floor behind him
			}

			for _, c := range s.open() {
				switch rng.IntN(6) {
				case 0:
					s.lose(c)
				case 1:
					s.kill(c)
				}
			}

			s.run(time.Duration(rng.ExpFloat64() * float64(pick(ms, 100*ms, time.Second, 10*time.Second))))

			require.LessOrEqual(t, s.most, s.capacity, "seed %d", seed)
			require.LessOrEqual(t, len(s.conns)+len(s.attempts), s.capacity, "seed %d", seed)
			require.LessOrEqual(t, s.inTime, pace.MaxWindow, "seed %d", seed)

			if s.maxConnecting > 0 {
				require.LessOrEqual(t, s.most, s.maxConnecting, "seed %d", seed)
			}
		}

		require.Zero(t, s.early, "seed %d", seed)
		require.Zero(t, s.beside, "seed %d", seed)

		s.service = healthy
		s.waiting, s.overdue = 0, 0
		s.run(2 * time.Minute)
		require.GreaterOrEqual(t, len(s.conns), s.target, "seed %d", seed)
		require.Empty(t, s.attempts, "seed %d", seed)
		require.Zero(t, s.Failures(s.now), "seed %d", seed)
		require.Zero(t, s.Backoff(s.now), "seed %d", seed)
	}
}
