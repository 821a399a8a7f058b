// Command healing breaks connections under load, one by one at first and then all of them, with the server that they
// lead to, and shows how plex replaces them.
//
// It is a client and a server in one process. With -http it shows the pool in a browser, and goes on until you press
// Ctrl+C:
//
//	go run ./examples/healing
//	go run ./examples/healing -http localhost:6060
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/examples/internal/echo"
	"go.atomizer.io/plex/examples/internal/timeline"
	"go.atomizer.io/plex/plexdebug"
	"go.atomizer.io/plex/request"
)

const (
	connections = 12
	callers     = 24
	pace        = 2 * time.Millisecond   // from a caller's answer to its next request
	patience    = 300 * time.Millisecond // for a connection and for a reply; then a caller tries again
	step        = 250 * time.Millisecond // from row to row
	outage      = 4 * step
)

func main() {
	show := flag.String("http", "", "where to show the pool in a browser: `localhost:6060`, say")
	flag.Parse()
	if err := run(*show); err != nil {
		fmt.Fprintln(os.Stderr, "healing:", err)
		os.Exit(1)
	}
}

func run(show string) error {
	srv := new(echo.Server)
	if err := srv.Up(); err != nil {
		return err
	}
	defer srv.Down()

	// All that it takes to be healed is a way to connect.
	mux, err := plex.New(context.Background(), plex.WithName("healing"), plex.WithConnector(plex.Dial("tcp", srv.Address)),
		plex.WithMinConnections(connections), plex.WithMaxCapacity(connections))
	if err != nil {
		return err
	}
	if show != "" {
		fmt.Printf("Look at the pool: http://%s/debug/plex/\n", show)
		go func() { fmt.Fprintln(os.Stderr, "healing:", http.ListenAndServe(show, plexdebug.Handler(mux))) }()
	}
	requests, err := request.New(mux, echo.Protocol{})
	if err != nil {
		return errors.Join(err, mux.Close())
	}
	fmt.Printf("%d callers make requests over %d connections to a server on %s.\n\n", callers, connections, srv.Address)

	c := &echo.Client{Requests: requests, Patience: patience}
	stop := c.Start(callers, pace)
	for again := true; again && err == nil; again = show != "" {
		err = perform(srv, mux, c)
	}
	stop()
	stats := mux.Stats() // before Close, with which the gauges fall to zero
	if err := errors.Join(err, requests.Close(), mux.Close()); err != nil {
		return err
	}
	return summarize(c, stats)
}

// perform does the damage, and draws what comes of it.
func perform(srv *echo.Server, mux *plex.Multiplexer, c *echo.Client) error {
	t := timeline.Start(os.Stdout, step, header, rows(mux, c))
	defer t.Stop()

	time.Sleep(4 * step)
	t.Note("one connection after the other is broken")
	for i := range 8 {
		srv.BreakOne(i%2 == 0)
		time.Sleep(step)
	}
	t.Note("the server goes down")
	srv.Down()
	time.Sleep(outage)
	t.Note("the server is back")
	if err := srv.Up(); err != nil {
		return err
	}
	before := c.Answered.Load()
	time.Sleep(8 * step)
	for waited := 0; mux.Stats().Open < connections || c.Answered.Load() == before; waited++ {
		if waited == 40 {
			return fmt.Errorf("%d of %d connections are there; the last connect: %w",
				mux.Stats().Open, connections, mux.Stats().LastConnectError)
		}
		time.Sleep(step)
	}
	return nil
}

const header = "open                lost  healed  connects   replies  attempts\n" +
	"                                            failed   per s     failed"

// rows returns what draws the next row: what is, and what has been since the row before.
func rows(mux *plex.Multiplexer, c *echo.Client) func() string {
	var before plex.Stats
	var answered, failed int64

	return func() string {
		now, a, f := mux.Stats(), c.Answered.Load(), c.Failed.Load()
		row := fmt.Sprintf("%s %2d %7s %7s %9s %9s %9s", timeline.Bar(connections, now.Open, 0), now.Open,
			timeline.NonZero(now.Lost-before.Lost), timeline.NonZero(now.Healed-before.Healed),
			timeline.NonZero(now.ConnectFailed-before.ConnectFailed),
			timeline.Count((a-answered)*int64(time.Second/step)), timeline.NonZero(f-failed))
		before, answered, failed = now, a, f
		return row
	}
}

func summarize(c *echo.Client, stats plex.Stats) error {
	fmt.Printf(`
  answered     %9s requests, each with the reply that belongs to it
  tried again  %9s attempts whose connection had died, or that found none
  wrong        %9s replies
  connections  %9s lost and %s healed; %s connects failed meanwhile
`, timeline.Count(c.Answered.Load()), timeline.Count(c.Failed.Load()), timeline.Count(c.Wrong.Load()),
		timeline.Count(stats.Lost), timeline.Count(stats.Healed), timeline.Count(stats.ConnectFailed))
	return c.Conclude(os.Stdout)
}
