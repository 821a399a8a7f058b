package harness

import (
	"math"
	"slices"
)

// Result is what a case has given.
type Result struct {
	Case   *Case
	Rounds [][]Sample // each has one sample for each subject
}

// Spread is a median and the middle half of what it is the median of.
type Spread struct {
	Median, Low, High float64
	N                 int
}

// NewSpread sums up values, in any order.
func NewSpread(values []float64) Spread {
	values = slices.Clone(values)
	slices.Sort(values)
	return Spread{
		Median: Quantile(values, 0.5), Low: Quantile(values, 0.25), High: Quantile(values, 0.75),
		N: len(values),
	}
}

// Quantile returns the q-quantile of values, which are sorted: 0.5 is the
// median. It is 0 if there are none.
func Quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	at := q * float64(len(sorted)-1)
	low, high := int(math.Floor(at)), int(math.Ceil(at))
	return sorted[low] + (at-float64(low))*(sorted[high]-sorted[low])
}

// subject returns the number of a subject, -1 if the case has none of that name.
func (r *Result) subject(name string) int {
	return slices.IndexFunc(r.Case.Subjects, func(s Subject) bool { return s.Name == name })
}

// values returns a subject's figure in each round that has it.
func (r *Result) values(subject int, key string) []float64 {
	var values []float64
	for _, samples := range r.Rounds {
		if v, ok := samples[subject].Figures[key]; ok {
			values = append(values, v)
		}
	}
	return values
}

// Value sums up a figure of a subject. It reports false if the subject does not
// have it.
func (r *Result) Value(subject, key string) (Spread, bool) {
	i := r.subject(subject)
	if i < 0 {
		return Spread{}, false
	}
	values := r.values(i, key)
	return NewSpread(values), len(values) > 0
}

// Ratio sums up how a figure of the first subject compares with another's, round
// by round. It reports false if one of them does not have it, or it is 0.
func (r *Result) Ratio(other, key string) (Spread, bool) {
	i := r.subject(other)
	if i <= 0 {
		return Spread{}, false
	}
	var ratios []float64
	for _, samples := range r.Rounds {
		a, ok := samples[0].Figures[key]
		b, okToo := samples[i].Figures[key]
		if ok && okToo && b != 0 {
			ratios = append(ratios, a/b)
		}
	}
	return NewSpread(ratios), len(ratios) > 0
}

// BestRatio compares the best turns of both, for a figure of which less is
// better. What disturbs a machine only ever adds to a time, so this is the
// steadiest of all comparisons, if a rosy one.
func (r *Result) BestRatio(other, key string) float64 {
	i := r.subject(other)
	if i <= 0 || len(r.Rounds) == 0 {
		return math.NaN()
	}
	return slices.Min(r.values(0, key)) / slices.Min(r.values(i, key))
}

// Best is the least of a figure of the first subject.
func (r *Result) Best(key string) float64 {
	values := r.values(0, key)
	if len(values) == 0 {
		return math.NaN()
	}
	return slices.Min(values)
}

// Series returns all that a subject measured in all rounds, sorted.
func (r *Result) Series(subject, key string) []float64 {
	i := r.subject(subject)
	if i < 0 {
		return nil
	}
	var all []float64
	for _, samples := range r.Rounds {
		all = append(all, samples[i].Series[key]...)
	}
	slices.Sort(all)
	return all
}
