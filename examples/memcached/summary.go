package main

import (
	"fmt"
	"strings"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/examples/internal/timeline"
	"go.atomizer.io/plex/request"
)

// summarize says what came of the requests.
func summarize(l *load, pool plex.Stats, requests request.Stats) {
	row := func(what, value, remark string) {
		fmt.Println(strings.TrimRight(fmt.Sprintf("  %-20s%10s  %s", what, value, remark), " "))
	}
	number := func(what string, n int64, remark string) { row(what, timeline.Count(n), remark) }

	fmt.Println()
	number("requests", l.begun.Load(), "")
	number("values set", l.sets.Load(), "")
	number("values got", l.hits.Load(), "each the one that the key had been set to last")
	number("deleted", l.deletes.Load(), "keys")
	number("not there", l.misses.Load(), "keys, and rightly so")
	number("forgotten", l.forgotten.Load(), "keys, because the server was restarted")
	number("failed, not sent", l.notSent.Load(), "the server has not got them")
	number("failed, maybe sent", l.maybeSent.Load(), "on their way when their connection broke")
	number("  had to give up", l.gaveUp.Load(), "of these, as no reply came in time")
	number("wrong", l.wrong.Load(), "replies")
	number("late", int64(requests.Late), "replies, which nobody waited for any more")
	number("unknown", int64(requests.Unknown), "replies, which nobody ever waited for")
	number("connections lost", int64(pool.Lost), "")
	number("connections healed", int64(pool.Healed), "")
	row("longest request", fmt.Sprintf("%dms", l.longest.Milliseconds()),
		fmt.Sprintf("while the server was away for %v", outage))
	if l.lastFail != nil {
		fmt.Printf("\nWhat a caller was told:\n%s\n", timeline.Wrap(l.lastFail.Error(), "  ", 100))
	}
}

// compare says how many requests per second each client did.
func compare(all []contender, rates []float64) {
	fmt.Printf("\n  requests per second, one in %d a set, values of %d bytes\n", setEvery, measuredSize)
	for i, c := range all {
		fmt.Printf("  %-48s%10s\n", c.name, timeline.Count(int64(rates[i])))
	}
}
