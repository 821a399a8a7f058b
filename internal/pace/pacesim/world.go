// Package pacesim simulates many pools that share one service with several addresses, in fake time:
// events in the order of their times, no goroutine, no socket, no clock. A seed is always the same
// run. Each pool owns a [pace.Service] and treats it as the supervisor of a Multiplexer does.
//
// Tests hold the results against bounds, and the benchmarks' report shows them.
package pacesim

import (
	"math/rand/v2"
	"slices"
	"time"
)

// Server is how the server at an address behaves.
type Server struct {
	Dial    time.Duration // how long a connect takes; 0 is a millisecond
	Refuses bool          // it refuses connects
	Silent  bool          // it does not answer connects at all
	HangsUp time.Duration // how long it keeps a connection; 0: for ever
}

// bad reports whether nobody should have connections to it.
func (s Server) bad() bool { return s.Refuses || s.Silent || s.HangsUp > 0 }

// World is the addresses, the pools, and what happens to them.
type World struct {
	rng    *rand.Rand
	now    time.Duration // since the start
	agenda Agenda

	servers []Server
	list    []int // what the resolver says
	pools   []*pool
	open    []int         // connections to each address
	changed time.Duration // when a script last changed something

	result  Result
	second  []int // connects to each address in this second
	tenth   []int // and in this tenth of a second
	dialled []int // connects to each address
}

// epoch is what the pools take the start for.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func (w *World) time() time.Time { return epoch.Add(w.now) }

// after plans something for so long after the present moment.
func (w *World) after(d time.Duration, do func()) { w.agenda.Plan(w.now+max(0, d), do) }

// At plans something for so long after the start.
func (w *World) At(d time.Duration, do func()) { w.after(d-w.now, do) }

// Set changes how a server behaves from now on.
func (w *World) Set(address int, s Server) {
	w.changed = w.now
	w.servers[address] = s
}

// Crash ends all connections to an address, in the same moment.
func (w *World) Crash(address int) {
	w.changed = w.now
	for _, p := range w.pools {
		p.lose(address)
	}
}

// Restart has a server end all connections and refuse connects for a while.
func (w *World) Restart(address int, down time.Duration) {
	was := w.servers[address]
	w.Set(address, Server{Refuses: true})
	w.Crash(address)
	w.after(down, func() { w.Set(address, was) })
}

// List changes what the resolver says, which the pools learn when they ask next.
func (w *World) List(addresses []int) {
	w.changed = w.now
	w.list = slices.Clone(addresses)
}

// span returns the numbers from low to high-1.
func span(low, high int) []int {
	all := make([]int, 0, high-low)
	for i := low; i < high; i++ {
		all = append(all, i)
	}
	return all
}
