package cases

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex/bench/harness"
	"go.atomizer.io/plex/bench/pools"
)

// The figures of giving up.
var (
	perWaiter = harness.Metric{Key: harness.TimePerOp, Title: "time for each", Unit: harness.Nanoseconds}
	served    = harness.Metric{Key: "leases/s", Title: "leases", Unit: harness.PerSecond, Higher: true}
	gaveUp    = harness.Metric{Key: "gave-up-%", Title: "gave up, of 100", Unit: harness.Number}
)

func cancelCases() []*harness.Case {
	return []*harness.Case{
		cancelAll(connections), cancelAll(1_000), cancelSome(),
	}
}

// waitersAtOnce is how many give up at once.
const waitersAtOnce = 1_000

// cancelAll compares the end of a thousand waits at once, by the end of the ctx
// that they have in common. All connections are taken meanwhile.
func cancelAll(conns int) *harness.Case {
	var subjects []harness.Subject
	for _, kind := range pools.All {
		subjects = append(subjects, harness.Subject{Name: kind.Name, Open: func() (harness.Work, error) {
			return openTaken(kind, conns)
		}})
	}
	return &harness.Case{
		Group:    GroupCancel,
		Name:     fmt.Sprintf("cancel/all/%d", conns),
		Title:    fmt.Sprintf("%s wait for %s", harness.Thousands(waitersAtOnce), plural(conns, "connection")),
		Compares: fmt.Sprintf("from the end of a ctx until all of %s callers that wait with it for one of %s have returned", harness.Thousands(waitersAtOnce), plural(conns, "connection")),
		Metrics:  []harness.Metric{perWaiter, harness.Allocs},
		Subjects: subjects,
		Ops:      3 * waitersAtOnce,
		Rounds:   15,
	}
}

// openTaken makes a pool of which all connections are taken.
func openTaken(kind pools.Kind, conns int) (harness.Work, error) {
	p, err := kind.Open(inMemory(conns))
	if err != nil {
		return harness.Work{}, err
	}
	release, err := pools.Hold(p, conns)
	if err != nil {
		p.Close()
		return harness.Work{}, err
	}
	return harness.Work{
		Run: func(n int) (harness.Sample, error) {
			var took time.Duration
			for done := 0; done < n; done += waitersAtOnce {
				d, err := giveUp(p, min(waitersAtOnce, n-done))
				if err != nil {
					return harness.Sample{}, err
				}
				took += d
			}
			return harness.Sample{Figures: map[string]float64{harness.TimePerOp: float64(took) / float64(n)}}, nil
		},
		Close: func() {
			release()
			p.Close()
		},
	}, nil
}

var errServed = errors.New("a caller got a connection, though all were taken")

// giveUp has n callers wait, and measures how long they take to give up.
func giveUp(p pools.Pool, n int) (time.Duration, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var (
		asking, waiters sync.WaitGroup
		wrong           atomic.Int64
	)
	asking.Add(n)
	for range n {
		waiters.Go(func() {
			asking.Done()
			if p.Use(ctx, func(net.Conn) {}) == nil {
				wrong.Add(1)
			}
		})
	}
	asking.Wait()
	time.Sleep(2 * time.Millisecond) // until the last of them waits
	start := time.Now()
	cancel()
	waiters.Wait()
	took := time.Since(start)
	if wrong.Load() > 0 {
		return 0, errServed
	}
	return took, nil
}

// cancelSome compares what those get who wait while others give up.
func cancelSome() *harness.Case {
	const goroutines = 256
	const patience = 100 * time.Microsecond
	return &harness.Case{
		Group: GroupCancel,
		Name:  "cancel/some",
		Title: fmt.Sprintf("half of %d goroutines give up after 100 µs", goroutines),
		Compares: fmt.Sprintf("%d goroutines on %d connections, of which every other waits with a ctx that ends after %v: leases of all of them",
			goroutines, connections, patience),
		Metrics: []harness.Metric{served, gaveUp, harness.Allocs},
		Subjects: ofPools(pools.All, inMemory(connections), func(p pools.Pool, n int) (harness.Sample, error) {
			return cancelWhile(p, goroutines, n, patience)
		}),
		Turn:   200 * time.Millisecond,
		Rounds: 7,
	}
}

func cancelWhile(p pools.Pool, goroutines, n int, patience time.Duration) (harness.Sample, error) {
	var left, got, failed atomic.Int64
	left.Store(int64(n))
	start := time.Now()
	err := parallel(goroutines, goroutines, func(i, _ int) error {
		use := func(net.Conn) {
			got.Add(1)
			runtime.Gosched()
		}
		for left.Add(-1) >= 0 {
			ctx, cancel := context.Background(), func() {}
			if i%2 == 0 {
				ctx, cancel = context.WithTimeout(ctx, patience)
			}
			err := p.Use(ctx, use)
			ended := ctx.Err() != nil
			cancel()
			if err != nil {
				if !ended {
					return err
				}
				failed.Add(1)
			}
		}
		return nil
	})
	took := time.Since(start)
	if err != nil {
		return harness.Sample{}, err
	}
	return harness.Sample{Figures: map[string]float64{
		served.Key: float64(got.Load()) / took.Seconds(),
		gaveUp.Key: 100 * float64(failed.Load()) / float64(n),
	}}, nil
}
