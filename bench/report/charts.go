package main

// The charts, each from the results of its cases; one whose cases were not
// run is left out.

import (
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"go.atomizer.io/plex/bench/cases"
	"go.atomizer.io/plex/bench/harness"
	"go.atomizer.io/plex/bench/pools"
)

// chart is a file.
type chart struct {
	File  string
	Group string // the heading that it stands under
	Alt   string
	SVG   []byte
}

func (c chart) markdown() string {
	if c.File == "" {
		return ""
	}
	return "![" + c.Alt + "](" + c.File + ")"
}

func (r *report) charts() ([]chart, error) {
	var charts []chart
	for _, draw := range []func() (*chart, *plot.Plot, error){r.acquireChart, r.deathChart, r.dataChart, r.requestChart, r.sizesChart} {
		c, p, err := draw()
		if err != nil {
			return nil, err
		}
		if c == nil {
			continue
		}
		if c.SVG, err = render(p, c.Alt); err != nil {
			return nil, err
		}
		charts = append(charts, *c)
	}
	return charts, nil
}

// result returns the result of a case, nil if it was not run.
func (r *report) result(name string) *harness.Result {
	i := slices.IndexFunc(r.Results, func(r *harness.Result) bool { return r.Case.Name == name })
	if i < 0 {
		return nil
	}
	return r.Results[i]
}

// acquireChart shows what acquire and close cost over the number of goroutines.
func (r *report) acquireChart() (*chart, *plot.Plot, error) {
	p := newPlot("Time of one acquire and close on 8 connections (log scale)", "goroutines", "")
	var names []string
	lines := make(map[string]plotter.XYs)
	for i, g := range cases.AcquireGoroutines {
		result := r.result(cases.AcquireName(g))
		if result == nil {
			return nil, nil, nil
		}
		names = append(names, harness.Thousands(g))
		for _, s := range result.Case.Subjects {
			v, _ := result.Value(s.Name, harness.TimePerOp)
			lines[s.Name] = append(lines[s.Name], plotter.XY{X: float64(i), Y: v.Median})
		}
	}
	var ends labels
	for _, kind := range slices.Backward(pools.All) { // plex above the others
		if err := addLine(p, lines[kind.Name], shadeOf(kind.Name), kind.Name == pools.Plex.Name); err != nil {
			return nil, nil, err
		}
		last := lines[kind.Name][len(names)-1]
		ends = append(ends, label{kind.Name, last.X, last.Y, shadeOf(kind.Name)})
	}
	logScale(p)
	p.X.Min, p.X.Max = -0.2, float64(len(names)-1)+1.3 // with room for the names
	p.X.Tick.Marker = nameTicks(names)
	p.Add(ends)
	return &chart{
		File: "acquire.svg", Group: cases.GroupAcquire,
		Alt: "Time of acquire and close with plex, a bare channel, puddle, go-commons-pool and database/sql, over the number of goroutines",
	}, p, nil
}

// deathChart shows how soon the death of an idle connection is noticed.
func (r *report) deathChart() (*chart, *plot.Plot, error) {
	result := r.result(cases.DeathName(false))
	if result == nil {
		return nil, nil, nil
	}
	p := newPlot("Time since an idle connection was closed by the peer (log scale)", "", "of all deaths")
	curves := []struct {
		subject, series, name string
		shade                 shade
	}{
		{pools.Plex.Name, cases.Seen, "plex: seen", blue},
		{pools.Plex.Name, cases.Replaced, "plex: replaced", green},
		{"net/http", cases.Seen, "net/http: seen (never replaced)", pink},
	}
	low, high := math.Inf(1), 1e6
	p.Legend.XOffs, p.Legend.YOffs = 0.45*width, vg.Points(8)
	for _, c := range curves {
		sorted := result.Series(c.subject, c.series)
		if len(sorted) == 0 {
			continue
		}
		var xys plotter.XYs
		for q := 0.0; q <= 1.0001; q += 0.002 {
			xys = append(xys, plotter.XY{X: harness.Quantile(sorted, min(q, 1)), Y: 100 * min(q, 1)})
		}
		low, high = min(low, sorted[0]), max(high, harness.Quantile(sorted, 0.999))
		line, err := plotter.NewLine(xys)
		if err != nil {
			return nil, nil, err
		}
		line.Color, line.Width = c.shade.light, vg.Points(2)
		p.Add(line)
		p.Legend.Add(c.name, line)
	}
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, logTicks{}
	p.X.Min, p.X.Max = low, high
	p.Y.Min, p.Y.Max = 0, 100
	p.Y.Tick.Marker = percent{}
	return &chart{
		File: "deaths.svg", Group: cases.GroupHeal,
		Alt: "How long it takes until plex has seen the death of an idle connection, and replaced it, as a distribution",
	}, p, nil
}

// dataChart shows what a lease adds to a Read and a Write.
func (r *report) dataChart() (*chart, *plot.Plot, error) {
	p := newPlot("Read and Write through a lease", "", "time, bare connection = 1")
	var names []string
	points := map[string]*errorPoints{"read": {}, "write": {}}
	low, high := 0.9, 1.1
	for _, network := range cases.DataNetworks {
		for _, size := range cases.DataSizes {
			at := float64(len(names))
			names = append(names, network+"\n"+harness.Size.Format(float64(size)))
			for i, operation := range []string{"read", "write"} {
				result := r.result(cases.DataName(operation, network, size))
				if result == nil {
					return nil, nil, nil
				}
				ratio, _ := result.Ratio(result.Case.Subjects[1].Name, harness.TimePerOp)
				points[operation].add(at-0.12+0.24*float64(i), ratio)
				low, high = min(low, ratio.Low), max(high, ratio.High)
			}
		}
	}
	one := plotter.NewFunction(func(float64) float64 { return 1 })
	one.Color, one.Width = grey.light, vg.Points(1)
	p.Add(one)
	for _, operation := range []string{"read", "write"} {
		s := map[string]shade{"read": blue, "write": orange}[operation]
		bars, err := plotter.NewYErrorBars(points[operation])
		if err != nil {
			return nil, nil, err
		}
		bars.Color, bars.Width = s.light, vg.Points(1.5)
		dots, err := plotter.NewScatter(points[operation])
		if err != nil {
			return nil, nil, err
		}
		dots.GlyphStyle = draw.GlyphStyle{Color: s.light, Radius: vg.Points(3.5), Shape: draw.CircleGlyph{}}
		p.Add(bars, dots)
		p.Legend.Add(operation+", with the middle half of the rounds", dots)
	}
	p.Legend.Top = true
	p.X.Min, p.X.Max = -0.5, float64(len(names))-0.5
	p.X.Tick.Marker = nameTicks(names)
	p.Y.Min, p.Y.Max = low-0.02, high+0.3*(high-low) // with room for the legend
	return &chart{
		File: "data.svg", Group: cases.GroupData,
		Alt: "Time of a Read and a Write through a lease, divided by that on the bare connection",
	}, p, nil
}

// requestChart shows how many requests are answered.
func (r *report) requestChart() (*chart, *plot.Plot, error) {
	p := newPlot("1,000 goroutines over 64 connections", "", "requests in a second")
	var names []string
	const thick = 34 // points
	for i, service := range cases.RequestTimes {
		result := r.result(cases.RequestName(service))
		if result == nil {
			return nil, nil, nil
		}
		names = names[:0]
		var values plotter.Values
		for _, s := range result.Case.Subjects {
			v, _ := result.Value(s.Name, result.Case.Metrics[0].Key)
			values = append(values, v.Median)
			names = append(names, s.Name)
		}
		bars, err := plotter.NewBarChart(values, thick)
		if err != nil {
			return nil, nil, err
		}
		bars.Color = []shade{blue, orange}[i%2].light
		bars.LineStyle.Width = 0
		bars.Offset = vg.Length(thick*i) - thick*vg.Length(len(cases.RequestTimes)-1)/2
		p.Add(bars)
		p.Legend.Add(cases.Serving(service), bars)
	}
	p.Legend.Top, p.Legend.XOffs = true, width/3
	p.X.Tick.Label.Font = sans(9)
	p.X.Min, p.X.Max = -0.6, float64(len(names))-0.4
	p.X.Tick.Marker = nameTicks(names)
	p.Y.Min, p.Y.Max = 0, 1.2*p.Y.Max // with room for the legend
	p.Y.Tick.Marker = unitTicks{harness.PerSecond}
	return &chart{
		File: "requests.svg", Group: cases.GroupRequest,
		Alt: "Requests answered in a second, by pool, for a server that answers at once and for one that takes 5 ms",
	}, p, nil
}
