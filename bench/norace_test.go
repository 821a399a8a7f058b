//go:build !race

package bench_test

// Without the race detector the bounds are what they are.
const (
	raceTime   = 1
	raceMemory = 1
)
