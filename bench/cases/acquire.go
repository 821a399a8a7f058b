package cases

import (
	"fmt"
	"time"

	"go.atomizer.io/plex/bench/harness"
	"go.atomizer.io/plex/bench/pools"
)

// AcquireGoroutines is with how many goroutines connections are acquired.
var AcquireGoroutines = []int{1, 4, 32, 512, 10_000}

func acquireCases() []*harness.Case {
	var cases []*harness.Case
	for _, g := range AcquireGoroutines {
		cases = append(cases, Acquire(g))
	}
	return cases
}

// AcquireName is the name of the case with so many goroutines.
func AcquireName(goroutines int) string { return fmt.Sprintf("acquire/%d", goroutines) }

// Acquire compares what it costs to take a connection and give it back, and
// nothing else.
func Acquire(goroutines int) *harness.Case {
	c := &harness.Case{
		Group:    GroupAcquire,
		Name:     AcquireName(goroutines),
		Title:    plural(goroutines, "goroutine"),
		Compares: fmt.Sprintf("taking a connection and giving it back at once, %s on %d connections", plural(goroutines, "goroutine"), connections),
		Metrics:  []harness.Metric{harness.Time, harness.Allocs},
		Subjects: cycling(pools.All, goroutines),
	}
	switch {
	case goroutines == 1:
		c.Targets = append(c.Targets, harness.AtMost(1.35, pools.Channel.Name, harness.TimePerOp))
	case goroutines <= 512:
		c.Targets = append(c.Targets, harness.AtMost(1.5, pools.Channel.Name, harness.TimePerOp))
	}
	if goroutines == 32 || goroutines == 512 {
		c.Targets = append(c.Targets, harness.AtMost(0.25, pools.Puddle.Name, harness.TimePerOp))
	}
	if goroutines > 512 {
		c.Turn = 150 * time.Millisecond // to start so many takes a while
		c.Rounds = 9
	}
	c.Targets = append(c.Targets, harness.Below(0, harness.AllocsPerOp))
	return c
}

func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return harness.Thousands(n) + " " + thing + "s"
}
