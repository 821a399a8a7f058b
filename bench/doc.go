// Package bench compares plex with other pools, and with the least that can do
// the work at all: a bare channel, a bare connection.
//
// All is measured side by side in one run, since the figures of two runs on
// two days, or of two machines, say little about each other. There are
// two ways to run the same cases:
//
//	go run ./report          # all of them, paired, into docs/benchmarks.md
//	go test -bench=. .       # as ordinary benchmarks, for benchstat and pprof
//
// Package cases says what is measured, package pools holds the other pools
// behind one interface, package peer is the other end of the connections, and
// package harness does the measuring. The tests of this package are
// a guard against gross regressions; they hold no absolute time against
// anything.
package bench
