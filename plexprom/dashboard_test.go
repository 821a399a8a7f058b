package plexprom_test

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// dashboard is what the tests need of a dashboard of Grafana.
type dashboard struct {
	Title, UID string
	Templating struct {
		List []struct{ Name, Definition string }
	}
	Panels []struct {
		ID      int
		Type    string
		Title   string
		GridPos struct{ X, Y, W, H int }
		Targets []struct{ RefID, Expr string }
	}
}

func readDashboard(t *testing.T) (d dashboard) {
	text, err := os.ReadFile("dashboard.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &d))
	return d
}

// queries are the dashboard's expressions, with values for Grafana's variables.
func (d dashboard) queries() (queries []string) {
	variables := strings.NewReplacer("$pool", ".*", "$__rate_interval", "1m")
	for _, panel := range d.Panels {
		for _, target := range panel.Targets {
			queries = append(queries, variables.Replace(target.Expr))
		}
	}
	return queries
}

var metricName = regexp.MustCompile(`\bplex_\w+`)

func TestDashboard(t *testing.T) {
	d := readDashboard(t)
	require.Equal(t, "plex", d.Title)
	require.NotEmpty(t, d.UID)
	text := strings.Join(d.queries(), "\n") + "\n"
	require.NotContains(t, text, "$", "a variable that nobody defines")
	for _, variable := range d.Templating.List {
		text += variable.Definition + "\n"
	}

	families, err := registryOf(t, newPool(t)).Gather()
	require.NoError(t, err)
	shown := make(map[string]bool) // by metric: whether a panel shows it
	histograms := make(map[string]string)
	for _, family := range families {
		name := family.GetName()
		shown[name] = false
		if family.GetMetric()[0].Histogram != nil {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				histograms[name+suffix] = name
			}
		}
	}
	for _, name := range metricName.FindAllString(text, -1) {
		if base, ok := histograms[name]; ok {
			name = base
		}
		require.Contains(t, shown, name, "the dashboard asks for it, and there is no such metric")
		shown[name] = true
	}
	for name, is := range shown {
		require.True(t, is, "no panel shows %s", name)
	}
}

// Each panel has its own place and number, and asks for something.
func TestDashboardLayout(t *testing.T) {
	ids, taken := make(map[int]bool), make(map[[2]int]string)
	for _, panel := range readDashboard(t).Panels {
		require.NotEmpty(t, panel.Title)
		require.Equal(t, panel.Type == "row", len(panel.Targets) == 0, panel.Title)
		require.NotContains(t, ids, panel.ID, panel.Title)
		ids[panel.ID] = true

		refs := make(map[string]bool)
		for _, target := range panel.Targets {
			require.NotContains(t, refs, target.RefID, panel.Title)
			refs[target.RefID] = true
		}
		at := panel.GridPos
		require.LessOrEqual(t, at.X+at.W, 24, panel.Title)
		for x := at.X; x < at.X+at.W; x++ {
			for y := at.Y; y < at.Y+at.H; y++ {
				require.Empty(t, taken[[2]int{x, y}], "%s has the place of %s", panel.Title, taken[[2]int{x, y}])
				taken[[2]int{x, y}] = panel.Title
			}
		}
	}
}

// The metrics that the page and the package documentation name are those that there are.
func TestDocumentation(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	source, err := os.ReadFile("plexprom.go")
	require.NoError(t, err)
	families, err := registryOf(t, newPool(t)).Gather()
	require.NoError(t, err)
	names := make(map[string]bool)
	for _, family := range families {
		names[family.GetName()] = true
		require.True(t, strings.Contains(string(source), family.GetName()),
			"the package documentation does not name %s", family.GetName())
	}
	example, err := os.ReadFile("example_test.go")
	require.NoError(t, err)
	for _, snippet := range regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(readme), -1) {
		for line := range strings.Lines(snippet[1]) {
			require.Contains(t, string(example), "\t"+line, "README.md shows it, and it does not compile")
			require.Contains(t, string(source), "//\t"+line)
		}
	}
	for _, text := range [][]byte{readme, source} {
		for _, name := range metricName.FindAllString(string(text), -1) {
			require.Contains(t, names, name)
		}
	}
}
