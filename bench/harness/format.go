package harness

// How figures are written.

import (
	"fmt"
	"math"
	"strconv"
)

// Unit says how a figure is written.
type Unit int

// The units.
const (
	Number      Unit = iota // a ratio, or anything without a unit
	Count                   // of whole things
	Nanoseconds             // a time
	Size                    // bytes
	PerSecond               // of anything
	BytesPerSecond
)

// Format writes v with three digits and a unit that suits it.
func (u Unit) Format(v float64) string {
	switch u {
	case Count:
		return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64)
	case Nanoseconds:
		return scaled(v, 1000, "ns", "µs", "ms", "s")
	case Size:
		return scaled(v, 1024, "B", "KiB", "MiB", "GiB")
	case PerSecond:
		if v < 1000 {
			return digits(v) + "/s"
		}
		step := math.Pow(10, math.Floor(math.Log10(v))-2)
		return Thousands(int(math.Round(v/step)*step)) + "/s"
	case BytesPerSecond:
		return scaled(v, 1000, "B/s", "kB/s", "MB/s", "GB/s")
	}
	return digits(v)
}

// FormatSpread writes s with one unit that suits its median.
func (u Unit) FormatSpread(s Spread) string {
	if s.Low == s.High {
		return u.Format(s.Median)
	}
	return u.Format(s.Median) + " (" + u.Format(s.Low) + " – " + u.Format(s.High) + ")"
}

func scaled(v, step float64, units ...string) string {
	for i, unit := range units {
		if math.Abs(v) < step*0.9995 || i == len(units)-1 {
			return digits(v) + " " + unit
		}
		v /= step
	}
	return ""
}

// digits writes v with three significant digits, and no more than it has.
func digits(v float64) string {
	switch abs := math.Abs(v); {
	case v == math.Trunc(v) && abs < 1e6:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case abs >= 99.95:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case abs >= 9.995:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case abs >= 0.0995:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return strconv.FormatFloat(v, 'g', 2, 64)
}

// FormatRatio writes a ratio.
func FormatRatio(v float64) string {
	if math.Abs(v) >= 9.995 {
		return digits(v)
	}
	return strconv.FormatFloat(v, 'f', ratioDigits(v), 64)
}

// ratioDigits is 2, or what it takes to tell 0.995 from 1 and to show a small ratio.
func ratioDigits(v float64) int {
	switch {
	case math.Abs(v-1) < 0.1:
		return 3
	case math.Abs(v) < 0.0995:
		return 3
	}
	return 2
}

// String writes s as a ratio with its spread.
func (s Spread) String() string {
	return fmt.Sprintf("%s (%s – %s)", FormatRatio(s.Median), FormatRatio(s.Low), FormatRatio(s.High))
}

// Thousands writes n with a comma between thousands.
func Thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
