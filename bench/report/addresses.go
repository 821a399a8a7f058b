package main

// The section about services with several addresses. It is simulated, so it takes seconds, is the
// same on every machine, and can be written again without the rest of the page.

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"

	"go.atomizer.io/plex/bench/harness"
	"go.atomizer.io/plex/internal/pace/pacesim"
)

const (
	addressesBegin = "<!-- addresses -->\n"
	addressesEnd   = "<!-- /addresses -->\n"
	addressesFile  = "addresses.svg"
)

const aboutAddresses = `## One service, several addresses

Many pools share a service whose servers restart, die or change. Nothing here is measured: it is a
simulation in fake time and without sockets, whose pools decide with the code of plex
(` + "`internal/pace`" + `). It is the same in every run and on every machine:

` + "```sh\ngo run -C bench ./report -addresses\n```" + `

A share is the connections to an address divided by the even share; the largest share is that of any
moment. All is even when every address has its share up to a tenth or, where a pool cannot have the
same number at each, up to three fifths or what chance gives. The time is counted from the last thing
that happens. Connects in the first seconds replace what was lost. What comes later, from five
seconds on, is moved or tried: there the shortest times show whether all pools come at once.`

// simulate runs all cases.
func simulate() []*pacesim.Result {
	var results []*pacesim.Result
	for _, c := range pacesim.All() {
		results = append(results, c.Run(1))
	}
	return results
}

// rewriteAddresses writes the section and its chart into a directory that has the page already.
func rewriteAddresses(dir string) error {
	if dir == "" {
		return errors.New("-addresses: -out says where to write to")
	}
	file := filepath.Join(dir, "benchmarks.md")
	was, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	section, err := writeAddresses(dir, simulate())
	if err != nil {
		return err
	}
	return os.WriteFile(file, []byte(replaceAddresses(string(was), section)), 0o644)
}

// replaceAddresses puts the section in the place of the one that the page has, or at its end.
func replaceAddresses(page, section string) string {
	before, rest, _ := strings.Cut(page, addressesBegin)
	_, after, _ := strings.Cut(rest, addressesEnd)
	return strings.TrimRight(before, "\n") + "\n\n" + section + after
}

// writeAddresses writes the chart, and returns the section; "" if nothing was simulated.
func writeAddresses(dir string, results []*pacesim.Result) (string, error) {
	if len(results) == 0 {
		return "", nil
	}
	c, p, err := addressChart(results)
	if err != nil {
		return "", err
	}
	svg, err := render(p, c.Alt)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, c.File), svg, 0o644); err != nil {
		return "", err
	}
	rows := [][]string{{
		"what happens", "addresses", "pools", "connections of each", "largest share", "shares at the end", "even after",
		"most connects to one address in a second", "later, in a tenth of a second", "moved",
	}}
	for _, r := range results {
		name := r.Case.Name
		if r.Case.Room == 0 {
			name += ", no room for one more"
		}
		even := "never"
		switch {
		case r.Even && r.EvenAfter == 0:
			even = "at once"
		case r.Even:
			even = harness.Nanoseconds.Format(float64(r.EvenAfter))
		}
		rows = append(rows, []string{
			name, harness.Thousands(r.Case.Addresses), harness.Thousands(r.Case.Pools), harness.Thousands(r.Case.Connections),
			fmt.Sprintf("%.2f", r.Largest(pacesim.Ready, r.Case.Length)), fmt.Sprintf("%.2f – %.2f", r.Last().Least, r.Last().Largest), even,
			harness.Thousands(r.Connects(pacesim.Ready, r.Case.Length)), harness.Thousands(r.Tenth), harness.Thousands(r.Moved),
		})
	}
	return strings.Join([]string{addressesBegin + aboutAddresses, c.markdown(), markdownTable(rows) + addressesEnd}, "\n\n"), nil
}

// addressChart shows the largest and the least share of any address over time.
func addressChart(results []*pacesim.Result) (*chart, *plot.Plot, error) {
	p := newPlot("Most and fewest connections of any address (simulated)", "time since the first restart", "even share = 1")
	const shown = 2 // rolling restarts, with more and with fewer connections than addresses
	n := 0
	for _, r := range results {
		if r.Case.Name != pacesim.RollingName || r.Case.Room == 0 {
			continue
		}
		s := []shade{blue, orange}[n%shown]
		for i, share := range []func(pacesim.Sample) float64{
			func(s pacesim.Sample) float64 { return s.Largest },
			func(s pacesim.Sample) float64 { return s.Least },
		} {
			var xys plotter.XYs
			for _, sample := range r.Samples {
				if at := sample.At - pacesim.Ready; at >= -20*time.Second {
					xys = append(xys, plotter.XY{X: at.Seconds(), Y: share(sample)})
				}
			}
			line, err := plotter.NewLine(xys)
			if err != nil {
				return nil, nil, err
			}
			line.Color, line.Width = s.light, vg.Points(2)
			p.Add(line)
			if i == 0 {
				p.Legend.Add(fmt.Sprintf("%d addresses, %s pools of %d", r.Case.Addresses, harness.Thousands(r.Case.Pools), r.Case.Connections), line)
			} else {
				line.Dashes = []vg.Length{vg.Points(4), vg.Points(3)}
			}
		}
		n++
	}
	p.Legend.Top = true
	p.X.Tick.Marker = secondTicks{}
	p.Y.Min, p.Y.Max = 0, 2
	return &chart{
		File: addressesFile,
		Alt:  "The largest and the least share of any address over time, during a rolling restart of 3 servers and of 10",
	}, p, nil
}

// secondTicks are ticks of seconds.
type secondTicks struct{}

func (secondTicks) Ticks(low, high float64) []plot.Tick {
	var ticks []plot.Tick
	for v := 0.0; v <= high; v += 60 {
		if v >= low {
			ticks = append(ticks, plot.Tick{Value: v, Label: fmt.Sprintf("%g s", v)})
		}
	}
	return ticks
}
