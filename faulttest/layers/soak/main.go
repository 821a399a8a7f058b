// Command soak drives packages message and request through random faults at the highest rate that the machine gives,
// and says what it found.
//
//	go run ./layers/soak -for 10m -seed 1
//
// In one round after the other a server talks, and another is asked, each behind a fault proxy of its own: connections
// are reset, closed, half closed, stalled and cut to pieces after so many bytes, refused, accepted and dropped, and the
// servers restart. Meanwhile connections are killed, retired for their age, added and closed again; loops over messages
// are left and begun anew; callers give up; replies are late, unknown, doubled, out of order and malformed. Each round
// is set up differently, and ends with everything closed in the middle of that, or with a calm in which everything has
// to come that is still to come.
//
// Every message and every reply says which it is and has a checksum; each request is remembered by the server that has
// executed it. What happens to a connection depends on the seed, the round and the connection's number.
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
	callers  int
	faults   float64
	verbose  bool

	each time.Duration // how long a round lasts, if it is not drawn
}

func main() {
	var o options
	flag.DurationVar(&o.length, "for", 30*time.Second, "how long")
	flag.Uint64Var(&o.seed, "seed", 0, "the seed of all that is random; 0 draws one")
	flag.IntVar(&o.capacity, "capacity", 16, "the pools' capacity")
	flag.IntVar(&o.callers, "callers", 400, "how many goroutines make requests")
	flag.Float64Var(&o.faults, "faults", 15, "how many faults there are per MB that a connection moves, about")
	flag.BoolVar(&o.verbose, "v", false, "tell how each round is set up")
	flag.Parse()
	if o.length <= 0 || o.capacity < 1 || o.callers < 1 || o.faults <= 0 || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr,
			"soak: -for and -faults must be above 0, -capacity and -callers at least 1, and there are no arguments")
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
	if figures.bad {
		os.Exit(1)
	}
}
