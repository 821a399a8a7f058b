package bench_test

import (
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex/bench/cases"
	"go.atomizer.io/plex/bench/harness"
)

// costs does something to n connections, and returns what each step costs for each.
func costs(t *testing.T, mass cases.Mass, n int) map[string]float64 {
	t.Helper()
	figures, err := mass.Measure(n)
	require.NoError(t, err)
	return figures
}

func TestEveryMassOperationRuns(t *testing.T) {
	for _, mass := range cases.MassOperations {
		t.Run(mass.Name, func(t *testing.T) {
			figures := costs(t, mass, 200)
			for _, step := range mass.Steps {
				assert.Contains(t, figures, step.Key)
			}
			assert.Len(t, figures, len(mass.Steps))
		})
	}
}

func TestTheLongestHoldsOfTheLockAreMeasured(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("nobody knows the processor time of a thread")
	}
	c := cases.Locks(100, 50)
	r, err := harness.Run(t.Context(), c, harness.Options{Rounds: 1})
	require.NoError(t, err)
	for _, s := range c.Subjects {
		for _, m := range c.Metrics {
			v, ok := r.Value(s.Name, m.Key)
			assert.True(t, ok, "no figure %s", m.Key)
			assert.Positive(t, v.Median, m.Key)
		}
	}
}

// growing are costs that are known to grow with the pool, with the reason.
var growing = map[string]string{
	"duplex": "unlist turns the whole queue for each lease by name of a half that is ready",
}

// growth is how much more each may cost where there are eight times as many. A cost that is square
// grows by eight.
const growth = 3

func TestNoCostForEachGrowsWithThePool(t *testing.T) {
	if raceTime > 1 {
		t.Skip("the race detector allows fewer goroutines than there are connections here")
	}
	for _, mass := range cases.MassOperations {
		t.Run(mass.Name, func(t *testing.T) {
			if why := growing[mass.Name]; why != "" {
				t.Skip(why)
			}
			if mass.Name == "renew" {
				t.Skip("its pauses take seconds; the report has it")
			}
			small := 4_000 // fewer would fit into the processor's caches
			switch mass.Name {
			case "named":
				small = 12_500
			case "duplex":
				small = 1_000 // it takes long if the cost is square
			}
			best := func(figures, of map[string]float64) {
				for key, v := range of {
					if least, ok := figures[key]; !ok || v < least {
						figures[key] = v
					}
				}
			}
			few, many := make(map[string]float64), make(map[string]float64)
			var missed []cases.Step
			for range attempts {
				best(few, costs(t, mass, small))
				best(many, costs(t, mass, 8*small))
				missed = slices.DeleteFunc(slices.Clone(mass.Steps), func(s cases.Step) bool { return many[s.Key] <= growth*few[s.Key] })
				if len(missed) == 0 {
					break
				}
			}
			for _, step := range missed {
				assert.Fail(t, "the cost grows", "%s: %.0f ns for each of %d, %.0f ns for each of %d", step.Title, few[step.Key], small, many[step.Key], 8*small)
			}
		})
	}
}
