package pacesim

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// Case is one simulation.
type Case struct {
	Name        string
	Addresses   int
	Pools       int
	Connections int           // of each pool
	Room        int           // how many more a pool may have
	Every       time.Duration // how often the resolver is asked; 0 is 30 s
	Length      time.Duration
	Script      func(w *World) // plans what happens; all pools are whole after Ready
}

// Ready is when all pools have started and are whole.
const Ready = time.Minute

// starting is the time in which the pools start, each at a moment of its own.
const starting = 30 * time.Second

// Sample is what one second was like.
type Sample struct {
	At time.Duration // since the start, at the end of the second
	// Largest and Least are the shares of the addresses with the most and with the fewest
	// connections, of those in the list whose server is well; 1 is the even share.
	Largest, Least float64
	Missing        int // connections that there should be
	Connects       int // to the address that had the most in this second
	Even           bool
}

// Result is what a simulation has shown.
type Result struct {
	Case    Case
	Samples []Sample
	Changed time.Duration // when the script last changed something
	// EvenAfter is how long after that all addresses had their share for the rest of the time, up
	// to a tenth. Where no pool can have the same number at each it is up to three
	// fifths, or to what chance gives: four times the square root of the share.
	EvenAfter time.Duration
	Even      bool  // that was so
	Moved     int   // connections moved
	Tenth     int   // the most connects to one address in a tenth of a second, later than Settled
	Dialled   []int // connects to each address
}

// Settled is how long after the last change what was lost has been replaced, so that all that is
// connected later is moved, tried, or drained.
const Settled = 5 * time.Second

// Run simulates.
func (c Case) Run(seed uint64) *Result {
	if c.Every == 0 {
		c.Every = 30 * time.Second
	}
	w := &World{
		rng:     rand.New(rand.NewPCG(seed, 1)),
		servers: make([]Server, c.Addresses), open: make([]int, c.Addresses),
		second: make([]int, c.Addresses), tenth: make([]int, c.Addresses), dialled: make([]int, c.Addresses),
		list: span(0, c.Addresses),
	}
	for range c.Pools {
		p := newPool(w, w.rng.Uint64(), c.Connections, c.Room, c.Every)
		w.pools = append(w.pools, p)
		w.after(time.Duration(w.rng.Int64N(int64(starting))), p.ask)
	}
	if c.Script != nil {
		c.Script(w)
	}
	for next := time.Second / 10; next <= c.Length; next += time.Second / 10 {
		w.until(next)
		if w.now > Ready && w.now-w.changed > Settled {
			w.result.Tenth = max(w.result.Tenth, slices.Max(w.tenth))
		}
		clear(w.tenth)
		if next%time.Second == 0 {
			w.sample()
		}
	}
	w.result.Case, w.result.Changed, w.result.Dialled = c, w.changed, w.dialled
	w.result.judge()
	return &w.result
}

func (w *World) until(end time.Duration) {
	for at, ok := w.agenda.First(); ok && at < end; at, ok = w.agenda.First() {
		w.now = at
		w.agenda.Take()()
	}
	w.now = end
}

func (w *World) noteConnect(to int) {
	w.second[to]++
	w.tenth[to]++
	w.dialled[to]++
}

func (w *World) sample() {
	s := Sample{At: w.now, Connects: slices.Max(w.second), Least: math.Inf(1)}
	clear(w.second)
	var open, wanted int
	for _, n := range w.open {
		open += n
	}
	for _, p := range w.pools {
		wanted += p.target
	}
	s.Missing = max(0, wanted-open)
	well := slices.DeleteFunc(slices.Clone(w.list), func(a int) bool { return w.servers[a].bad() })
	even := float64(wanted) / float64(max(1, len(well)))
	chance := max(0.6, (4*math.Sqrt(even)+1)/even)
	if wanted/len(w.pools)%max(1, len(well)) == 0 {
		chance = 0.1 // each pool can have the same number at each
	}
	for _, a := range well {
		share := float64(w.open[a]) / even
		s.Largest, s.Least = max(s.Largest, share), min(s.Least, share)
	}
	s.Even = s.Missing == 0 && s.Largest <= 1+chance && s.Least >= 1-chance
	w.result.Samples = append(w.result.Samples, s)
}

// judge finds out since when all was even.
func (r *Result) judge() {
	for _, s := range slices.Backward(r.Samples) {
		if !s.Even || s.At < r.Changed {
			break
		}
		r.EvenAfter, r.Even = s.At-r.Changed, true
	}
}

// Largest returns the largest share of any address between two moments.
func (r *Result) Largest(from, to time.Duration) (most float64) {
	for _, s := range r.between(from, to) {
		most = max(most, s.Largest)
	}
	return most
}

// Connects returns the most connects to any address in a second between two moments.
func (r *Result) Connects(from, to time.Duration) (most int) {
	for _, s := range r.between(from, to) {
		most = max(most, s.Connects)
	}
	return most
}

func (r *Result) between(from, to time.Duration) []Sample {
	return slices.DeleteFunc(slices.Clone(r.Samples), func(s Sample) bool { return s.At <= from || s.At > to })
}

// Short returns for how long, after all pools were whole, more than so many connections were missing.
func (r *Result) Short(of int) (d time.Duration) {
	for _, s := range r.between(Ready, r.Case.Length) {
		if s.Missing > of {
			d += time.Second
		}
	}
	return d
}

// Last is the last sample.
func (r *Result) Last() Sample { return r.Samples[len(r.Samples)-1] }
