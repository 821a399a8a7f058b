package main

// The chart of large pools, and the section about many cores.

import (
	"fmt"
	"strings"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"

	"go.atomizer.io/plex/bench/cases"
	"go.atomizer.io/plex/bench/harness"
	"go.atomizer.io/plex/bench/pools"
	"go.atomizer.io/plex/bench/shards"
)

// sizesChart shows what each connection costs over the size of the pool.
func (r *report) sizesChart() (*chart, *plot.Plot, error) {
	p := newPlot("Cost of each connection over the size of the pool", "connections", "5,000 connections = 1")
	var ends labels
	highest := 1.5
	last := len(cases.Sizes) - 1
	for _, line := range []struct {
		of, step, name string
		shade          shade
	}{
		{"plain", "growth", "growth", blue},
		{"plain", "stats", "Stats", grey},
		{"plain", "close", "Close", green},
		{"given", "add", "Add", pink},
		{"ends", "ends", "all peers close", orange},
		{"expiry", "expiry", "all expire", violet},
	} {
		result := r.result(cases.SizesName(line.of))
		if result == nil {
			return nil, nil, nil
		}
		var xys plotter.XYs
		subjects := result.Case.Subjects
		for i := range subjects {
			v, _ := result.Value(subjects[last-i].Name, line.step)
			xys = append(xys, plotter.XY{X: float64(i), Y: v.Median})
		}
		for i := len(xys) - 1; i >= 0; i-- {
			xys[i].Y /= xys[0].Y
			highest = max(highest, xys[i].Y)
		}
		if err := addLine(p, xys, line.shade, false); err != nil {
			return nil, nil, err
		}
		ends = append(ends, label{line.name, xys[last].X, xys[last].Y, line.shade})
	}
	var names []string
	for i := range cases.Sizes {
		names = append(names, harness.Thousands(cases.Sizes[last-i]))
	}
	p.X.Min, p.X.Max = -0.2, float64(last)+1 // with room for the names
	p.X.Tick.Marker = nameTicks(names)
	p.Y.Min, p.Y.Max = 0, 1.1*highest
	p.Add(ends)
	return &chart{
		File: "sizes.svg", Group: cases.GroupSizes,
		Alt: "What growth, Stats, Close, Add, the end and the expiry of all connections cost for each, over the size of the pool",
	}, p, nil
}

const aboutShards = `## More than eight cores

One queue holds all idle halves of a kind. It is a channel, and a channel serves one goroutine at a
time. Its memory moves to the core that uses it, so with many cores each lease waits for it to move,
and adding cores adds nothing any more. This machine has too few cores to measure that. So it is
simulated (` + "`bench/shards`" + `), with the times that were measured above:

- %s for an acquire and close on one core, %s when cores compete;
- %s for a Write of 64 B over TCP, which is all that is done with a lease.

In the model each processor has eight goroutines that lease, write and close, over and over.

The other columns are of a queue for each processor. A caller takes an idle half from its own queue,
or else from any other, or else waits. A half that is given back goes to whoever waits in the same
queue, and every 16th to the caller who has waited longest, wherever that is. The second half of the
table has half as many connections as processors, so that callers wait.`

const conclusionShards = `**What it would give.** Little up to four cores, and less than twice as many leases with eight.
Beyond that one queue is the limit, but only for a program that does nothing else than one small
Write with each lease. The work to make a message and to handle its reply comes on top, and each
microsecond of it is good for about ten more cores. Package request takes one lease for many
requests, hundreds at a time under load, and so does a message.Sender.

**What it would cost.** First come, first served is lost, and with it what keeps the longest waits
short. It can be bounded: if every k-th release of each of P processors goes to the caller who has
waited longest, a caller who finds q others waiting is overtaken at most (k-1)·(q+1+P) times. The
simulation checks that bound for each caller. Without such a rule nothing bounds it: a processor
whose connections are all lent elsewhere may wait for ever. Also, the channel hands a half to the
caller who waits in the same step in which it takes it, so no wake-up is lost and whoever gives up
has the half or has never had it. With many queues, a caller who finds all of them empty has to
enter a line, look again, and leave the line; a half that is given back has to look for lines. That
is a lock or a protocol of its own, on a path that adds two atomic operations to a channel today.

**So it is not built.** It would be worth it for programs with more than sixteen cores that send
small messages one by one and do little else. Two pools, with half of the connections each, give
them the same today.`

// shards is the section about many cores, "" if what it goes by was not measured.
func (r *report) shards() string {
	acquire, contended := r.result(cases.AcquireName(1)), r.result(cases.AcquireName(4))
	write := r.result(cases.DataName("write", "tcp", 64))
	if acquire == nil || contended == nil || write == nil {
		return ""
	}
	taken := func(of *harness.Result, subject string) time.Duration {
		v, _ := of.Value(subject, harness.TimePerOp)
		return time.Duration(v.Median)
	}
	one, many := taken(acquire, pools.Plex.Name), taken(contended, pools.Plex.Name)
	use := taken(write, write.Case.Subjects[len(write.Case.Subjects)-1].Name)
	many = max(many, one)
	m := shards.Model{Workers: 8, Use: use, Local: one / 2, Moved: many / 2}

	const leases, oldest = 20_000, 16
	rows := [][]string{{"processors", "connections", "one queue", "a queue for each", "gain", "most overtaken", "bound"}}
	for _, few := range []bool{false, true} {
		for _, processors := range []int{2, 4, 8, 16, 32, 64} {
			m.Processors, m.Connections, m.Sharded = processors, 2*processors, false
			if few {
				m.Connections = processors / 2
			}
			single := m.Run(leases)
			m.Sharded, m.Oldest = true, oldest
			each := m.Run(leases)
			waiting := max(0, m.Workers*processors-m.Connections)
			rows = append(rows, []string{
				harness.Thousands(processors), harness.Thousands(m.Connections),
				harness.PerSecond.Format(single.PerSecond()), harness.PerSecond.Format(each.PerSecond()),
				harness.FormatRatio(each.PerSecond()/single.PerSecond()) + " ×",
				harness.Thousands(each.Overtaken), harness.Thousands(m.Most(waiting)),
			})
		}
	}
	about := fmt.Sprintf(aboutShards, nanoseconds(one), nanoseconds(many), nanoseconds(use))
	return strings.Join([]string{about, markdownTable(rows) + "\n" + conclusionShards}, "\n\n") + "\n"
}

func nanoseconds(d time.Duration) string { return harness.Nanoseconds.Format(float64(d)) }
