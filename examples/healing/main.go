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
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex"
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
	srv := new(server)
	if err := srv.up(); err != nil {
		return err
	}
	defer srv.down()

	// All that it takes to be healed is a way to connect.
	mux, err := plex.New(context.Background(), plex.WithName("healing"), plex.WithConnector(plex.Dial("tcp", srv.address)),
		plex.WithMinConnections(connections), plex.WithMaxCapacity(connections))
	if err != nil {
		return err
	}
	if show != "" {
		fmt.Printf("Look at the pool: http://%s/debug/plex/\n", show)
		go func() { fmt.Fprintln(os.Stderr, "healing:", http.ListenAndServe(show, plexdebug.Handler(mux))) }()
	}
	requests, err := request.New(mux, protocol{})
	if err != nil {
		return errors.Join(err, mux.Close())
	}
	fmt.Printf("%d callers make requests over %d connections to a server on %s.\n\n", callers, connections, srv.address)

	c := &client{requests: requests}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var calling sync.WaitGroup
	for range callers {
		calling.Go(func() {
			for ; ctx.Err() == nil; time.Sleep(pace) {
				c.request(ctx)
			}
		})
	}
	for again := true; again && err == nil; again = show != "" {
		err = perform(srv, mux, c)
	}
	cancel()
	calling.Wait()
	stats := mux.Stats() // before Close, with which the gauges fall to zero
	if err := errors.Join(err, requests.Close(), mux.Close()); err != nil {
		return err
	}
	return c.summarize(stats)
}

// perform does the damage, and draws what comes of it.
func perform(srv *server, mux *plex.Multiplexer, c *client) error {
	t := timeline.Start(os.Stdout, step, header, rows(mux, c))
	defer t.Stop()

	time.Sleep(4 * step)
	t.Note("one connection after the other is broken")
	for i := range 8 {
		srv.breakOne(i%2 == 0)
		time.Sleep(step)
	}
	t.Note("the server goes down")
	srv.down()
	time.Sleep(outage)
	t.Note("the server is back")
	if err := srv.up(); err != nil {
		return err
	}
	before := c.answered.Load()
	time.Sleep(8 * step)
	for waited := 0; mux.Stats().Open < connections || c.answered.Load() == before; waited++ {
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
func rows(mux *plex.Multiplexer, c *client) func() string {
	var before plex.Stats
	var answered, failed int64

	return func() string {
		now, a, f := mux.Stats(), c.answered.Load(), c.failed.Load()
		row := fmt.Sprintf("%s %2d %7s %7s %9s %9s %9s", timeline.Bar(connections, now.Open, 0), now.Open,
			timeline.NonZero(now.Lost-before.Lost), timeline.NonZero(now.Healed-before.Healed),
			timeline.NonZero(now.ConnectFailed-before.ConnectFailed),
			timeline.Count((a-answered)*int64(time.Second/step)), timeline.NonZero(f-failed))
		before, answered, failed = now, a, f
		return row
	}
}

// client makes requests, and makes those again that fail.
//
// plex replaces the connections that die. What was on its way over one of them is gone, and whether the server has seen
// it nobody can know; so plex sends nothing twice, and to try again is the client's decision. It may, because to ask
// this server twice does no harm.
type client struct {
	requests *request.Client[uint64, uint64]
	number   atomic.Uint64

	answered, wrong, failed atomic.Int64 // requests, replies and attempts
	why                     atomic.Value // the latest failure, a string
}

// request asks until it has an answer, or ctx ends.
func (c *client) request(ctx context.Context) {
	for number := c.number.Add(1); ctx.Err() == nil; {
		attempt, cancel := context.WithTimeout(ctx, patience)
		reply, err := c.requests.Do(attempt, number)
		cancel()
		switch {
		case ctx.Err() != nil: // it is over
		case err != nil:
			c.failed.Add(1)
			c.why.Store(err.Error())
			continue
		case reply != number:
			c.wrong.Add(1)
		default:
			c.answered.Add(1)
		}
		return
	}
}

func (c *client) summarize(stats plex.Stats) error {
	fmt.Printf(`
  answered     %9s requests, each with the reply that belongs to it
  tried again  %9s attempts whose connection had died, or that found none
  wrong        %9s replies
  connections  %9s lost and %s healed; %s connects failed meanwhile
`, timeline.Count(c.answered.Load()), timeline.Count(c.failed.Load()), timeline.Count(c.wrong.Load()),
		timeline.Count(stats.Lost), timeline.Count(stats.Healed), timeline.Count(stats.ConnectFailed))
	if why, ok := c.why.Load().(string); ok {
		fmt.Printf("\nWhat the last of these attempts was told:\n%s\n", timeline.Wrap(why, "  ", 78))
	}
	if c.wrong.Load() > 0 {
		return errors.New("a reply belongs to another request")
	}
	return nil
}
