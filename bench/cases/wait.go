package cases

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex/bench/harness"
	"go.atomizer.io/plex/bench/pools"
)

// The figures of a wait.
var (
	rate     = harness.Metric{Key: "leases/s", Title: "leases", Unit: harness.PerSecond, Higher: true}
	waitP50  = harness.Metric{Key: "p50-wait-ns", Title: "wait, median", Unit: harness.Nanoseconds}
	waitP99  = harness.Metric{Key: "p99-wait-ns", Title: "wait, 99 %", Unit: harness.Nanoseconds}
	waitMax  = harness.Metric{Key: "max-wait-ns", Title: "wait, longest", Unit: harness.Nanoseconds}
	unevenly = harness.Metric{Key: "uneven", Title: "unevenness", Unit: harness.Number}
)

func waitCases() []*harness.Case {
	hold := func(d time.Duration) func() { return func() { time.Sleep(d) } }
	return []*harness.Case{
		handOff(32), handOff(512),
		wait(32, "1ms", "each sleeps for 1 ms", hold(time.Millisecond)),
		wait(512, "1ms", "each sleeps for 1 ms", hold(time.Millisecond)),
	}
}

// handOff is a wait for connections that are held for as short as can be.
func handOff(goroutines int) *harness.Case {
	c := wait(goroutines, "handoff", "each lets the others run once", runtime.Gosched)
	c.Metrics = append(c.Metrics, harness.Allocs) // which the start of the goroutines would hide among fewer waits
	return c
}

func wait(goroutines int, name, holding string, hold func()) *harness.Case {
	return &harness.Case{
		Group: GroupWait,
		Name:  fmt.Sprintf("wait/%s/%d", name, goroutines),
		Title: fmt.Sprintf("%s, %s", plural(goroutines, "goroutine"), holding),
		Compares: fmt.Sprintf("%s that each hold one of %d connections for a while, in which %s",
			plural(goroutines, "goroutine"), connections, holding),
		Metrics: []harness.Metric{rate, waitP50, waitP99, waitMax, unevenly},
		Subjects: ofPools(pools.All, inMemory(connections), func(p pools.Pool, n int) (harness.Sample, error) {
			return waitFor(p, goroutines, n, hold)
		}),
		Turn:   150 * time.Millisecond,
		Rounds: 7,
	}
}

// waitFor has n connections taken, by whichever goroutine gets one.
func waitFor(p pools.Pool, goroutines, n int, hold func()) (harness.Sample, error) {
	var (
		left  atomic.Int64
		waits = make([][]float64, goroutines)
	)
	for i := range waits {
		waits[i] = make([]float64, 0, 2*n/goroutines+1)
	}
	left.Store(int64(n))
	start := time.Now()
	err := parallel(goroutines, goroutines, func(i, _ int) error {
		var asked time.Time
		use := func(net.Conn) {
			waits[i] = append(waits[i], float64(time.Since(asked)))
			hold()
		}
		for left.Add(-1) >= 0 {
			asked = time.Now()
			if err := p.Use(context.Background(), use); err != nil {
				return err
			}
		}
		return nil
	})
	took := time.Since(start)
	if err != nil {
		return harness.Sample{}, err
	}
	figures := map[string]float64{rate.Key: float64(n) / took.Seconds()}
	most, least := 0, n
	for _, w := range waits {
		most, least = max(most, len(w)), min(least, len(w))
	}
	figures[unevenly.Key] = float64(most-least) * float64(goroutines) / float64(n)
	noteWaits(figures, slices.Concat(waits...))
	return harness.Sample{Figures: figures}, nil
}

// noteWaits adds the figures of waits, which it sorts.
func noteWaits(figures map[string]float64, waits []float64) {
	slices.Sort(waits)
	figures[waitP50.Key] = harness.Quantile(waits, 0.5)
	figures[waitP99.Key] = harness.Quantile(waits, 0.99)
	figures[waitMax.Key] = harness.Quantile(waits, 1)
}
