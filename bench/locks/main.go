//go:build plexlocktime && linux

// Locks measures how long the lock of a multiplexer is held at most while something is done to all
// of its connections. The report builds it with the tag plexlocktime and runs it.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"slices"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/bench/cases"
)

func main() {
	n := flag.Int("n", 5_000, "how many connections, or callers")
	stacks := flag.Bool("stacks", false, "also say where the longest holds ended")
	flag.Parse()
	// The collector would have those who allocate under the lock work for it, and only some of them.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(2 << 30)
	longest := make(map[string]float64)
	for _, mass := range slices.Repeat(cases.Locked(), 2) {
		err := mass.Run(*n, &cases.Steps{
			Figures: make(map[string]float64),
			Begun:   func(m *plex.Multiplexer) { m.Holds() },
			Done: func(step string, m *plex.Multiplexer) {
				h := m.Holds()
				// A virtual machine may lose its processor in the middle of a hold, but hardly twice.
				if before, ok := longest[step]; !ok || float64(h.Longest) < before {
					longest[step] = float64(h.Longest)
				}
				if *stacks {
					fmt.Fprintf(os.Stderr, "%s: %v of %d holds, %v altogether\n%s\n", step, h.Longest, h.Holds, h.Total, h.Stack)
				}
			},
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, "locks:", err)
			os.Exit(1)
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(longest); err != nil {
		fmt.Fprintln(os.Stderr, "locks:", err)
		os.Exit(1)
	}
}
