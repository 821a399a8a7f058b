// Command healing breaks connections under load, one by one at first and then all of them, with the server that they
// lead to, and shows how plex replaces them.
//
// It is a client and a server in one process. Run it with
//
//	go run ./examples/healing
package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/examples/internal/timeline"
)

const (
	connections = 12
	callers     = 24
	pace        = 2 * time.Millisecond   // from a caller's answer to its next request
	patience    = 300 * time.Millisecond // for a connection, and for a reply; then a caller tries again
	step        = 250 * time.Millisecond // from row to row
	outage      = 6 * step
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "healing:", err)
		os.Exit(1)
	}
}

func run() error {
	srv := &server{address: "127.0.0.1:0"}
	if err := srv.up(); err != nil {
		return err
	}

	// All that it takes to be healed is a way to connect.
	mux, err := plex.New(context.Background(),
		plex.WithConnector(plex.Dial("tcp", srv.address)),
		plex.WithMinConnections(connections),
		plex.WithMaxCapacity(connections),
	)
	if err != nil {
		return err
	}
	fmt.Printf("%d callers make requests over %d connections to a server on %s.\n\n", callers, connections, srv.address)

	c := newClient(mux, connections)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var calling sync.WaitGroup
	var number atomic.Uint64
	for range callers {
		calling.Go(func() {
			for ctx.Err() == nil {
				c.request(ctx, number.Add(1))
				time.Sleep(pace)
			}
		})
	}

	err = perform(srv, c)

	cancel()
	calling.Wait()
	stats := mux.Stats()
	if err := mux.Close(); err != nil {
		return err
	}
	c.receivers.Wait()
	if err != nil {
		return err
	}
	srv.down()
	summarize(c, stats)
	if wrong := c.wrong.Load(); wrong > 0 {
		return fmt.Errorf("%d replies were wrong", wrong)
	}

	return nil
}

// perform does the damage, and draws what comes of it.
func perform(srv *server, c *client) error {
	t := timeline.Start(os.Stdout, step, header, rows(c))
	defer t.Stop()
	pause := func(steps int) { time.Sleep(time.Duration(steps) * step) }

	pause(4)
	t.Note("one connection after the other is broken")
	for i := range 10 {
		srv.breakOne(i%2 == 0)
		pause(1)
	}
	t.Note("no more")
	pause(4)

	t.Note("the server goes down")
	srv.down()
	time.Sleep(outage)
	t.Note("the server is back")
	if err := srv.up(); err != nil {
		return err
	}
	pause(8)

	return nil
}

const header = "open                lost  healed  connects   replies  attempts\n" +
	"                                            failed   per s     failed"

// rows returns what draws the next row: what is, and what has been since the row before.
func rows(c *client) func() string {
	var before plex.Stats
	var answered, retried int64

	return func() string {
		now := c.mux.Stats()
		a, r := c.answered.Load(), c.retried.Load()
		row := fmt.Sprintf("%s %2d %7s %7s %9s %9s %9s", timeline.Bar(connections, now.Open, 0), now.Open,
			timeline.NonZero(now.Lost-before.Lost), timeline.NonZero(now.Healed-before.Healed), timeline.NonZero(now.ConnectFailed-before.ConnectFailed),
			timeline.Count((a-answered)*int64(time.Second/step)), timeline.NonZero(r-retried))
		before, answered, retried = now, a, r

		return row
	}
}

func summarize(c *client, stats plex.Stats) {
	fmt.Printf(`
  answered     %9s requests, each with the reply that belongs to it
  tried again  %9s attempts whose connection had died, or that found none
  wrong        %9s replies
  connections  %9s lost and %s healed; %s connects failed meanwhile
  silence      %9s at the longest, of which the server was down for %v
`, timeline.Count(c.answered.Load()), timeline.Count(c.retried.Load()), timeline.Count(c.wrong.Load()),
		timeline.Count(stats.Lost), timeline.Count(stats.Healed), timeline.Count(stats.ConnectFailed),
		c.longest.Round(10*time.Millisecond), outage)
	if c.why != nil {
		fmt.Printf("\nWhat a caller was told while the server was down:\n%s\n", timeline.Wrap(c.why.Error(), "  ", 78))
	}
}
