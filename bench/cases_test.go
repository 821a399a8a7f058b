package bench_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex/bench/cases"
	"go.atomizer.io/plex/bench/harness"
)

// likeAnother are the cases that are the same code as another with a larger
// number, which takes too long to be run each time.
var likeAnother = map[string]string{
	"idle/10000": "idle/1000",
}

func TestEveryCaseRuns(t *testing.T) {
	for _, c := range cases.All(other) {
		if c.Group == cases.GroupSizes {
			continue // see sizes_test.go
		}
		if like := likeAnother[c.Name]; like != "" {
			t.Logf("%s is not run: it is %s with a larger number", c.Name, like)
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			if c.Lacks != "" && (c.Group == cases.GroupProcs || os.Getenv("CI") != "true") {
				t.Skip(c.Lacks) // a processor cannot be installed
			}
			once := *c
			if once.Ops == 0 {
				once.Ops = 100
			} else {
				once.Ops = 1 // each is large
			}
			r, err := harness.Run(t.Context(), &once, harness.Options{Rounds: 1})
			require.NoError(t, err)
			for _, m := range c.Metrics {
				_, ok := r.Value(c.Subjects[0].Name, m.Key)
				assert.True(t, ok, "plex has no figure %s", m.Key)
			}
			assert.Len(t, r.Verdicts(), len(c.Targets), "every target has what it needs")
		})
	}
}

func TestEveryCaseSaysWhatItIs(t *testing.T) {
	names := make(map[string]bool)
	for _, c := range cases.All(other) {
		assert.NotContains(t, names, c.Name, "names are unique")
		names[c.Name] = true
		assert.NotContains(t, c.Name, " ")
		assert.NotEmpty(t, c.Title, c.Name)
		assert.NotEmpty(t, c.Compares, c.Name)
		assert.NotEmpty(t, cases.About[c.Group], c.Name)
		assert.Equal(t, "plex", c.Subjects[0].Name, c.Name)
		for _, target := range c.Targets {
			keys := make([]string, len(c.Metrics))
			for i, m := range c.Metrics {
				keys[i] = m.Key
			}
			assert.Contains(t, keys, target.Key, "%s: what has a target is shown", c.Name)
		}
	}
	for name, like := range likeAnother {
		assert.Contains(t, names, name)
		assert.Contains(t, names, like)
	}
}
