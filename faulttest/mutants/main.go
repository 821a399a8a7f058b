// Command mutants is the seeded-bug gate. It plants defects of the kinds that hurt real pools into copies of the
// library, one in each, and runs the tests on them. A defect that no test notices is a missing test.
//
//	go run ./mutants              all defects; exit code 1 if one survives
//	go run ./mutants -only NAME   those whose names match the regular expression
//	go run ./mutants -part 1/2    every second one, beginning with the first
//	go run ./mutants -list        their names and what they do
//
// The defects are data, in the files defects_*.go. Each is anchored to a function and to a short piece of Go in it, so
// that it need not be touched when comments, the layout, other parts of the function or its file change. For each defect
// the tests that are known to catch it are run first, and all others only if these pass, so that the whole gate takes
// minutes. First of all the same tests run on a copy without a defect, or else what "catches" everything might be a test
// that is broken.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"sync"
	"time"
)

func main() {
	only := flag.String("only", "", "plant only the defects whose names match this regular expression")
	part := flag.String("part", "1/1", "plant only a part of the defects: i/n is every n-th, beginning with the i-th")
	jobs := flag.Int("j", runtime.NumCPU(), "how many defects to try at the same time")
	list := flag.Bool("list", false, "print the defects and what they do, and run nothing")
	keep := flag.Bool("keep", false, "keep the copies of the library, to look at")
	verbose := flag.Bool("v", false, "print the output of the test that caught a defect")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	g := &gate{jobs: max(1, *jobs), keep: *keep, verbose: *verbose}
	code, err := g.main(ctx, *only, *part, *list)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		code = 2
	}
	stop()
	os.Exit(code)
}

// gate is one run of the command.
type gate struct {
	root    string // of the library
	work    string // where the copies are
	jobs    int
	keep    bool
	verbose bool

	mu   sync.Mutex // guards what is printed while several defects are tried
	done int
}

func (g *gate) main(ctx context.Context, only, part string, list bool) (code int, err error) {
	chosen, err := choose(only)
	if err != nil {
		return 0, err
	}
	if chosen, err = partOf(chosen, part); err != nil {
		return 0, err
	}
	if list {
		printList(os.Stdout, chosen)
		return 0, nil
	}
	if g.root, err = findRoot(); err != nil {
		return 0, err
	}
	if g.work, err = os.MkdirTemp("", "plex-mutants-"); err != nil {
		return 0, err
	}
	if g.keep {
		fmt.Println("the copies are in", g.work)
	} else {
		defer os.RemoveAll(g.work)
	}

	start := time.Now()
	fmt.Printf("%d defects, %d at a time; first the tests without any\n", len(chosen), g.jobs)
	if err := g.control(ctx, chosen); err != nil {
		return 0, err
	}
	fmt.Printf("they pass (%v)\n", time.Since(start).Round(time.Second))

	verdicts := make([]verdict, len(chosen))
	var wg sync.WaitGroup
	next := make(chan int)
	for range g.jobs {
		wg.Go(func() {
			for i := range next {
				verdicts[i] = g.try(ctx, chosen[i])
				g.progress(len(chosen), verdicts[i])
			}
		})
	}
	for i := range chosen {
		next <- i
	}
	close(next)
	wg.Wait()
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	fmt.Println()
	printTable(os.Stdout, verdicts)
	return summary(os.Stdout, verdicts, time.Since(start)), nil
}

// progress prints a line for each defect as soon as it has been tried.
func (g *gate) progress(of int, v verdict) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.done++
	fmt.Printf("%3d/%d  %-8s %s  (%v)\n", g.done, of, v.outcome, v.defect.name, v.took.Round(100*time.Millisecond))
	if v.err != nil {
		fmt.Printf("        %v\n", v.err)
	}
	if g.verbose && v.output != "" {
		fmt.Println(v.output)
	}
}

// choose returns the defects whose names match.
// partOf returns every n-th defect, beginning with the i-th, for a part i/n.
func partOf(all []defect, part string) (some []defect, err error) {
	var i, n int
	if _, err := fmt.Sscanf(part, "%d/%d", &i, &n); err != nil || i < 1 || i > n {
		return nil, fmt.Errorf("-part %s: give i/n, with i from 1 to n", part)
	}
	for at := i - 1; at < len(all); at += n {
		some = append(some, all[at])
	}
	return some, nil
}

func choose(only string) ([]defect, error) {
	expr, err := regexp.Compile(only)
	if err != nil {
		return nil, fmt.Errorf("-only: %w", err)
	}
	var chosen []defect
	for _, d := range defects() {
		if expr.MatchString(d.name) {
			chosen = append(chosen, d)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("-only %s matches no defect; -list prints them", only)
	}
	return chosen, nil
}
