//go:build race

package bench_test

// What is allowed with the race detector, as a multiple: it makes atomic
// operations slower than it makes channels, and keeps books on all memory.
const (
	raceTime   = 4
	raceMemory = 2
)
