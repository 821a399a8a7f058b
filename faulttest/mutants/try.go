package main

// Trying a defect: copy, plant, build, test.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	targetTime = 20 * time.Second // for the tests that are known to catch a defect
	suiteTime  = 3 * time.Minute  // for all tests of a package
)

type outcome string

const (
	caught   outcome = "caught"
	survived outcome = "SURVIVED"
	failed   outcome = "ERROR" // it could not be tried
)

// verdict is what became of a defect.
type verdict struct {
	defect  defect
	outcome outcome
	by      string // the test that caught it
	how     string // in a few words
	late    bool   // not by a test that was said to
	took    time.Duration
	output  string // of the test
	err     error  // why it could not be tried
}

// try plants d into a copy of its own and runs tests until one fails.
func (g *gate) try(ctx context.Context, d defect) verdict {
	start := time.Now()
	v := verdict{defect: d, outcome: survived}
	err := func() error {
		s, err := g.site(d.name)
		if err != nil {
			return err
		}
		defer s.clean()
		if err := d.apply(s.dir); err != nil {
			return err
		}
		known := len(d.tests)
		for i, suite := range slices.Concat(d.tests, d.home(), everything) {
			limit := targetTime
			if i >= known {
				limit = suiteTime
			}
			r, err := s.run(ctx, suite, limit)
			if err != nil {
				return err
			}
			if !r.passed {
				v.outcome, v.by, v.how, v.output, v.late = caught, r.by, r.how, r.output, i >= known
				if suite.pkg != "." {
					v.by = strings.TrimPrefix(suite.pkg, "./") + "." + v.by
				}
				return nil
			}
		}
		return nil
	}()
	if err != nil {
		v.outcome, v.err = failed, err
	}
	v.took = time.Since(start)
	return v
}

// home is all tests of an internal package, for a defect in it.
func (d defect) home() []suite {
	if strings.HasPrefix(d.pkg, "internal/") {
		return []suite{own(d.pkg)}
	}
	return nil
}

// everything is what a defect that its known tests do not catch has to get
// past.
var everything = []suite{root(), fault("./model"), fault("faulttest"), fault("./soak")}

// control runs the known tests of the defects on a copy without one.
func (g *gate) control(ctx context.Context, chosen []defect) error {
	s, err := g.site("control")
	if err != nil {
		return err
	}
	defer s.clean()
	names := make(map[string][]string)
	var programs []suite
	for _, d := range chosen {
		for _, suite := range d.tests {
			program := suite.program()
			if names[program] == nil {
				programs = append(programs, suite)
			}
			names[program] = append(names[program], suite.names...)
		}
	}
	for _, all := range programs {
		slices.Sort(names[all.program()])
		all.names = slices.Compact(names[all.program()])
		pkg, names := all.pkg, all.names
		r, err := s.run(ctx, all, suiteTime)
		if err == nil && !r.passed { // once more: all of them at once are many, beside a busy machine's other work
			r, err = s.run(ctx, all, suiteTime)
		}
		if err != nil {
			return err
		}
		if !r.passed {
			return fmt.Errorf("without any defect, %s fails (%s):\n%s", r.by, r.how, r.output)
		}
		for _, name := range names {
			if !strings.Contains(r.output, "=== RUN   "+name+"\n") {
				return fmt.Errorf("package %s has no test %s", pkg, name)
			}
		}
	}
	return nil
}

// site is a copy of the library with the test programs that were built of it.
type site struct {
	dir   string
	built map[string]bool // by the program
	clean func()
}

func (g *gate) site(name string) (*site, error) {
	dir := filepath.Join(g.work, name)
	s := &site{dir: filepath.Join(dir, "plex"), built: make(map[string]bool), clean: func() {}}
	if !g.keep {
		s.clean = func() { _ = os.RemoveAll(dir) } // the whole work folder goes at the end
	}
	return s, copyLibrary(g.root, s.dir)
}

// folder is where the package's tests have to run.
func (s *site) folder(pkg string) string {
	switch pkg {
	case ".":
		return s.dir
	case "faulttest":
		return filepath.Join(s.dir, pkg)
	}
	if below, ok := strings.CutPrefix(pkg, "./"); ok {
		return filepath.Join(s.dir, "faulttest", below)
	}
	return filepath.Join(s.dir, pkg)
}

// build makes the test program of a package, once.
func (s *site) build(ctx context.Context, suite suite) (string, error) {
	program := filepath.Join(s.dir, "..", suite.program())
	if s.built[program] {
		return program, nil
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-tags="+suite.tags, "-ldflags=-s -w", "-o", program, ".")
	cmd.Dir = s.folder(suite.pkg)
	cmd.Env = append(os.Environ(), "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go test -c %s: %w\n%s", suite.pkg, err, out)
	}
	s.built[program] = true
	return program, nil
}

// result is the outcome of a run of tests.
type result struct {
	passed bool
	by     string // the first test that failed
	how    string
	output string
}

// run runs a suite until its first failure.
func (s *site) run(ctx context.Context, suite suite, limit time.Duration) (result, error) {
	if _, err := os.Stat(s.folder(suite.pkg)); errors.Is(err, os.ErrNotExist) {
		return result{}, fmt.Errorf("there is no package %s", suite.pkg)
	}
	program, err := s.build(ctx, suite)
	if err != nil {
		return result{}, err
	}
	pattern := "."
	if len(suite.names) > 0 {
		pattern = "^(" + strings.Join(suite.names, "|") + ")$"
	}
	cmd := exec.CommandContext(ctx, program, "-test.v", "-test.failfast", "-test.run="+pattern, "-test.timeout="+limit.String())
	cmd.Dir = s.folder(suite.pkg)
	out, err := cmd.CombinedOutput()
	r := result{passed: err == nil, output: string(out)}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return result{}, ctx.Err()
	case err != nil && !errors.As(err, &exit):
		return result{}, err
	case err != nil:
		r.by, r.how = culprit(r.output)
	}
	return r, nil
}

var (
	failLine = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`)
	runLine  = regexp.MustCompile(`(?m)^=== (?:RUN|NAME|CONT)\s+(\S+)$`)
	panicked = regexp.MustCompile(`(?m)^(panic: .*|fatal error: .*)$`)
)

// culprit finds in the output of tests which one failed, and how.
func culprit(output string) (by, how string) {
	if m := runLine.FindAllStringSubmatch(output, -1); m != nil {
		by = m[len(m)-1][1] // that was running at the end
	}
	if m := panicked.FindString(output); m != "" {
		if strings.Contains(m, "test timed out") {
			return by, "hangs"
		}
		return by, "panics"
	}
	if m := failLine.FindStringSubmatch(output); m != nil {
		by = m[1]
	}
	return by, "fails"
}
