package cases

// The same work with more processors, or fewer.

import (
	"fmt"
	"runtime"

	"go.atomizer.io/plex/bench/harness"
	"go.atomizer.io/plex/bench/peer"
	"go.atomizer.io/plex/bench/pools"
)

// procs are how many processors there are, where the machine has them.
var procs = []int{1, 2, 4, 8}

func procsCases(p *peer.Process) []*harness.Case {
	var cases []*harness.Case
	for _, n := range procs {
		cases = append(cases, onProcs(n, Acquire(32)))
	}
	for _, n := range procs {
		cases = append(cases, onProcs(n, gathering(p, 128)))
	}
	return cases
}

// onProcs is c with GOMAXPROCS set to n, and without the subjects and the targets that are judged
// elsewhere.
func onProcs(n int, c *harness.Case) *harness.Case {
	c = c.Only("plex", pools.Channel.Name, pools.Puddle.Name, byHand)
	c.Group = GroupProcs
	c.Title = fmt.Sprintf("%s, %s", plural(n, "processor"), c.Title)
	c.Compares = fmt.Sprintf("with GOMAXPROCS=%d, %s", n, c.Compares)
	c.Name = fmt.Sprintf("procs/%d/%s", n, c.Name)
	c.Targets, c.Rounds = nil, 11
	if has := runtime.NumCPU(); has < n {
		c.Lacks = "this machine has " + plural(has, "processor")
	}
	for i, s := range c.Subjects {
		open := s.Open
		c.Subjects[i].Open = func() (harness.Work, error) {
			work, err := open()
			run := work.Run
			work.Run = func(ops int) (harness.Sample, error) {
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(n))
				return run(ops)
			}
			return work, err
		}
	}
	return c
}
