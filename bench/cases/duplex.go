package cases

// Whole connections, which is what other pools lend.

import (
	"fmt"

	"go.atomizer.io/plex/bench/harness"
	"go.atomizer.io/plex/bench/pools"
)

// duplexGoroutines is with how many goroutines whole connections are acquired.
var duplexGoroutines = []int{1, 4, 32, 512}

func duplexCases() []*harness.Case {
	var cases []*harness.Case
	for _, g := range duplexGoroutines {
		cases = append(cases, duplex(g))
	}
	return cases
}

// duplex compares what it costs to take a whole connection and give it back, and nothing else.
func duplex(goroutines int) *harness.Case {
	c := &harness.Case{
		Group: GroupDuplex,
		Name:  fmt.Sprintf("duplex/%d", goroutines),
		Title: plural(goroutines, "goroutine"),
		Compares: fmt.Sprintf("taking a whole connection and giving it back at once, %s on %d connections; plex lends a Duplex, and beside it a Writer, which is half of one",
			plural(goroutines, "goroutine"), connections),
		Metrics:  []harness.Metric{harness.Time, harness.Allocs},
		Rounds:   15,
		Subjects: cycling(pools.Whole, goroutines),
		Targets:  []harness.Target{harness.AtMost(1.6, pools.PlexWriter.Name, harness.TimePerOp)},
	}
	if goroutines == 32 || goroutines == 512 {
		c.Targets = append(c.Targets, harness.AtMost(1.0/3, pools.Puddle.Name, harness.TimePerOp))
	}
	c.Targets = append(c.Targets, harness.Below(0, harness.AllocsPerOp))
	return c
}

// cycling makes each kind of pool a subject, whose connections are taken and given back at once.
func cycling(kinds []pools.Kind, goroutines int) []harness.Subject {
	return ofPools(kinds, inMemory(connections), func(p pools.Pool, n int) (harness.Sample, error) {
		return harness.Sample{}, parallel(goroutines, n, func(_, n int) error { return p.Cycle(n) })
	})
}
