// The report runs all benchmarks and writes docs/benchmarks.md with its charts.
//
//	go run -C bench ./report             # from the top of the repository
//	go run -C bench ./report -addresses  # only the simulated section about several addresses
//
// A full run takes some minutes and wants a machine that does nothing else.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.atomizer.io/plex/bench/cases"
	"go.atomizer.io/plex/bench/harness"
	"go.atomizer.io/plex/bench/peer"
)

func main() {
	peer.Main()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func run() error {
	short := flag.Bool("short", false, "few rounds, to see whether all works; the figures are rough")
	only := flag.String("only", "", "run only the cases whose name matches this regular `expression`, and write nothing unless -out says where")
	list := flag.Bool("list", false, "list the cases, with what each compares and its target, and do nothing")
	out := flag.String("out", "", "the `directory` to write to (default: docs at the top of the repository)")
	addresses := flag.Bool("addresses", false, "only simulate services with several addresses, and write that section again and nothing else")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; see -help", flag.Arg(0))
	}
	expression, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	if *out == "" && *only == "" && !*list {
		if *out, err = docs(); err != nil {
			return err
		}
	}

	if *addresses {
		return rewriteAddresses(*out)
	}

	other, err := peer.Start()
	if err != nil {
		return err
	}
	defer func() { _ = other.Close() }() // it has nothing to say
	all := cases.All(other)
	all = slices.DeleteFunc(all, func(c *harness.Case) bool { return !expression.MatchString(c.Name) })
	if len(all) == 0 {
		return fmt.Errorf("-only: no case matches %q; -list shows their names", *only)
	}
	if *list {
		for _, c := range all {
			fmt.Printf("%-20s %s\n", c.Name, c.Compares)
			if limits := c.Limits(); len(limits) > 0 {
				fmt.Printf("%-20s target: %s\n", "", strings.Join(limits, ", "))
			}
			if c.Lacks != "" {
				fmt.Printf("%-20s cannot be measured here: %s\n", "", c.Lacks)
			}
		}
		return nil
	}

	options := harness.Options{Rounds: 31, Turn: 30 * time.Millisecond}
	if *short {
		options = harness.Options{Rounds: 2, Turn: 15 * time.Millisecond}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	r := &report{Machine: thisMachine(), Short: *short, Options: options}
	all, r.Left = possible(all)
	start := time.Now()
	if r.Results, err = measureAll(ctx, all, options); err != nil {
		return err
	}
	if r.Profiles, err = profileMissed(ctx, r.Results, *short); err != nil {
		return err
	}
	r.Simulated = simulate()
	r.Took = time.Since(start)
	if *out == "" {
		return nil
	}
	if err := r.write(*out); err != nil {
		return err
	}
	fmt.Printf("written to %s in %v\n", *out, r.Took.Round(time.Second))
	return nil
}

// possible divides cases into those that this machine can measure, and those that it cannot.
func possible(all []*harness.Case) (can, cannot []*harness.Case) {
	for _, c := range all {
		if c.Lacks != "" {
			fmt.Printf("%-22s left out: %s\n", c.Name, c.Lacks)
			cannot = append(cannot, c)
			continue
		}
		can = append(can, c)
	}
	return can, cannot
}

// measureAll runs the cases and shows how it goes.
func measureAll(ctx context.Context, all []*harness.Case, o harness.Options) ([]*harness.Result, error) {
	progress := newProgress(len(all))
	defer progress.end()
	var results []*harness.Result
	for i, c := range all {
		progress.begin(i, c)
		o.Progress = progress.turn
		r, err := harness.Run(ctx, c, o)
		if err != nil {
			return nil, err
		}
		progress.done(r)
		results = append(results, r)
	}
	return results, nil
}

// profileMissed finds out where the time goes in cases that miss a target which is about time.
func profileMissed(ctx context.Context, results []*harness.Result, short bool) (map[string]*harness.Profile, error) {
	length := 1500 * time.Millisecond
	if short {
		length = 200 * time.Millisecond
	}
	profiles := make(map[string]*harness.Profile)
	for _, r := range results {
		against, missed := missedAgainst(r)
		if !missed || r.Case.Group == cases.GroupSizes { // whose turns take seconds; the text under it says why
			continue
		}
		fmt.Printf("profile of %s\n", r.Case.Name)
		p, err := harness.RunProfile(ctx, r.Case, length, r.Case.Subjects[0].Name, against)
		if err != nil {
			return nil, err
		}
		profiles[r.Case.Name] = p
	}
	return profiles, nil
}

// missedAgainst returns the subject that plex is too slow beside.
func missedAgainst(r *harness.Result) (subject string, missed bool) {
	if r.Case.NoProfile {
		return "", false
	}
	for _, v := range r.Verdicts() {
		switch v.Metric.Unit {
		case harness.Nanoseconds, harness.PerSecond, harness.BytesPerSecond:
			if !v.Met && v.Target.Against != "" {
				return v.Target.Against, true
			}
		default:
		}
	}
	return "", false
}

// docs finds the documentation of the repository that the working directory is in.
func docs() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && regexp.MustCompile(`(?m)^module go\.atomizer\.io/plex$`).Match(text) {
			return filepath.Join(dir, "docs"), nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("this is not a directory of plex's repository; -out says where to write to")
		}
		dir = parent
	}
}
