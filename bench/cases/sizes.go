package cases

// Pools of 5,000 to 50,000 connections, and 100,000 callers who wait: whether what a pool does to
// all of them at once costs the same for each, however many there are.

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/bench/harness"
	"go.atomizer.io/plex/bench/pools"
)

// GroupSizes is the heading.
const GroupSizes = "Large pools"

// Sizes are how many connections the pools have, Waiters how many callers wait. The largest comes
// first: it is the subject that has to reach the target.
var (
	Sizes   = []int{50_000, 20_000, 10_000, 5_000}
	Waiters = []int{100_000, 10_000}
)

// constantCost is how much more each connection may cost in the largest pool than in the smallest.
const constantCost = 1.5

// Mass is what is done to a pool of n connections, or with n callers, step by step.
type Mass struct {
	Name  string
	Title string // of n
	Does  string
	Steps []Step
	Sizes []int
	Run   func(n int, s *Steps) error
	// Rounds is how many turns there are. They take seconds.
	Rounds int
}

// Step is one thing that is done to all.
type Step struct{ Key, Title string }

// Steps measures steps. Done, if it is not nil, is called after each, with the pool.
type Steps struct {
	Figures map[string]float64
	Begun   func(m *plex.Multiplexer)
	Done    func(step string, m *plex.Multiplexer)
}

// measure notes what f costs for each of n.
func (s *Steps) measure(step string, n int, m *plex.Multiplexer, f func() error) error {
	runtime.GC() // nobody pays for the garbage of the step before
	if s.Begun != nil && m != nil {
		s.Begun(m)
	}
	before := harness.CPUTime()
	if err := f(); err != nil {
		return fmt.Errorf("%s, %d: %w", step, n, err)
	}
	s.Figures[step] = float64(harness.CPUTime()-before) / float64(n)
	if s.Done != nil && m != nil {
		s.Done(step, m)
	}
	return nil
}

func sizeCases() []*harness.Case {
	var all []*harness.Case
	for _, m := range MassOperations {
		all = append(all, m.asCase())
	}
	return all
}

// SizesName is the name of the case for a mass operation.
func SizesName(mass string) string { return "sizes/" + mass }

func (mass Mass) asCase() *harness.Case {
	c := &harness.Case{
		Group:    GroupSizes,
		Name:     SizesName(mass.Name),
		Title:    mass.Title,
		Compares: fmt.Sprintf("processor time for each, with %s and with fewer: %s", harness.Thousands(mass.Sizes[0]), mass.Does),
		Ops:      1,
		Rounds:   mass.Rounds,
	}
	least := harness.Thousands(mass.Sizes[len(mass.Sizes)-1])
	for _, step := range mass.Steps {
		c.Metrics = append(c.Metrics, harness.Metric{Key: step.Key, Title: step.Title, Unit: harness.Nanoseconds})
		c.Targets = append(c.Targets, harness.AtMost(constantCost, least, step.Key))
	}
	for i, n := range mass.Sizes {
		name := harness.Thousands(n)
		if i == 0 {
			name = pools.Plex.Name
		}
		c.Subjects = append(c.Subjects, harness.Subject{Name: name, Open: func() (harness.Work, error) {
			return harness.Work{
				Run: func(int) (harness.Sample, error) {
					figures, err := mass.Measure(n)
					return harness.Sample{Figures: figures}, err
				},
				Close: func() {},
			}, nil
		}})
	}
	return c
}

// Measure returns what each step costs for each of n.
func (mass Mass) Measure(n int) (map[string]float64, error) {
	defer debug.SetGCPercent(debug.SetGCPercent(1000)) // or what warmUp has would go back to the system at once
	warmUp(n)
	s := &Steps{Figures: make(map[string]float64)}
	err := mass.Run(n, s)
	return s.Figures, err
}

// warmUp has the system give this process the memory that the largest pool takes, or whoever comes
// first would pay for it.
func warmUp(n int) {
	const each = 3 << 10
	memory := make([][]byte, n)
	for i := range memory {
		memory[i] = make([]byte, each)
	}
	runtime.KeepAlive(memory)
}

// MassOperations are all of them.
var MassOperations = []Mass{
	{
		Name: "plain", Title: "connections in memory", Sizes: Sizes, Run: massPlain, Rounds: 3,
		Does:  "New with a minimum of n, Stats, Conns, Close",
		Steps: []Step{{"growth", "growth to n"}, {"stats", "Stats"}, {"conns", "Conns"}, {"close", "Close"}},
	},
	{
		Name: "given", Title: "connections given to Add", Sizes: Sizes, Run: massGiven, Rounds: 3,
		Does:  "Add of n connections, Shutdown",
		Steps: []Step{{"add", "Add"}, {"shutdown", "Shutdown"}},
	},
	{
		Name: "renew", Title: "renewal", Sizes: Sizes, Run: massRenew, Rounds: 1,
		Does:  "Renew of n connections where the capacity has no room for one more",
		Steps: []Step{{"renew", "Renew"}},
	},
	{
		Name: "ends", Title: "all peers close", Sizes: Sizes, Run: massEnds, Rounds: 2,
		Does:  "the peers of n connections close them at once, four ready readers read the ends, and all are replaced",
		Steps: []Step{{"ends", "end and replacement"}},
	},
	{
		Name: "expiry", Title: "all are of one age", Sizes: Sizes, Run: massExpiry, Rounds: 2,
		Does:  "n connections of one age reach the maximal lifetime, and the first 2,500 of them are replaced",
		Steps: []Step{{"expiry", "expiry and replacement"}},
	},
	{
		Name: "addresses", Title: "the addresses change", Sizes: Sizes, Run: massAddresses, Rounds: 2,
		Does:  "the resolver names four other addresses, and the first 2,500 of n connections are replaced",
		Steps: []Step{{"addresses", "drain and replacement"}},
	},
	{
		Name: "down", Title: "the service is down", Sizes: Sizes, Run: massDown, Rounds: 2,
		Does:  "n connections have been lost, and one connect after the other fails",
		Steps: []Step{{"down", "a connect that fails"}},
	},
	{
		Name: "leaks", Title: "leak detection", Sizes: []int{20_000, 5_000}, Run: massLeaks, Rounds: 1,
		Does:  "New with a minimum of n, with WithLeakDetection",
		Steps: []Step{{"watched", "growth to n"}},
	},
	{
		Name: "duplex", Title: "whole connections that are ready", Sizes: []int{10_000, 5_000}, Run: massDuplex, Rounds: 1,
		Does:  "something has arrived on all of n connections, and Duplex leases each of them",
		Steps: []Step{{"duplex", "Duplex"}},
	},
	{
		Name: "parked", Title: "whole connections that are read while they idle", Sizes: []int{20_000, 5_000}, Run: massParked, Rounds: 1,
		Does:  "a goroutine reads on each of n idle connections, as WithQuietIdle and connections in memory want it; Duplex leases one after the other",
		Steps: []Step{{"parked", "Duplex and Close"}},
	},
	{
		Name: "waiters", Title: "callers who wait", Sizes: Waiters, Run: massWaiters, Rounds: 2,
		Does: "n callers wait for one connection: what it costs to come, for one more caller to give up beside them, to be served one after the other, and to be told of the end",
		Steps: []Step{
			{"come", "to begin to wait"},
			{"failed", "one more gives up"},
			{"refused", "one more does not wait"},
			{"served", "to be served"},
			{"told", "to be told of Close"},
		},
	},
	{
		Name: "named", Title: "callers who wait for one connection", Sizes: Waiters, Run: massNamed, Rounds: 1,
		Does:  "n callers wait in Conn.Writer, and are served one after the other",
		Steps: []Step{{"named", "to be served"}},
	},
}
