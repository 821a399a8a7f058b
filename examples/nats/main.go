// Command nats publishes tens of thousands of numbered messages over a few connections to a NATS server and receives
// them again, while connections are broken and the server goes away and comes back; and then shows how fast that is
// without faults, beside nats.go.
//
// The server is in the same process, so nothing has to be installed. Run it with
//
//	go run .
//
// client.go, connect.go and protocol.go are how a program uses plex for NATS.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/examples/internal/timeline"
)

const (
	connections = 8
	publishers  = 32
	step        = 250 * time.Millisecond // from row to row
	breaks      = 30                     // connections that are broken
	breakEvery  = 80 * time.Millisecond
	outage      = 2 * step
	healing     = 10 * time.Second // at the most
	rounds      = 3
	round       = 400 * time.Millisecond
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "nats:", err)
		os.Exit(1)
	}
}

func run() error {
	server, err := newBroker()
	if err != nil {
		return err
	}
	if err := server.up(); err != nil {
		return err
	}
	defer server.down()
	fmt.Printf("%d goroutines publish numbered messages over %d connections to nats-server on %s,\n",
		publishers, connections, server.addr())
	fmt.Printf("which delivers them over the same connections.\n\n")

	if err := endure(server); err != nil {
		return err
	}

	fmt.Printf("\nWithout faults, %d rounds of %v each in turns; never more than %d messages on their way.\n",
		rounds, round, window)
	all := contenders(server.addr(), connections, publishers)
	rates, err := measure(all, rounds, round)
	if err != nil {
		return err
	}
	compare(all, rates)

	return nil
}

// endure publishes and receives while everything breaks.
func endure(server *broker) error {
	l, err := newLoad(server.addr(), connections)
	if err != nil {
		return err
	}

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.run(ctx, publishers)
	}()
	err = perform(l, server)
	cancel()
	<-done
	l.settle(step)
	stats := l.client.mux.Stats()
	err = errors.Join(err, l.client.Close())
	result := l.totals()
	summarize(result, stats, l.reported.Load())

	return errors.Join(err, result.audit())
}

// perform does the damage, and draws what comes of it.
func perform(l *load, server *broker) error {
	table := timeline.Start(os.Stdout, step, header, rows(l))
	defer table.Stop()

	if err := l.quiet(server, healing); err != nil {
		return err
	}
	time.Sleep(3 * step)

	table.Note("one connection after the other is broken, by the server and by its consumer in turns")
	if err := l.damage(healing); err != nil {
		return err
	}
	for i := range breaks {
		if err := l.breakOne(server, i); err != nil {
			return err
		}
		time.Sleep(breakEvery)
	}
	table.Note("no more")
	if err := l.quiet(server, healing); err != nil {
		return err
	}
	time.Sleep(3 * step)

	table.Note("the server goes down")
	if err := l.damage(healing); err != nil {
		return err
	}
	server.down()
	time.Sleep(outage)
	if err := server.up(); err != nil {
		return err
	}
	table.Note("the server is back")
	if err := l.quiet(server, healing); err != nil {
		return err
	}
	table.Note("all connections are back")
	time.Sleep(3 * step)

	return nil
}

// breakOne breaks a connection: the server closes one, or a consumer kills the one that it has.
func (l *load) breakOne(server *broker, i int) error {
	if i%2 == 0 {
		return server.kick()
	}
	w, err := l.client.mux.Writer(context.Background(), time.Second)
	if err != nil {
		return err
	}

	return w.Kill()
}

const header = "open             lost  healed  published  received  failed\n" +
	"                                           per s     per s"

// rows returns what draws the next row: what is, and what has been since the row before.
func rows(l *load) func() string {
	var before plex.Stats
	var then counts

	return func() string {
		stats, now := l.client.mux.Stats(), l.totals()
		perSecond := func(n int) string { return timeline.Count(n * int(time.Second/step)) }
		row := fmt.Sprintf("%s %2d %7s %7s %10s %9s %7s", timeline.Bar(connections, stats.Open, 0), stats.Open,
			timeline.NonZero(stats.Lost-before.Lost), timeline.NonZero(stats.Healed-before.Healed),
			perSecond(now.published-then.published), perSecond(now.received-then.received),
			timeline.NonZero(now.notSent+now.maybeSent-then.notSent-then.maybeSent))
		before, then = stats, now

		return row
	}
}
