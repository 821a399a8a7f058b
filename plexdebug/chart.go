package plexdebug

// Charts: one series of a pool's samples as the path of an SVG.

import (
	"strconv"
	"time"
)

// The size of a chart in its own units. It is stretched to what room there is.
const (
	chartWidth  = 100
	chartHeight = 36
)

// chart is a series as it is drawn: a line with what is below it, or bars.
type chart struct {
	Line, Area, Bars string // paths
	Says             string // the same in words
}

// point is one value of a series.
type point struct {
	at    time.Time
	value float64
}

// spans are what charts may show: the shortest that has room for all samples.
var spans = []struct {
	d    time.Duration
	says string
}{{time.Minute, "the last minute"}, {2 * time.Minute, "the last 2 minutes"}, {chartSpan, "the last 5 minutes"}}

// axis is the time that charts show.
type axis struct {
	end  time.Time
	span time.Duration
	says string
}

func axisOf(samples []sample, now time.Time) axis {
	for _, s := range spans[:len(spans)-1] {
		if len(samples) == 0 || now.Sub(samples[0].at) <= s.d {
			return axis{now, s.d, s.says}
		}
	}
	last := spans[len(spans)-1]
	return axis{now, last.d, last.says}
}

// pick says which of two values in the same column is to be seen: peaks are, mostly, and of the
// connections that are open the lows.
type pick func(a, b float64) float64

func peaks(a, b float64) float64 { return max(a, b) }
func lows(a, b float64) float64  { return min(a, b) }

// columns reduces a series to one value for each unit of width. A column without any is -1.
func columns(series []point, a axis, of pick) (values [chartWidth]float64, highest float64) {
	for i := range values {
		values[i] = -1
	}
	for _, p := range series {
		at := chartWidth - 1 - int(a.end.Sub(p.at)*chartWidth/a.span)
		if at < 0 || at >= chartWidth {
			continue
		}
		if values[at] < 0 {
			values[at] = p.value
		}
		values[at] = of(values[at], p.value)
		highest = max(highest, p.value)
	}
	return values, highest
}

// height is where a value is drawn, from the top.
func height(value, highest float64) string {
	if highest == 0 {
		return strconv.Itoa(chartHeight - 1)
	}
	return strconv.FormatFloat(chartHeight-1-value/highest*(chartHeight-3), 'f', 1, 64)
}

// drawLine draws what a figure was. No value is above top, unless top is too low.
func drawLine(series []point, of pick, top float64, a axis) (c chart) {
	values, highest := columns(series, a, of)
	highest = max(highest, top)
	first, last := -1, -1
	for x, value := range values {
		if value < 0 {
			continue
		}
		command := "L"
		if first < 0 {
			first, command = x, "M"
		}
		last = x
		c.Line += command + strconv.Itoa(x) + "," + height(value, highest)
	}
	if first < 0 {
		return chart{}
	}
	if first == last {
		c.Line += "h1"
		last++
	}
	bottom := strconv.Itoa(chartHeight)
	c.Area = c.Line + "L" + strconv.Itoa(last) + "," + bottom + "L" + strconv.Itoa(first) + "," + bottom + "Z"
	return c
}

// drawBars draws how often something happened.
func drawBars(series []point, a axis) (c chart) {
	values, highest := columns(series, a, peaks)
	for x, value := range values {
		if value > 0 {
			c.Bars += "M" + strconv.Itoa(x) + "," + strconv.Itoa(chartHeight) + "V" + height(value, highest)
		}
	}
	return c
}
