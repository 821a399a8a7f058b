package bench_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex/bench/cases"
	"go.atomizer.io/plex/bench/harness"
)

// The guard. Its bounds are far above what is measured, so that they hold on a
// busy machine, and far below what a lock or an allocation in the wrong place
// would cost. No absolute time is held against anything.
const (
	acquireBound   = 2.5     // times a bare channel, with one goroutine; 1.4 is measured
	contendedBound = 6       // the same with several; 1.4, or 2 to 3 while the cores fight for the same cache lines
	memoryBound    = 2 << 10 // bytes for each idle connection; 900 are measured
)

// attempts is how often a ratio that is too high is measured again, since a busy
// machine may have got in the way.
const attempts = 3

func TestAcquireCostsLittleMoreThanAChannel(t *testing.T) {
	for _, goroutines := range []int{1, 4, 32} {
		c := cases.Acquire(goroutines)
		bound := acquireBound * raceTime
		if goroutines > 1 {
			bound = contendedBound * raceTime
		}
		t.Run(c.Title, func(t *testing.T) {
			var ratio float64
			for range attempts {
				r := run(t, c.Only("plex", "channel"), 15)
				if ratio = r.BestRatio("channel", harness.TimePerOp); ratio <= bound {
					break
				}
			}
			t.Logf("%.2f × a bare channel", ratio)
			assert.LessOrEqual(t, ratio, bound)
		})
	}
}

// A figure of allocations is for each operation, rounded to a tenth: what the
// runtime allocates for itself in a turn does not show.
func TestTheCommonPathsAllocateNothing(t *testing.T) {
	for name, most := range map[string]float64{
		"acquire/1": 0, "acquire/32": 0, "duplex/1": 0, "duplex/32": 0, "write/tcp/64": 0, "write/tcp/64/lease": 0, "read/tcp/64": 0, "send": 0,
		"gather/1": 0.3, // a client pins its connections anew from time to time, by the clock
	} {
		t.Run(name, func(t *testing.T) {
			if most > 0 && raceTime > 1 {
				t.Skip("sync.Pool drops items at random under the race detector")
			}
			best := 1.0
			for range attempts {
				best = min(best, run(t, find(t, name).Only("plex"), 3).Best(harness.AllocsPerOp))
				if best <= most {
					break
				}
			}
			assert.LessOrEqual(t, best, most)
		})
	}
}

func TestAnIdleConnectionTakesLittle(t *testing.T) {
	r := run(t, cases.Idle(other, 1_000).Only("plex"), 3)
	t.Logf("%.0f B for each connection", r.Best(cases.BytesPerConn))
	assert.LessOrEqual(t, r.Best(cases.BytesPerConn), float64(memoryBound*raceMemory))
	assert.Less(t, r.Best(cases.GoroutinesPerConn), 0.01, "no goroutine for each connection")
}

// run measures c with short turns.
func run(t *testing.T, c *harness.Case, rounds int) *harness.Result {
	t.Helper()
	short := *c
	short.Turn = 10 * time.Millisecond
	if strings.HasPrefix(c.Name, "gather/") { // a request takes so long that pools filled anew in each turn would show
		short.Turn = 100 * time.Millisecond
	}
	r, err := harness.Run(t.Context(), &short, harness.Options{Rounds: rounds})
	require.NoError(t, err)
	return r
}

// find returns the case of that name.
func find(t *testing.T, name string) *harness.Case {
	t.Helper()
	for _, c := range cases.All(other) {
		if c.Name == name {
			return c
		}
	}
	require.FailNow(t, "there is no case of the name "+name)
	return nil
}
