package main

import (
	"fmt"
	"strings"

	"go.atomizer.io/plex/examples/internal/timeline"
)

// summarize says what came of the queries, transport beside transport.
func summarize(transports []*transport) {
	row := func(what string, value func(*transport) string, remark string) {
		columns := make([]string, len(transports))
		for i, t := range transports {
			columns[i] = fmt.Sprintf("%10s", value(t))
		}
		line := fmt.Sprintf("  %-20s%s  %s", what, strings.Join(columns, ""), remark)
		fmt.Println(strings.TrimRight(line, " "))
	}
	number := func(what string, value func(*transport) int64, remark string) {
		row(what, func(t *transport) string { return timeline.Count(value(t)) }, remark)
	}

	fmt.Println()
	row("", func(t *transport) string { return t.name }, "")
	number("queries", func(t *transport) int64 { return t.load.asked.Load() }, "")
	number("answered", func(t *transport) int64 { return t.load.answered.Load() },
		"each with the answer that belongs to it")
	number("failed, not sent", func(t *transport) int64 { return t.load.notSent.Load() },
		"the server has not got them")
	number("failed, maybe sent", func(t *transport) int64 { return t.load.maybeSent.Load() },
		"on their way when their connection broke")
	number("  had to give up", func(t *transport) int64 { return t.load.gaveUp.Load() },
		"of these, as no reply came in time")
	number("wrong", func(t *transport) int64 { return t.load.wrong.Load() }, "answers")
	number("asked twice", func(t *transport) int64 { return int64(t.load.twice()) },
		"plex never repeats one by itself")
	number("late", func(t *transport) int64 { return int64(t.requests.Late) },
		"replies, which nobody waited for any more")
	number("unknown", func(t *transport) int64 { return int64(t.requests.Unknown) },
		"replies, which nobody ever waited for")
	number("connections lost", func(t *transport) int64 { return int64(t.pool.Lost) }, "")
	number("connections healed", func(t *transport) int64 { return int64(t.pool.Healed) }, "")
	row("longest answer", func(t *transport) string { return fmt.Sprintf("%dms", t.load.longest.Milliseconds()) },
		fmt.Sprintf("while the server was away for %v", outage))

	for _, t := range transports {
		if t.load.lastFail != nil {
			fmt.Printf("\nWhat a caller was told, over %s:\n%s\n", t.name, timeline.Wrap(t.load.lastFail.Error(), "  ", 100))
		}
	}
}

// compare says how many queries per second each client had answered.
func compare(transports []*transport) {
	fmt.Printf("\n  %-48s", "queries per second")
	for _, t := range transports {
		fmt.Printf("%10s", t.name)
	}
	fmt.Println()
	for i, name := range transports[0].names {
		fmt.Printf("  %-48s", name)
		for _, t := range transports {
			fmt.Printf("%10s", timeline.Count(int64(t.rates[i])))
		}
		fmt.Println()
	}
}
