// Command quickstart shows plex at work: it starts a TCP service of its own, spreads thousands of numbered requests
// from many goroutines over a few connections to it, checks every reply, and says how it went.
//
//	go run ./examples/quickstart
//
// main.go sets up and sums up, client.go is how a program uses plex, server.go is the service, and frame.go is the
// protocol that the two speak. The exit code is 0 only when every request got its own reply.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex/examples/internal/timeline"
)

// job is what the flags ask for.
type job struct {
	messages    int
	connections int
	callers     int
	timeout     time.Duration // for the whole run
}

// result is what came of it.
type result struct {
	answered atomic.Int64

	mu    sync.Mutex
	first error // the first failure; the others are counted only, by what was not answered
}

func (r *result) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.first == nil {
		r.first = err
	}
}

func main() {
	var j job
	flag.IntVar(&j.messages, "messages", 20_000, "number of requests")
	flag.IntVar(&j.connections, "connections", 4, "connections to spread them over")
	flag.IntVar(&j.callers, "callers", 32, "goroutines that send them")
	flag.DurationVar(&j.timeout, "timeout", time.Minute, "bound on the whole run")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	if err := run(ctx, j); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, j job) error {
	if j.messages < 1 || j.callers < 1 {
		return errors.New("-messages and -callers must be at least 1")
	}

	ctx, cancel := context.WithTimeout(ctx, j.timeout)
	defer cancel()

	srv, err := startServer()
	if err != nil {
		return fmt.Errorf("start the server: %w", err)
	}

	c, err := newClient(ctx, srv.addr(), j.connections)
	if err != nil {
		return errors.Join(fmt.Errorf("connect to %s: %w", srv.addr(), err), srv.close())
	}

	var res result
	started := time.Now()
	callAll(ctx, c, j, &res)
	elapsed := time.Since(started)

	stats := c.mux.Stats() // before close, with which the gauges fall to zero
	closed := errors.Join(c.close(), srv.close())

	answered := res.answered.Load()
	missing := int64(j.messages) - answered

	served := make([]string, 0, j.connections)
	for _, n := range srv.served() {
		served = append(served, timeline.Count(n))
	}

	fmt.Printf("%s messages from %d goroutines over %d connections to %s\n\n",
		timeline.Count(j.messages), j.callers, stats.Connected, srv.addr())
	fmt.Printf("  sent         %11s bytes\n", timeline.Count(c.sent.Load()))
	fmt.Printf("  received     %11s bytes\n", timeline.Count(c.received.Load()))
	fmt.Printf("  replies      %11s, each checked\n", timeline.Count(answered))
	fmt.Printf("  no reply     %11s\n", timeline.Count(missing))
	fmt.Printf("  rate         %11s messages/s, %v in all\n",
		timeline.Count(int64(float64(answered)/elapsed.Seconds())), elapsed.Round(time.Millisecond))
	fmt.Printf("  leases       %11s taken, %s of them had to wait\n",
		timeline.Count(int64(stats.Acquired)), timeline.Count(int64(stats.Waited)))
	fmt.Printf("  connections  %11s lost, messages over each: %s\n",
		timeline.Count(int64(stats.Lost)), strings.Join(served, "  "))

	if missing != 0 {
		return errors.Join(fmt.Errorf("%d of %d messages got no reply, the first because: %w", missing, j.messages, res.first),
			closed)
	}

	return closed
}

// callAll sends the requests from j.callers goroutines and returns when every one has its reply or has failed.
func callAll(ctx context.Context, c *client, j job, res *result) {
	var wg sync.WaitGroup
	var next atomic.Int64

	for range j.callers {
		wg.Go(func() {
			for ctx.Err() == nil && next.Add(1) <= int64(j.messages) {
				payload := randomPayload()

				reply, err := c.call(ctx, payload)
				if err == nil && !bytes.Equal(reply, reversed(payload)) {
					err = errors.New("a reply that belongs to another request")
				}
				if err != nil {
					res.fail(err)
					continue
				}
				res.answered.Add(1)
			}
		})
	}
	wg.Wait()

	if err := ctx.Err(); err != nil {
		res.fail(err)
	}
}

// randomPayload makes payloads of different lengths, so that the frames of one connection never fall into step.
func randomPayload() []byte {
	p := make([]byte, 16+rand.IntN(240))
	for i := range p {
		p[i] = byte(rand.Uint32())
	}

	return p
}
