package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex/bench/cases"
	"go.atomizer.io/plex/bench/harness"
	"go.atomizer.io/plex/bench/peer"
)

// invented returns results of all cases, without measuring anything: subjects
// get a figure each, the later the larger.
func invented(t *testing.T) []*harness.Result {
	t.Helper()
	var results []*harness.Result
	for _, c := range cases.All(new(peer.Process)) {
		for i, s := range c.Subjects {
			figure := float64(100 * (i + 1))
			c.Subjects[i] = harness.Subject{Name: s.Name, Open: func() (harness.Work, error) {
				sample := harness.Sample{
					Figures: make(map[string]float64),
					Series:  map[string][]float64{cases.Seen: {figure, 2 * figure}, cases.Replaced: {3 * figure}},
				}
				for _, m := range c.Metrics {
					sample.Figures[m.Key] = figure
				}
				return harness.Work{
					Run:   func(int) (harness.Sample, error) { return sample, nil },
					Close: func() {},
				}, nil
			}}
		}
		c.Ops = 1
		r, err := harness.Run(t.Context(), c, harness.Options{Rounds: 1})
		require.NoError(t, err)
		results = append(results, r)
	}
	return results
}

func TestThePageHasAllCasesAndCharts(t *testing.T) {
	dir := t.TempDir()
	r := &report{Machine: thisMachine(), Results: invented(t), Profiles: map[string]*harness.Profile{"acquire/4": {
		Subjects: []string{"plex", "channel"}, Totals: []float64{50, 30},
		Lines: []harness.ProfileLine{{Function: "runtime.chanrecv", Each: []float64{12, 11}}},
	}}}
	require.NoError(t, r.write(dir))

	text, err := os.ReadFile(filepath.Join(dir, "benchmarks.md"))
	require.NoError(t, err)
	page := string(text)
	for _, result := range r.Results {
		assert.Contains(t, page, "`"+result.Case.Name+"`")
		assert.Contains(t, page, result.Case.Compares)
		assert.Contains(t, page, "## "+result.Case.Group)
	}
	assert.Contains(t, page, "| Acquire and close: 1 goroutine | time | ≤ 1.35 × channel | 0.50 (0.50 – 0.50) × channel | met |")
	assert.Equal(t, 1, strings.Count(page, "<summary>Where the time goes in `acquire/4`</summary>"))
	assert.Contains(t, page, "| function | plex | channel |\n| --- | --- | --- |\n| `runtime.chanrecv` | 12 ns | 11 ns |\n"+
		"| all of the process | 50 ns | 30 ns |\n")
	assert.NotContains(t, page, "A short run")
	assert.NotContains(t, page, "<no value>")
	assert.NotContains(t, page, "\n\n\n", "no paragraph is left empty")
	for _, file := range []string{"acquire.svg", "deaths.svg", "data.svg", "requests.svg", "sizes.svg"} {
		assert.Contains(t, page, "]("+file+")")
		svg, err := os.ReadFile(filepath.Join(dir, file))
		require.NoError(t, err)
		assertChart(t, string(svg))
	}
}

func TestWhatTheMachineCannotMeasureIsSaid(t *testing.T) {
	lacking := func(group, name string) *harness.Case {
		return &harness.Case{Group: group, Name: name, Title: "the title of " + name, Lacks: "there is no " + name}
	}
	result := invented(t)[0]
	can, cannot := possible([]*harness.Case{
		lacking(result.Case.Group, "one"), result.Case, lacking(result.Case.Group, "two"), lacking(cases.GroupRedis, "three"),
	})
	require.Equal(t, []*harness.Case{result.Case}, can)
	r := &report{Machine: thisMachine(), Results: []*harness.Result{result}, Left: cannot}
	dir := t.TempDir()
	require.NoError(t, r.write(dir))
	text, err := os.ReadFile(filepath.Join(dir, "benchmarks.md"))
	require.NoError(t, err)
	page := string(text)
	assert.NotContains(t, page, "\n\n\n")
	measured, unmeasured, found := strings.Cut(page, "## "+cases.GroupRedis)
	require.True(t, found, "a group of which nothing was measured has its heading all the same")
	assert.Contains(t, measured, "\n\nNot measured: the title of one (there is no one).\nNot measured: the title of two (there is no two).\n\n| case |")
	assert.Contains(t, unmeasured, cases.About[cases.GroupRedis]+"\n\nNot measured: the title of three (there is no three).\n")
	assert.NotContains(t, unmeasured, "| case |")
}

func TestChartsOfCasesThatWereNotRunAreLeftOut(t *testing.T) {
	dir := t.TempDir()
	r := &report{Machine: thisMachine(), Results: invented(t)[:1], Short: true}
	require.NoError(t, r.write(dir))
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1)
	text, err := os.ReadFile(filepath.Join(dir, entries[0].Name()))
	require.NoError(t, err)
	assert.Contains(t, string(text), "A short run")
	assert.NotContains(t, string(text), ".svg")
}

// assertChart looks whether it is well-formed and suits a light page and a
// dark one: it has colours for both, a background, and no other colours.
func assertChart(t *testing.T, svg string) {
	t.Helper()
	known := make(map[string]bool)
	for _, s := range shades {
		known[text(s.light)] = true
	}
	assert.Contains(t, svg, "prefers-color-scheme:dark")
	assert.Contains(t, svg, "Z\" style=\"fill:"+text(paper.light), "it has a background")
	d := xml.NewDecoder(strings.NewReader(svg))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		require.NoError(t, err)
		e, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		for _, a := range e.Attr {
			if a.Name.Local != "style" {
				continue
			}
			if e.Name.Local == "text" {
				assert.Contains(t, a.Value, "fill:", "a text without a colour is black on a dark page")
			}
			for declaration := range strings.SplitSeq(a.Value, ";") {
				property, value, _ := strings.Cut(strings.TrimSpace(declaration), ":")
				if (property == "fill" || property == "stroke") && value != "none" {
					assert.True(t, known[value], "%s has no dark counterpart", value)
				}
			}
		}
	}
}

func TestWhatIsTooSlowIsProfiled(t *testing.T) {
	ratio := func(v float64) []harness.Target { return []harness.Target{harness.AtMost(v, "other", "f")} }
	for _, test := range []struct {
		name    string
		unit    harness.Unit
		targets []harness.Target
		never   bool
		want    string
	}{
		{"too slow", harness.Nanoseconds, ratio(0.4), false, "other"},
		{"fast enough", harness.Nanoseconds, ratio(0.6), false, ""},
		{"too large", harness.Size, ratio(0.4), false, ""},
		{"a figure alone", harness.Nanoseconds, []harness.Target{harness.Below(1, "f")}, false, ""},
		{"a profile would not show it", harness.Nanoseconds, ratio(0.4), true, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			figure := func(name string, v float64) harness.Subject {
				return harness.Subject{Name: name, Open: func() (harness.Work, error) {
					return harness.Work{
						Run: func(int) (harness.Sample, error) {
							return harness.Sample{Figures: map[string]float64{"f": v}}, nil
						},
						Close: func() {},
					}, nil
				}}
			}
			r, err := harness.Run(t.Context(), &harness.Case{
				Ops: 1, Metrics: []harness.Metric{{Key: "f", Unit: test.unit}}, Targets: test.targets,
				NoProfile: test.never,
				Subjects:  []harness.Subject{figure("plex", 10), figure("other", 20)},
			}, harness.Options{Rounds: 1})
			require.NoError(t, err)
			against, missed := missedAgainst(r)
			require.Equal(t, test.want, against)
			require.Equal(t, test.want != "", missed)
		})
	}
}

func TestDocsAreFoundFromWithinTheRepository(t *testing.T) {
	dir, err := docs()
	require.NoError(t, err)
	assert.Equal(t, "docs", filepath.Base(dir))
	_, err = os.Stat(filepath.Join(filepath.Dir(dir), "plex.go"))
	require.NoError(t, err)
	t.Chdir(t.TempDir())
	_, err = docs()
	require.Error(t, err)
}
