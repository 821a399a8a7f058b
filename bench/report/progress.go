package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"go.atomizer.io/plex/bench/harness"
)

// progress shows which case runs, and what came of those before: a line for
// each that is done, and below them, on a terminal, a bar.
type progress struct {
	all     int
	current *harness.Case
	bar     *progressbar.ProgressBar // nil if nobody looks
	at      int
}

// steps is how many steps of the bar a case is.
const steps = 100

func newProgress(cases int) *progress {
	p := &progress{all: cases}
	if term.IsTerminal(int(os.Stderr.Fd())) {
		p.bar = progressbar.NewOptions(cases*steps,
			progressbar.OptionSetWriter(os.Stderr),
			progressbar.OptionSetWidth(30),
			progressbar.OptionSetPredictTime(true),
			progressbar.OptionSetElapsedTime(true),
			progressbar.OptionUseANSICodes(true),
			progressbar.OptionClearOnFinish(),
		)
	}
	return p
}

func (p *progress) begin(i int, c *harness.Case) {
	p.at, p.current = i, c
	if p.bar == nil {
		fmt.Fprintf(os.Stderr, "[%d/%d] %s\n", i+1, p.all, c.Name)
		return
	}
	p.bar.Describe(fmt.Sprintf("[%d/%d] %-22s", i+1, p.all, c.Name))
	p.show(0, 1)
}

func (p *progress) turn(done, all int) { p.show(done, all) }

func (p *progress) show(done, all int) {
	if p.bar != nil {
		_ = p.bar.Set(p.at*steps + steps*done/all) // a bar that cannot be drawn is no reason to stop
	}
}

func (p *progress) done(r *harness.Result) {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
	fmt.Println(summary(r))
	p.show(1, 1)
}

func (p *progress) end() {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
}

// summary is a case in a line: the first figure of all, and the verdicts.
func summary(r *harness.Result) string {
	m := r.Case.Metrics[0]
	var parts []string
	for _, s := range r.Case.Subjects {
		if v, ok := r.Value(s.Name, m.Key); ok {
			parts = append(parts, s.Name+" "+m.Unit.Format(v.Median))
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%-22s %s", r.Case.Name, strings.Join(parts, ", "))
	for _, v := range r.Verdicts() {
		fmt.Fprintf(&b, "\n%-22s %s %s, target %s: %s", "", v.Metric.Title, v.Reached(), v.Limit(), met(v))
	}
	return b.String()
}

// met says what came of a target.
func met(v harness.Verdict) string {
	word := "missed"
	if v.Met {
		word = "met"
	}
	if v.Close {
		word += ", within the noise"
	}
	return word
}
