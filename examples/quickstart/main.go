// Command quickstart shows plex at work: it starts a TCP service of its own, spreads thousands of numbered requests
// from many goroutines over a few connections to it, checks every reply, and says how it went.
//
//	go run ./examples/quickstart
//
// main.go sets up and sums up, client.go is how a program uses plex, and server.go is the service. The exit code is 0
// only if every request got its own reply.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex/examples/internal/timeline"
)

func main() {
	messages := flag.Int64("messages", 20_000, "number of requests")
	connections := flag.Int("connections", 4, "connections to spread them over")
	callers := flag.Int("callers", 32, "goroutines that send them")
	timeout := flag.Duration("timeout", time.Minute, "bound on the whole run")
	flag.Parse()

	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	if err := run(ctx, *messages, *connections, *callers); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, messages int64, connections, callers int) error {
	address, err := startServer()
	if err != nil {
		return fmt.Errorf("start the server: %w", err)
	}
	c, err := newClient(ctx, address, connections)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", address, err)
	}

	started := time.Now()
	right, first := callAll(ctx, c, messages, callers)
	elapsed := time.Since(started)
	stats := c.mux.Stats() // before close, with which the gauges fall to zero
	closed := c.close()

	fmt.Printf("%s messages from %d goroutines over %d connections to %s\n\n",
		timeline.Count(messages), callers, stats.Connected, address)
	fmt.Printf("  replies      %9s, each checked\n", timeline.Count(right))
	fmt.Printf("  no reply     %9s\n", timeline.Count(messages-right))
	fmt.Printf("  rate         %9s messages per second\n", timeline.Count(int64(float64(right)/elapsed.Seconds())))
	fmt.Printf("  leases       %9s taken, %s of them had to wait\n",
		timeline.Count(stats.Acquired), timeline.Count(stats.Waited))
	fmt.Printf("  connections  %9s lost\n", timeline.Count(stats.Lost))
	if right != messages {
		return errors.Join(fmt.Errorf("%d of %d messages got no reply, the first because: %w", messages-right, messages, first), closed)
	}
	return closed
}

// callAll makes the requests from many goroutines. It returns how many got the right reply, and the first failure.
func callAll(ctx context.Context, c *client, messages int64, callers int) (right int64, first error) {
	var next, answered atomic.Int64
	var once sync.Once
	var calling sync.WaitGroup
	for range callers {
		calling.Go(func() {
			for n := next.Add(1); n <= messages && ctx.Err() == nil; n = next.Add(1) {
				reply, err := c.call(ctx, uint64(n))
				if err == nil && reply != uint64(n*n) {
					err = fmt.Errorf("the square of %d is not %d: this reply belongs to another request", n, reply)
				}
				if err != nil {
					once.Do(func() { first = err })
					continue
				}
				answered.Add(1)
			}
		})
	}
	calling.Wait()
	return answered.Load(), cmp.Or(first, ctx.Err())
}
