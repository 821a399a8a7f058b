// Command addresses connects to one service on three servers, restarts one of them under load, and shows how plex spreads
// its connections over the servers before, meanwhile and afterwards.
//
// It is a client and three servers in one process. Run it with
//
//	go run ./examples/addresses
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/examples/internal/echo"
	"go.atomizer.io/plex/examples/internal/timeline"
	"go.atomizer.io/plex/request"
)

const (
	servers     = 3
	connections = 24
	callers     = 24
	every       = 2 * time.Second        // how often the service's addresses are asked for, and how fast connections are moved
	pace        = 2 * time.Millisecond   // from a caller's answer to its next request
	patience    = 500 * time.Millisecond // for a connection and for a reply; then a caller tries again
	step        = 500 * time.Millisecond // from row to row
	outage      = 4 * step
	longest     = time.Minute // to wait for even shares
)

func main() {
	if err := run(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "addresses:", err)
		os.Exit(1)
	}
}

func run(out io.Writer) error {
	var all [servers]echo.Server
	var addresses []string
	for i := range all {
		if err := all[i].Up(); err != nil {
			return err
		}
		defer all[i].Down()
		addresses = append(addresses, all[i].Address)
	}

	// A service that is found by DNS has plex.DNS or plex.SRV for a resolver, and nothing else is different.
	mux, err := plex.New(context.Background(),
		plex.WithResolver(plex.Addresses("tcp", addresses...), every),
		plex.WithConnector(plex.DialResolved(&net.Dialer{})),
		plex.WithMinConnections(connections),
		plex.WithMaxCapacity(connections+connections/4), // room in which a connection is replaced before it is moved
	)
	if err != nil {
		return err
	}
	requests, err := request.New(mux, echo.Protocol{})
	if err != nil {
		return errors.Join(err, mux.Close())
	}
	fmt.Fprintf(out, "%d callers make requests over %d connections to a service on\n%s.\n\n",
		callers, connections, strings.Join(addresses, ", "))

	c := &echo.Client{Requests: requests, Patience: patience}
	stop := c.Start(callers, pace)
	err = perform(out, &all[1], mux, c)
	stop()
	stats := mux.Stats() // before Close, with which the gauges fall to zero
	if err := errors.Join(err, requests.Close(), mux.Close()); err != nil {
		return err
	}
	return summarize(out, c, stats)
}

// perform restarts the second server, and draws what comes of it.
func perform(out io.Writer, second *echo.Server, mux *plex.Multiplexer, c *echo.Client) error {
	t := timeline.Start(out, step, header, rows(mux, c))
	defer t.Stop()

	if err := even(mux); err != nil {
		return err
	}
	time.Sleep(4 * step)
	t.Note("server 2 goes down; the others take over its connections")
	second.Down()
	time.Sleep(outage)
	t.Note("server 2 is back; it gets its share once it has been well for ten seconds")
	if err := second.Up(); err != nil {
		return err
	}
	failed := c.Failed.Load()
	if err := even(mux); err != nil {
		return err
	}
	time.Sleep(2 * step)
	t.Note("all have the same again, and since the server is back %s attempts have failed", timeline.Count(c.Failed.Load()-failed))
	time.Sleep(2 * step)
	return nil
}

// even waits until all servers have the same share.
func even(mux *plex.Multiplexer) error {
	want := slices.Repeat([]int{connections / servers}, servers)
	for end := time.Now().Add(longest); !slices.Equal(shares(mux), want); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("the servers have %v connections; the last connect: %w", shares(mux), mux.Stats().LastConnectError)
		}
	}
	return nil
}

// shares is how many connections each server has.
func shares(mux *plex.Multiplexer) (open []int) {
	for _, a := range mux.Addresses() {
		open = append(open, a.Open)
	}
	return open
}

const header = "server 1         server 2         server 3         lost  healed  retired   replies  attempts\n" +
	"                                                                                 per s    failed"

// rows returns what draws the next row: what is, and what has been since the row before.
func rows(mux *plex.Multiplexer, c *echo.Client) func() string {
	const width = connections / (servers - 1) // what a server has when another is down
	var before plex.Stats
	var answered, failed int64

	return func() string {
		now, a, f := mux.Stats(), c.Answered.Load(), c.Failed.Load()
		var row strings.Builder
		for _, open := range shares(mux) {
			fmt.Fprintf(&row, "%s %2d  ", timeline.Bar(width, open, 0), open)
		}
		fmt.Fprintf(&row, "%4s %7s %8s %9s %9s",
			timeline.NonZero(now.Lost-before.Lost), timeline.NonZero(now.Healed-before.Healed),
			timeline.NonZero(now.Retired-before.Retired),
			timeline.Count((a-answered)*int64(time.Second/step)), timeline.NonZero(f-failed))
		before, answered, failed = now, a, f
		return row.String()
	}
}

func summarize(out io.Writer, c *echo.Client, stats plex.Stats) error {
	fmt.Fprintf(out, `
  answered     %9s requests, each with the reply that belongs to it
  tried again  %9s attempts that were on their way when the server went down
  wrong        %9s replies
  connections  %9s lost and %s healed; %s retired, most of them to be moved
`, timeline.Count(c.Answered.Load()), timeline.Count(c.Failed.Load()), timeline.Count(c.Wrong.Load()),
		timeline.Count(stats.Lost), timeline.Count(stats.Healed), timeline.Count(stats.Retired))
	return c.Conclude(out)
}
