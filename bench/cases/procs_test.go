package cases

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex/bench/harness"
)

func TestProcessorsAreSetForATurnOnly(t *testing.T) {
	had := runtime.GOMAXPROCS(0)
	for _, n := range procs {
		during := 0
		c := onProcs(n, &harness.Case{Name: "x", Ops: 1, Rounds: 31, Subjects: []harness.Subject{{
			Name: "plex", Open: func() (harness.Work, error) {
				return harness.Work{
					Run: func(int) (harness.Sample, error) {
						during = runtime.GOMAXPROCS(0)
						return harness.Sample{}, nil
					},
					Close: func() {},
				}, nil
			},
		}}})
		assert.Equal(t, runtime.NumCPU() < n, c.Lacks != "", "%d processors: %s", n, c.Lacks)
		_, err := harness.Run(t.Context(), c, harness.Options{Rounds: 1})
		require.NoError(t, err)
		assert.Equal(t, n, during)
		assert.Equal(t, had, runtime.GOMAXPROCS(0))
	}
}
