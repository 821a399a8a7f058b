package harness

// Where the time goes, for a target that is missed.

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"path"
	"runtime/pprof"
	"slices"
	"time"

	"github.com/google/pprof/profile"
)

// Profile is where two subjects of a case spend their time.
type Profile struct {
	Subjects []string
	Totals   []float64 // for each subject: all its processor time for an operation, in nanoseconds
	Lines    []ProfileLine
}

// ProfileLine is one function.
type ProfileLine struct {
	Function string
	// Each has for each subject the processor time, in nanoseconds, that the
	// function takes for an operation, without what it calls.
	Each []float64
}

// profileLines is how many functions are shown.
const profileLines = 12

// RunProfile has each of two subjects work for so long under the CPU profiler, and
// returns the functions that take most.
func RunProfile(ctx context.Context, c *Case, d time.Duration, subjects ...string) (*Profile, error) {
	p := &Profile{Subjects: subjects}
	all := make(map[string][]float64)
	for i, name := range subjects {
		total, each, err := profileOf(ctx, c.Only(name), d)
		if err != nil {
			return nil, err
		}
		p.Totals = append(p.Totals, total)
		for function, time := range each {
			if all[function] == nil {
				all[function] = make([]float64, len(subjects))
			}
			all[function][i] = time
		}
	}
	for function, each := range all {
		p.Lines = append(p.Lines, ProfileLine{function, each})
	}
	slices.SortFunc(p.Lines, func(a, b ProfileLine) int {
		return cmp.Or(cmp.Compare(slices.Max(b.Each), slices.Max(a.Each)), cmp.Compare(a.Function, b.Function))
	})
	p.Lines = p.Lines[:min(len(p.Lines), profileLines)]
	return p, nil
}

// profileOf profiles the one subject of c.
func profileOf(ctx context.Context, c *Case, d time.Duration) (total float64, each map[string]float64, err error) {
	works, err := open(c)
	defer func() {
		for _, w := range works {
			w.Close()
		}
	}()
	if err != nil {
		return 0, nil, err
	}
	w, n := works[0], c.Ops
	failed := func(err error) error { return fmt.Errorf("%s: %s: profile: %w", c.Name, c.Subjects[0].Name, err) }
	if n == 0 {
		if n, err = calibrate(w, d/20); err != nil {
			return 0, nil, failed(err)
		}
	}
	var data bytes.Buffer
	if err := pprof.StartCPUProfile(&data); err != nil {
		return 0, nil, failed(err)
	}
	ops := 0
	for end := time.Now().Add(d); err == nil && ctx.Err() == nil && time.Now().Before(end); ops += n {
		_, err = w.Run(n)
	}
	pprof.StopCPUProfile()
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return 0, nil, failed(err)
	}
	parsed, err := profile.Parse(&data)
	if err != nil {
		return 0, nil, failed(err)
	}
	each = make(map[string]float64)
	for _, s := range parsed.Sample {
		time := float64(s.Value[len(s.Value)-1]) / float64(ops) // samples, then nanoseconds
		each[leaf(s)] += time
		total += time
	}
	return total, each, nil
}

// leaf is the function in which a sample was taken.
func leaf(s *profile.Sample) string {
	if len(s.Location) == 0 || len(s.Location[0].Line) == 0 || s.Location[0].Line[0].Function == nil {
		return "?"
	}
	return path.Base(s.Location[0].Line[0].Function.Name) // the first line is the innermost of inlined calls
}
