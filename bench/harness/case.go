// Package harness measures subjects side by side.
//
// A round gives each subject of a case one turn, and what is compared are the
// two turns of the same round, a few milliseconds apart: a machine that is slow
// at that moment is slow for both. The order is another in each round, so that
// nobody always comes after the same neighbour. What is reported is the median
// of the rounds' ratios, and the middle half of them as the spread.
package harness

import "time"

// Case is one comparison.
type Case struct {
	Group    string // the heading that it stands under
	Name     string // unique, without spaces
	Title    string // what its line in a table is called
	Compares string // one line: what is compared

	Metrics  []Metric // what is shown, the most important first
	Targets  []Target
	Subjects []Subject // plex is the first

	// Turn is how long one turn should take, Rounds how many there are;
	// 0 is the default of the run for both. Rounds can only be fewer than
	// that.
	Turn   time.Duration
	Rounds int
	// Ops is how many operations make a turn. If it is 0, as many as fill Turn.
	Ops int

	// Lacks says why this machine cannot measure the case, as in "redis-server is not installed".
	// It is empty where it can.
	Lacks string
	// NoProfile says that a profile would not show where the time of a missed target goes.
	NoProfile bool
}

// Subject is what can do the work of a case.
type Subject struct {
	Name string
	Open func() (Work, error)
}

// Work is a subject that is ready.
type Work struct {
	// Run does n operations. What the harness can measure itself, the time and
	// the allocations for each operation, need not be in the sample; what is
	// there counts.
	Run   func(n int) (Sample, error)
	Close func()
}

// Sample is what one turn gives.
type Sample struct {
	Figures map[string]float64
	Series  map[string][]float64 // all that was measured, for a distribution
}

// The figures that the harness measures itself, named as testing.B does.
const (
	TimePerOp   = "ns/op"
	AllocsPerOp = "allocs/op"
	BytesPerOp  = "B/op"
)

// Metric is a figure that is shown.
type Metric struct {
	Key    string // in Sample.Figures
	Title  string
	Unit   Unit
	Higher bool // more is better
}

// Compares reports whether a ratio of two such figures says anything. It does
// not for counts, which are small or 0, nor for what is a ratio itself.
func (m Metric) Compares() bool { return m.Unit != Count && m.Unit != Number }

// The metrics that the harness measures itself.
var (
	Time   = Metric{Key: TimePerOp, Title: "time", Unit: Nanoseconds}
	Allocs = Metric{Key: AllocsPerOp, Title: "allocations", Unit: Count}
	Bytes  = Metric{Key: BytesPerOp, Title: "memory allocated", Unit: Size}
)

// metric returns c's metric of that key.
func (c *Case) metric(key string) Metric {
	for _, m := range c.Metrics {
		if m.Key == key {
			return m
		}
	}
	return Metric{Key: key, Title: key}
}

// Only returns c with no other subjects than those named.
func (c *Case) Only(names ...string) *Case {
	only := *c
	only.Subjects = nil
	for _, s := range c.Subjects {
		for _, name := range names {
			if s.Name == name {
				only.Subjects = append(only.Subjects, s)
			}
		}
	}
	return &only
}
