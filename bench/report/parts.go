package main

// What the charts are put together from.

import (
	"cmp"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"go.atomizer.io/plex/bench/harness"
)

// addLine adds a line with its points.
func addLine(p *plot.Plot, xys plotter.XYs, s shade, strong bool) error {
	line, points, err := plotter.NewLinePoints(xys)
	if err != nil {
		return err
	}
	line.Color, line.Width = s.light, vg.Points(1.5)
	points.GlyphStyle = draw.GlyphStyle{Color: s.light, Radius: vg.Points(2.5), Shape: draw.CircleGlyph{}}
	if strong {
		line.Width, points.Radius = vg.Points(3), vg.Points(4)
	}
	if s == grey {
		line.Dashes = []vg.Length{vg.Points(5), vg.Points(3)}
	}
	p.Add(line, points)
	return nil
}

// label is a name beside a point.
type label struct {
	text  string
	x, y  float64
	shade shade
}

// labels are names beside the ends of lines. Those that would overlap are moved
// apart.
type labels []label

func (l labels) Plot(c draw.Canvas, p *plot.Plot) {
	const apart, beside = 13, 9 // points
	x, y := p.Transforms(&c)
	slices.SortFunc(l, func(a, b label) int { return cmp.Compare(a.y, b.y) })
	style := p.Legend.TextStyle
	style.YAlign = draw.YCenter
	least := c.Min.Y
	for _, one := range l {
		at := vg.Point{X: x(one.x) + beside, Y: max(y(one.y), least)}
		least = at.Y + apart
		style.Color = one.shade.light
		c.FillText(style, at, one.text)
	}
}

// logScale makes the Y axis one of times.
func logScale(p *plot.Plot) {
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, logTicks{}
	p.Y.Min = math.Pow(10, math.Floor(math.Log10(p.Y.Min)))
	p.Y.Max = math.Pow(10, math.Ceil(math.Log10(p.Y.Max)))
}

// logTicks are powers of ten of nanoseconds.
type logTicks struct{}

func (logTicks) Ticks(low, high float64) []plot.Tick {
	var ticks []plot.Tick
	for v := math.Pow(10, math.Floor(math.Log10(low))); v <= high*1.0001; v *= 10 {
		for _, k := range []float64{1, 2, 5} {
			if at := v * k; at >= low*0.9999 && at <= high*1.0001 {
				t := plot.Tick{Value: at}
				if k == 1 || high/low < 1000 {
					t.Label = harness.Nanoseconds.Format(math.Round(at)) + " "
				}
				ticks = append(ticks, t)
			}
		}
	}
	return ticks
}

// percent is ticks from 0 to 100.
type percent struct{}

func (percent) Ticks(_, _ float64) []plot.Tick {
	var ticks []plot.Tick
	for v := 0.0; v <= 100; v += 25 {
		ticks = append(ticks, plot.Tick{Value: v, Label: harness.Number.Format(v) + " % "})
	}
	return ticks
}

// unitTicks are the usual ticks in a unit.
type unitTicks struct{ unit harness.Unit }

func (u unitTicks) Ticks(low, high float64) []plot.Tick {
	ticks := plot.DefaultTicks{}.Ticks(low, high)
	for i, t := range ticks {
		if t.Label != "" {
			ticks[i].Label = u.unit.Format(t.Value) + " "
		}
	}
	return ticks
}

// nameTicks are ticks with names, one at each whole number.
func nameTicks(names []string) plot.ConstantTicks {
	var ticks plot.ConstantTicks
	for i, name := range names {
		ticks = append(ticks, plot.Tick{Value: float64(i), Label: name})
	}
	return ticks
}

// errorPoints are points with a spread.
type errorPoints struct {
	plotter.XYs
	plotter.YErrors
}

func (e *errorPoints) add(x float64, s harness.Spread) {
	e.XYs = append(e.XYs, plotter.XY{X: x, Y: s.Median})
	e.YErrors = append(e.YErrors, struct{ Low, High float64 }{s.Median - s.Low, s.High - s.Median})
}
