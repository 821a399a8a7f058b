package harness_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex/bench/harness"
)

// figures makes a subject whose turns give these figures, one after the other.
func figures(name string, values ...float64) harness.Subject {
	return harness.Subject{Name: name, Open: func() (harness.Work, error) {
		turn := 0
		return harness.Work{
			Run: func(int) (harness.Sample, error) {
				turn++
				return harness.Sample{
					Figures: map[string]float64{"f": values[turn-1]},
					Series:  map[string][]float64{"s": {values[turn-1]}},
				}, nil
			},
			Close: func() {},
		}, nil
	}}
}

func measure(t *testing.T, c *harness.Case, rounds int) *harness.Result {
	t.Helper()
	c.Ops = 1
	r, err := harness.Run(t.Context(), c, harness.Options{Rounds: rounds})
	require.NoError(t, err)
	return r
}

func TestRatiosAreTakenRoundByRound(t *testing.T) {
	// The machine is ten times slower in the second round, which the ratio
	// must not show.
	r := measure(t, &harness.Case{Subjects: []harness.Subject{
		figures("plex", 2, 20, 2), figures("other", 1, 10, 1),
	}}, 3)
	ratio, ok := r.Ratio("other", "f")
	require.True(t, ok)
	assert.Equal(t, harness.Spread{Median: 2, Low: 2, High: 2, N: 3}, ratio)
	value, ok := r.Value("plex", "f")
	require.True(t, ok)
	assert.Equal(t, 2.0, value.Median)
	assert.InDelta(t, 2, r.BestRatio("other", "f"), 0)
	assert.Equal(t, []float64{2, 2, 20}, r.Series("plex", "s"))
}

func TestASubjectThatIsMissingHasNoRatio(t *testing.T) {
	r := measure(t, &harness.Case{Subjects: []harness.Subject{figures("plex", 1)}}, 1)
	_, ok := r.Ratio("other", "f")
	assert.False(t, ok)
	_, ok = r.Value("plex", "g")
	assert.False(t, ok)
	assert.Empty(t, r.Series("other", "s"))
}

func TestVerdicts(t *testing.T) {
	r := measure(t, &harness.Case{
		Metrics: []harness.Metric{{Key: "f", Title: "figure", Unit: harness.Nanoseconds}},
		Targets: []harness.Target{
			harness.AtMost(1.5, "other", "f"), harness.AtLeast(0.9, "other", "f"),
			harness.Below(3, "f"), harness.AtMost(1, "nobody", "f"),
		},
		Subjects: []harness.Subject{figures("plex", 2, 2, 4), figures("other", 1, 1, 4)},
	}, 3)
	verdicts := r.Verdicts()
	assert.Equal(t, []string{
		"figure ≤ 1.50 × other", "figure ≥ 0.900 × other", "figure ≤ 3 ns", "figure ≤ 1.000 × nobody",
	}, r.Case.Limits())
	require.Len(t, verdicts, 3, "a target against nobody has no verdict")
	assert.False(t, verdicts[0].Met)
	assert.True(t, verdicts[0].Close, "the limit of 1.5 is the lower quarter")
	assert.Equal(t, "≤ 1.50 × other", verdicts[0].Limit())
	assert.True(t, verdicts[1].Met)
	assert.False(t, verdicts[1].Close)
	assert.True(t, verdicts[2].Met)
	assert.Equal(t, "≤ 3 ns", verdicts[2].Limit())
	assert.Equal(t, "2 ns (2 ns – 3 ns)", verdicts[2].Reached())
}

func TestACaseEndsEarlyWhereTheMachineHasBecomeSlower(t *testing.T) {
	for _, test := range []struct {
		name         string
		slower       time.Duration
		ops          int
		wantMeasured int
	}{
		{"as fast", 1, 0, 20},
		{"twice as slow", 2, 0, 16}, // when it begins, 15 have taken just as long as they may
		{"much slower", 100, 0, 3},
		{"much slower, with a given number of operations", 100, 10, 20},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				each, calibrated := time.Millisecond, false
				subject := harness.Subject{Name: "plex", Open: func() (harness.Work, error) {
					return harness.Work{
						Run: func(n int) (harness.Sample, error) {
							time.Sleep(each * time.Duration(n))
							if n == 10 && !calibrated { // the last try before the rounds
								calibrated, each = true, each*test.slower
							}
							return harness.Sample{}, nil
						},
						Close: func() {},
					}, nil
				}}
				r, err := harness.Run(t.Context(), &harness.Case{
					Ops: test.ops, Turn: 10 * time.Millisecond, Subjects: []harness.Subject{subject},
				}, harness.Options{Rounds: 20})
				require.NoError(t, err)
				assert.Len(t, r.Rounds, test.wantMeasured)
			})
		})
	}
}

func TestTheOrderOfTurnsChangesFromRoundToRound(t *testing.T) {
	var order string
	subject := func(name string) harness.Subject {
		return harness.Subject{Name: name, Open: func() (harness.Work, error) {
			return harness.Work{
				Run:   func(int) (harness.Sample, error) { order += name; return harness.Sample{}, nil },
				Close: func() { order += "-" + name },
			}, nil
		}}
	}
	measure(t, &harness.Case{Subjects: []harness.Subject{subject("a"), subject("b")}}, 3)
	assert.Equal(t, "abbaab-a-b", order)
}

func TestAnErrorNamesTheSubjectAndClosesAll(t *testing.T) {
	broken := errors.New("broken")
	closed := 0
	good := harness.Subject{Name: "good", Open: func() (harness.Work, error) {
		return harness.Work{
			Run:   func(int) (harness.Sample, error) { return harness.Sample{}, nil },
			Close: func() { closed++ },
		}, nil
	}}
	bad := harness.Subject{Name: "bad", Open: func() (harness.Work, error) {
		return harness.Work{
			Run:   func(int) (harness.Sample, error) { return harness.Sample{}, broken },
			Close: func() { closed++ },
		}, nil
	}}
	_, err := harness.Run(t.Context(), &harness.Case{Name: "case", Ops: 1, Subjects: []harness.Subject{good, bad}}, harness.Options{Rounds: 1})
	require.ErrorIs(t, err, broken)
	assert.EqualError(t, err, "case: bad: broken")
	assert.Equal(t, 2, closed)
}

func TestOperationsFillATurn(t *testing.T) {
	var last int
	c := &harness.Case{Turn: 10 * time.Millisecond, Subjects: []harness.Subject{{Name: "s", Open: func() (harness.Work, error) {
		return harness.Work{
			Run: func(n int) (harness.Sample, error) {
				last = n
				time.Sleep(time.Duration(n) * 100 * time.Microsecond)
				return harness.Sample{}, nil
			},
			Close: func() {},
		}, nil
	}}}}
	r, err := harness.Run(t.Context(), c, harness.Options{Rounds: 1})
	require.NoError(t, err)
	assert.Greater(t, last, 1, "one operation does not fill a turn")
	value, ok := r.Value("s", harness.TimePerOp)
	require.True(t, ok)
	assert.GreaterOrEqual(t, value.Median, 100e3, "each takes 100 µs at least")
}

// spin is what a profile has to show.
//
//go:noinline
func spin(d time.Duration) (turns int) {
	for start := time.Now(); time.Since(start) < d; turns++ {
	}
	return turns
}

func TestAProfileShowsWhereTheTimeGoes(t *testing.T) {
	subject := func(name string, busy time.Duration) harness.Subject {
		return harness.Subject{Name: name, Open: func() (harness.Work, error) {
			return harness.Work{
				Run: func(n int) (harness.Sample, error) {
					for range n {
						spin(busy)
						time.Sleep(time.Millisecond)
					}
					return harness.Sample{}, nil
				},
				Close: func() {},
			}, nil
		}}
	}
	c := &harness.Case{Name: "case", Subjects: []harness.Subject{
		subject("plex", 20*time.Millisecond), subject("unasked", 0), subject("other", 5*time.Millisecond),
	}}
	p, err := harness.RunProfile(t.Context(), c, 500*time.Millisecond, "plex", "other")
	require.NoError(t, err)
	require.Equal(t, []string{"plex", "other"}, p.Subjects)
	require.Len(t, p.Totals, 2)
	require.Greater(t, p.Totals[0], p.Totals[1])
	require.NotEmpty(t, p.Lines)
	all := [2]float64{}
	for i, line := range p.Lines {
		require.Len(t, line.Each, 2)
		require.LessOrEqual(t, max(line.Each[0], line.Each[1]), max(p.Lines[max(i, 1)-1].Each[0], p.Lines[max(i, 1)-1].Each[1]))
		all[0], all[1] = all[0]+line.Each[0], all[1]+line.Each[1]
	}
	require.LessOrEqual(t, all[0], p.Totals[0]*1.001)
	require.Greater(t, all[0], p.Totals[0]/2, "most of it is in few functions")
}

func TestAProfileOfWhatFailsSaysWho(t *testing.T) {
	broken := errors.New("broken")
	bad := harness.Subject{Name: "bad", Open: func() (harness.Work, error) {
		return harness.Work{
			Run:   func(int) (harness.Sample, error) { return harness.Sample{}, broken },
			Close: func() {},
		}, nil
	}}
	_, err := harness.RunProfile(t.Context(), &harness.Case{Name: "case", Ops: 1, Subjects: []harness.Subject{bad}}, time.Second, "bad")
	require.EqualError(t, err, "case: bad: profile: broken")
}

func TestQuantile(t *testing.T) {
	sorted := []float64{1, 2, 3, 4}
	assert.Equal(t, 1.0, harness.Quantile(sorted, 0))
	assert.Equal(t, 2.5, harness.Quantile(sorted, 0.5))
	assert.Equal(t, 4.0, harness.Quantile(sorted, 1))
	assert.Zero(t, harness.Quantile(nil, 0.5))
}

func TestFormat(t *testing.T) {
	for _, c := range []struct {
		unit harness.Unit
		v    float64
		want string
	}{
		{harness.Nanoseconds, 40.94, "40.9 ns"},
		{harness.Nanoseconds, 999.9, "1.00 µs"},
		{harness.Nanoseconds, 1e6, "1 ms"},
		{harness.Nanoseconds, 2.5e9, "2.50 s"},
		{harness.Size, 1 << 10, "1 KiB"},
		{harness.Size, 900, "900 B"},
		{harness.BytesPerSecond, 3.5e9, "3.50 GB/s"},
		{harness.PerSecond, 151_823, "152,000/s"},
		{harness.PerSecond, 6.4, "6.40/s"},
		{harness.Count, 64, "64"},
		{harness.Number, 0.0123, "0.012"},
	} {
		assert.Equal(t, c.want, c.unit.Format(c.v))
	}
	assert.Equal(t, "1.35", harness.FormatRatio(1.35))
	assert.Equal(t, "1.030", harness.FormatRatio(1.03))
	assert.Equal(t, "0.071", harness.FormatRatio(0.0712))
	assert.Equal(t, "12.3", harness.FormatRatio(12.34))
	assert.Equal(t, "10,000", harness.Thousands(10_000))
	assert.Equal(t, "512", harness.Thousands(512))
}
