// Package scaffold is what the soaks have in common: the flags, the seed, the end by a signal or when the time is up,
// the lines of progress, how violations are told, the set-up of pools and proxies, and the table at the end. Each soak
// adds what it drives and what it checks.
package scaffold

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"strings"
	"time"
)

// Options are the flags that every soak has.
type Options struct {
	Length   time.Duration
	Seed     uint64
	Capacity int
	Faults   float64 // per MB that a connection moves, about
	Markdown string
	Verbose  bool

	// Program is what "go run" is given for the soak. It also names the marks between which the table is written.
	Program string
	// Each is how long each round takes; 0: that is drawn.
	Each time.Duration
}

// register declares the flags.
func (o *Options) register(flags *flag.FlagSet) {
	flags.DurationVar(&o.Length, "for", 30*time.Second, "how long")
	flags.Uint64Var(&o.Seed, "seed", 0, "the seed of all that is random; 0 draws one")
	flags.IntVar(&o.Capacity, "capacity", 16, "the pools' capacity")
	flags.Float64Var(&o.Faults, "faults", 45, "how many faults there are per MB that a connection moves, about")
	flags.StringVar(&o.Markdown, "markdown", "",
		"also write the table into this file, between the lines "+o.mark("")+" and "+o.mark("/"))
	flags.BoolVar(&o.Verbose, "v", false, "tell how each round is set up")
}

// check checks the flags.
func (o *Options) check() error {
	if o.Length <= 0 || o.Faults <= 0 || o.Capacity < 1 {
		return errors.New("-for and -faults must be above 0, -capacity at least 1")
	}
	return nil
}

// mark is the line before the table in a markdown file or, with "/" for end, the line after it.
func (o *Options) mark(end string) string {
	return "<!-- " + end + strings.TrimPrefix(o.Program, "./") + " -->"
}

// Drawn returns o with a seed, one that is drawn if it has none.
func (o Options) Drawn() Options {
	for o.Seed == 0 {
		o.Seed = rand.Uint64()
	}
	return o
}

// Again is the command that drives the same faults again. more are the soak's own flags.
func (o *Options) Again(more string) string {
	return fmt.Sprintf("go run %s -seed %d -capacity %d -faults %v -for %v%s",
		o.Program, o.Seed, o.Capacity, o.Faults, o.Length, more)
}

// Exit codes.
const (
	exitViolated = 1
	exitUnfit    = 2 // wrong flags, or an error that has nothing to do with what is tested
)

// Main is the main function of a soak. The soak has declared its own flags already, and check, if it is not nil, checks
// them.
func Main(o Options, check func() error, run func(context.Context, Options, io.Writer) (*Figures, error)) {
	o.register(flag.CommandLine)
	flag.Parse()
	err := o.check()
	if err == nil && check != nil {
		err = check()
	}
	if err == nil && flag.NArg() > 0 {
		err = errors.New("there are no arguments")
	}
	unfit(err)

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	f, err := run(ctx, o.Drawn(), os.Stdout)
	unfit(err)
	f.Print(os.Stdout)
	if o.Markdown != "" {
		unfit(f.WriteMarkdown(o.Markdown))
	}
	if f.Failed() {
		os.Exit(exitViolated)
	}
}

func unfit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(exitUnfit)
	}
}
