package main

import (
	"fmt"
	"strings"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/examples/internal/timeline"
)

// summarize says what came of the messages.
func summarize(c counts, stats plex.Stats, reported int64) {
	row := func(what string, n int, remark string) {
		fmt.Println(strings.TrimRight(fmt.Sprintf("  %-20s%10s  %s", what, timeline.Count(n), remark), " "))
	}

	fmt.Println()
	row("messages", c.begun, "")
	row("published", c.published, "the operating system has taken them")
	row("received", c.received, fmt.Sprintf("each checked byte by byte; %d of them had failed", c.unclear))
	row("failed, not sent", c.notSent, "there was no connection in time, and the server has not got them")
	row("failed, maybe sent", c.maybeSent, "their connection broke while they were being written")
	row("lost", c.lost, "published, but on their way when something broke")
	row("lost in quiet times", c.missing, "")
	row("duplicated", c.doubled, "")
	row("wrong", c.wrong+c.despite, "")
	row("connections lost", int(stats.Lost), "")
	row("connections healed", int(stats.Healed), "")
	row("connects failed", int(stats.ConnectFailed), "")
	row("told to Errors", int(reported), "what the server complained about, and messages that were cut off")
	if c.last != nil {
		fmt.Printf("\nWhat a publisher was told:\n%s\n", timeline.Wrap(c.last.Error(), "  ", 100))
	}
}

// compare says how many messages per second each client did.
func compare(all []contender, rates []float64) {
	fmt.Printf("\n  messages per second, published and received, with %d bytes of data\n", measuredSize)
	for i, c := range all {
		fmt.Printf("  %-64s%10s\n", c.name, timeline.Count(int64(rates[i])))
	}
}
