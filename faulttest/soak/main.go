// Command soak drives a pool through random faults of all kinds at the highest rate that the machine gives, checks every
// byte, and says what it found.
//
//	go run ./soak -for 10m -seed 1
//
// The pool's connections go to a server of the soak's own behind a fault proxy. They are reset, closed, half closed,
// stalled, delayed and cut to pieces after so many bytes, refused, accepted and dropped; the connector fails, panics,
// hangs and attaches nonsense; consumers read and write in every way there is, cancel at random moments, close leases
// that are in use, kill connections, and use leases that have ended. From time to time the pool is closed in the middle
// of all that and another one, set up differently, takes its place.
//
// What happens to a connection depends on the seed and the connection's number and on nothing else, and it happens
// after so many bytes, not at a time; so the same seed drives the same faults again.
//
// The exit code is 1 if anything was violated; then the seed is printed, and the history that led to it.
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"time"
)

// options are those of the command line.
type options struct {
	length   time.Duration
	seed     uint64
	capacity int
	faults   float64
	markdown string
	verbose  bool

	each time.Duration // how long a pool lives, if it is not drawn
}

func main() {
	var o options
	flag.DurationVar(&o.length, "for", 30*time.Second, "how long")
	flag.Uint64Var(&o.seed, "seed", 0, "the seed of all that is random; 0 draws one")
	flag.IntVar(&o.capacity, "capacity", 16, "the pool's capacity")
	flag.Float64Var(&o.faults, "faults", 15, "how many faults there are per MB that a connection moves, about")
	flag.StringVar(&o.markdown, "markdown", "", "write the figures into this file too, between the lines <!-- soak --> and <!-- /soak -->")
	flag.BoolVar(&o.verbose, "v", false, "tell when a pool gives way to the next, and how it is set up")
	flag.Parse()
	if o.length <= 0 || o.capacity < 1 || o.faults <= 0 || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "soak: -for and -faults must be above 0, -capacity at least 1, and there are no arguments")
		os.Exit(2)
	}
	if o.seed == 0 {
		o.seed = rand.Uint64()
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	figures, err := run(ctx, o, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(2)
	}
	figures.table(os.Stdout)
	if o.markdown != "" {
		if err := figures.writeMarkdown(o.markdown); err != nil {
			fmt.Fprintln(os.Stderr, "soak:", err)
			os.Exit(2)
		}
	}
	if figures.failed() {
		os.Exit(1)
	}
}
