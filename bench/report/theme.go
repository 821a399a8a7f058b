package main

import (
	"bytes"
	"fmt"
	"image/color"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"go.atomizer.io/plex/bench/pools"
)

// shade is a colour, and what it is on a dark page.
type shade struct{ light, dark color.RGBA }

func hex(light, dark uint32) shade {
	c := func(v uint32) color.RGBA {
		return color.RGBA{R: uint8(v >> 16), G: uint8(v >> 8), B: uint8(v), A: 0xff}
	}
	return shade{c(light), c(dark)}
}

// The colours. A chart has its own background, so that it can be read also
// where the page does not tell whether it is a dark one.
var (
	paper = hex(0xffffff, 0x0d1117)
	ink   = hex(0x1f2328, 0xe6edf3)
	faint = hex(0xd8dee4, 0x30363d)

	blue   = hex(0x0550ae, 0x58a6ff)
	grey   = hex(0x6e7781, 0x8b949e)
	orange = hex(0xbc4c00, 0xf0883e)
	violet = hex(0x8250df, 0xbc8cff)
	green  = hex(0x1a7f37, 0x3fb950)
	pink   = hex(0xbf3989, 0xf778ba)
)

// shades is all of them.
var shades = []shade{paper, ink, faint, blue, grey, orange, violet, green, pink}

// shadeOf is the colour that a subject has in all charts.
func shadeOf(subject string) shade {
	switch subject {
	case pools.Plex.Name:
		return blue
	case pools.Puddle.Name:
		return orange
	case pools.Commons.Name:
		return violet
	case pools.SQL.Name:
		return green
	case "net/http":
		return pink
	}
	return grey // what is no pool
}

const (
	width, height = 18 * vg.Centimeter, 9.5 * vg.Centimeter
	margin        = 10 // points
)

// newPlot returns an empty plot in the colours and type of all charts. An axis
// with a log scale has no name, or the library makes room for it where its
// middle would be without.
func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	p.BackgroundColor = paper.light
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.Title.Padding = vg.Points(8)
	for _, style := range []*draw.TextStyle{
		&p.Title.TextStyle, &p.X.Label.TextStyle, &p.Y.Label.TextStyle, &p.X.Tick.Label, &p.Y.Tick.Label, &p.Legend.TextStyle,
	} {
		style.Font = sans(10)
		style.Color = ink.light
	}
	p.Title.TextStyle.Font = sans(12)
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Color = grey.light
		axis.Tick.Color = grey.light
		axis.Padding = 0
	}
	p.Legend.Left = true // icons first, so that a wider font does no harm
	p.Legend.Padding = vg.Points(4)
	grid := plotter.NewGrid()
	grid.Vertical.Color = nil
	grid.Horizontal.Color = faint.light
	p.Add(grid)
	return p
}

func sans(size vg.Length) font.Font {
	f := font.From(plot.DefaultFont, size)
	f.Variant = "Sans"
	return f
}

// render draws p as an SVG that suits a light page and a dark one.
func render(p *plot.Plot, description string) ([]byte, error) {
	canvas := vgsvg.NewWith(vgsvg.UseWH(width, height))
	dc := draw.New(canvas)
	dc.FillPolygon(paper.light, corners(dc.Rectangle))
	p.Draw(draw.Crop(dc, margin, -margin, margin, -margin))
	var b bytes.Buffer
	if _, err := canvas.WriteTo(&b); err != nil {
		return nil, err
	}
	return []byte(themed(b.String(), description)), nil
}

func corners(r vg.Rectangle) []vg.Point {
	return []vg.Point{r.Min, {X: r.Max.X, Y: r.Min.Y}, r.Max, {X: r.Min.X, Y: r.Max.Y}}
}

// themed adds to an SVG what its colours are on a dark page, a description,
// and other fonts than the one that it was measured with, of the same width.
// What draws an SVG and knows no style sheets shows the light one.
func themed(svg, description string) string {
	var rules strings.Builder
	for _, s := range shades {
		for _, property := range []string{"fill", "stroke"} {
			fmt.Fprintf(&rules, "[style*=\"%s:%s\"]{%s:%s!important}", property, text(s.light), property, text(s.dark))
		}
	}
	head := "<title>" + description + "</title>\n<style>@media(prefers-color-scheme:dark){" + rules.String() + "}</style>\n"
	svg = strings.ReplaceAll(svg, "font-family:Liberation Sans", "font-family:'Liberation Sans',Arial,Helvetica,sans-serif")
	start := strings.Index(svg, "<svg")
	end := start + strings.Index(svg[start:], ">") + 1
	return svg[:end] + "\n" + head + svg[end:]
}

// text writes a colour as the library does.
func text(c color.RGBA) string { return fmt.Sprintf("#%02X%02X%02X", c.R, c.G, c.B) }
