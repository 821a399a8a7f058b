package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
	"time"

	"go.atomizer.io/plex/bench/cases"
	"go.atomizer.io/plex/bench/harness"
	"go.atomizer.io/plex/internal/pace/pacesim"
)

// report is what is written.
type report struct {
	Machine machine
	Short   bool
	Options harness.Options
	Results []*harness.Result
	Left    []*harness.Case // that this machine cannot measure
	// Profiles are of the cases that are too slow, by name.
	Profiles map[string]*harness.Profile
	Took     time.Duration
	// Simulated is of services with several addresses.
	Simulated []*pacesim.Result
}

//go:embed benchmarks.md.tmpl
var page string

// write writes the page and the charts into a directory.
func (r *report) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	charts, err := r.charts()
	if err != nil {
		return err
	}
	shown := make(map[string]chart)
	for _, c := range charts {
		if err := os.WriteFile(filepath.Join(dir, c.File), c.SVG, 0o644); err != nil {
			return err
		}
		shown[c.Group] = c
	}
	t, err := template.New("page").Funcs(template.FuncMap{
		"groups":    r.groups,
		"targets":   r.targets,
		"table":     table,
		"join":      func(lines []string) string { return strings.Join(lines, "\n") },
		"profile":   r.profile,
		"shards":    r.shards,
		"addresses": func() (string, error) { return writeAddresses(dir, r.Simulated) },
		"chart":     func(group string) string { return shown[group].markdown() },
		"round":     func(d time.Duration) time.Duration { return d.Round(time.Second) },
	}).Parse(page)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := t.Execute(&text, r); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "benchmarks.md"), text.Bytes(), 0o644)
}

// group is the cases under one heading.
type group struct {
	Name    string
	About   string
	Results []*harness.Result
	Left    []string // what was left out, and why, in sentences
}

// groups are in the order of the cases. One of which everything was left out comes last.
func (r *report) groups() []group {
	var groups []group
	of := func(name string) *group {
		for i := range groups {
			if groups[i].Name == name {
				return &groups[i]
			}
		}
		groups = append(groups, group{Name: name, About: cases.About[name]})
		return &groups[len(groups)-1]
	}
	for _, result := range r.Results {
		g := of(result.Case.Group)
		g.Results = append(g.Results, result)
	}
	for _, c := range r.Left {
		g := of(c.Group)
		g.Left = append(g.Left, fmt.Sprintf("Not measured: %s (%s).", c.Title, c.Lacks))
	}
	return groups
}

// targets is the table of all verdicts.
func (r *report) targets() string {
	rows := [][]string{{"what", "figure", "target", "reached (spread)", ""}}
	for _, result := range r.Results {
		for _, v := range result.Verdicts() {
			what := result.Case.Group + ": " + result.Case.Title
			rows = append(rows, []string{what, v.Metric.Title, v.Limit(), v.Reached(), met(v)})
		}
	}
	return markdownTable(rows)
}

// table is the table of a group: a line for each figure of each case, a
// column for each subject. With a subject other than plex stands the
// ratio of plex to it.
func table(g group) string {
	var subjects []string
	for _, r := range g.Results {
		for _, s := range r.Case.Subjects {
			if !slices.Contains(subjects, s.Name) {
				subjects = append(subjects, s.Name)
			}
		}
	}
	rows := [][]string{append(append([]string{"case", "figure"}, subjects...), "target")}
	for _, r := range g.Results {
		for i, m := range r.Case.Metrics {
			title := ""
			if i == 0 {
				title = r.Case.Title
			}
			row := []string{title, m.Title}
			for _, s := range subjects {
				row = append(row, cell(r, m, s))
			}
			rows = append(rows, append(row, targetCell(r, m)))
		}
	}
	return markdownTable(rows)
}

func cell(r *harness.Result, m harness.Metric, subject string) string {
	v, ok := r.Value(subject, m.Key)
	if !ok {
		return "–"
	}
	text := m.Unit.Format(v.Median)
	if ratio, ok := r.Ratio(subject, m.Key); ok && m.Compares() {
		return text + "<br>" + ratio.String() + " ×"
	}
	if subject == r.Case.Subjects[0].Name {
		return "**" + text + "**"
	}
	return text
}

// targetCell is the targets of a case for one figure, and whether they are met.
func targetCell(r *harness.Result, m harness.Metric) string {
	var texts []string
	for _, v := range r.Verdicts() {
		if v.Target.Key == m.Key {
			texts = append(texts, v.Limit()+": "+met(v))
		}
	}
	return strings.Join(texts, "<br>")
}

// profile is the table of where the time goes, "" if there is none.
func (r *report) profile(c *harness.Case) string {
	p := r.Profiles[c.Name]
	if p == nil {
		return ""
	}
	row := func(name string, each []float64) []string {
		row := []string{name}
		for _, v := range each {
			row = append(row, harness.Nanoseconds.Format(v))
		}
		return row
	}
	rows := [][]string{append([]string{"function"}, p.Subjects...)}
	for _, line := range p.Lines {
		rows = append(rows, row("`"+line.Function+"`", line.Each))
	}
	return markdownTable(append(rows, row("all of the process", p.Totals)))
}

func markdownTable(rows [][]string) string {
	var b strings.Builder
	for i, row := range rows {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			b.WriteString("|" + strings.Repeat(" --- |", len(row)) + "\n")
		}
	}
	return b.String()
}
