// Command redis uses a Redis server from many goroutines over a few connections. It sets and reads keys while callers give
// up and the server breaks connections, and checks that nobody gets another's reply; it counts in transactions; and it
// hears what is published. It starts the redis-server that is installed, or talks to yours, as in
// "go run . 127.0.0.1:6379". Package store, beside it, is the client.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex/examples/redis/store"
	"go.atomizer.io/plex/request"
)

const (
	connections = 4
	callers     = 64
	keys        = 200 // so many for each caller
	counters    = 8   // goroutines that count in transactions
	counts      = 50  // so many times each
	published   = 5000
)

func main() {
	log.SetFlags(0)
	if err := run(os.Args[1:]); err != nil {
		log.Fatal("redis: ", err)
	}
}

func run(args []string) error {
	network, address := "tcp", ""
	if len(args) > 0 {
		address = args[0]
	} else {
		socket, stop, err := startServer()
		if err != nil {
			return err
		}
		defer func() { _ = stop() }()
		network, address = "unix", socket
	}
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	client, err := store.Dial(ctx, network, address, connections)
	if err != nil {
		return err
	}
	fmt.Printf("%d callers use %d keys each over %d connections to %s.\n\n", callers, keys, connections, address)
	for _, part := range []func(context.Context, *store.Client) error{pipeline, count, hear} {
		if err := part(ctx, client); err != nil {
			return errors.Join(err, client.Close())
		}
	}
	return client.Close()
}

// pipeline sets and reads keys from many goroutines, of which some give up, while the server breaks connections.
func pipeline(ctx context.Context, client *store.Client) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var right, givenUp, broken atomic.Int64
	var calling sync.WaitGroup
	for caller := range callers {
		calling.Go(func() {
			for k := range keys {
				key := fmt.Sprintf("plex:%d:%d", caller, k)
				limited, stop := context.WithTimeout(ctx, time.Minute)
				if k%4 == 3 {
					stop()
					limited, stop = context.WithTimeout(ctx, time.Duration(rand.IntN(1000))*time.Microsecond)
				}
				err := use(limited, client, key)
				ended := limited.Err()
				stop()
				failed := new(request.Error)
				switch {
				case err == nil:
					right.Add(1)
				case ctx.Err() == nil && ended != nil && errors.Is(err, ended):
					givenUp.Add(1) // its reply still comes, and is nobody's
				case ctx.Err() == nil && errors.As(err, &failed):
					broken.Add(1)
				default:
					fail(err) // a wrong answer, or the time is over
					return
				}
				if caller == 0 && k%40 == 20 { // the server closes all connections but the one that asks it to
					_, _ = client.Do(ctx, "CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "YES")
				}
			}
		})
	}
	calling.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	pool, requests := client.Stats()
	fmt.Printf("%8d keys were set and read, and had the right value\n", right.Load())
	fmt.Printf("%8d keys were given up by callers, and %d late replies are nobody's\n", givenUp.Load(), requests.Late)
	fmt.Printf("%8d keys were given up as the connection broke that a command was on\n", broken.Load())
	fmt.Printf("%8d connections were lost, and %d healed\n", pool.Lost, pool.Healed)
	fmt.Printf("%8d commands went out in %d writes\n", requests.Sent, requests.Writes)
	if right.Load() == 0 || requests.Malformed+requests.Unknown+requests.Unsolicited > 0 {
		return fmt.Errorf("want all that came to be replies, and some of them in time: %+v", requests)
	}
	return nil
}

// use sets a key and reads it.
func use(ctx context.Context, client *store.Client, key string) error {
	value := "the value of " + key
	if err := client.Set(ctx, key, value, time.Hour); err != nil {
		return err
	}
	if got, err := client.Get(ctx, key); err != nil || got != value {
		return cmp.Or(err, fmt.Errorf("%s is %q, want %q", key, got, value))
	}
	return nil
}

// count has goroutines add to one number, each time in a transaction, while others use the same connections.
func count(ctx context.Context, client *store.Client) error {
	if err := client.Set(ctx, "plex:count", "0", time.Hour); err != nil {
		return err
	}
	busy, done := context.WithCancel(ctx)
	var beside, counting sync.WaitGroup
	for i := range counters {
		beside.Go(func() {
			for busy.Err() == nil {
				_ = use(busy, client, fmt.Sprint("plex:beside:", i))
			}
		})
	}
	var tries atomic.Int64
	failures := make(chan error, counters)
	for range counters {
		counting.Go(func() {
			for range counts {
				err := client.Update(ctx, "plex:count", func(old string) (string, error) {
					tries.Add(1)
					n, err := strconv.Atoi(old)
					return strconv.Itoa(n + 1), err
				})
				if err != nil {
					failures <- err
					return
				}
			}
		})
	}
	counting.Wait()
	done()
	beside.Wait()
	if len(failures) > 0 {
		return <-failures
	}
	got, err := client.Get(ctx, "plex:count")
	if want := strconv.Itoa(counters * counts); err != nil || got != want {
		return cmp.Or(err, fmt.Errorf("the count is %q, want %s", got, want))
	}
	fmt.Printf("%8s counted in transactions, by %d tries, beside other commands\n", got, tries.Load())
	return nil
}

// hear subscribes, publishes, and hears everything once and in order.
func hear(ctx context.Context, client *store.Client) error {
	heard := make(chan string, published)
	s, err := client.Subscribe(ctx, func(channel, data string) { heard <- channel + " " + data }, "plex:news", "plex:end")
	if err != nil {
		return err
	}
	for n := range published {
		if _, err := client.Do(ctx, "PUBLISH", "plex:news", strconv.Itoa(n)); err != nil {
			return errors.Join(err, s.Close())
		}
		if n%500 == 0 {
			if err := s.Ping(ctx); err != nil {
				return errors.Join(err, s.Close())
			}
		}
	}
	for n := range published {
		select {
		case got := <-heard:
			if want := fmt.Sprint("plex:news ", n); got != want {
				return errors.Join(fmt.Errorf("%q was heard, want %q", got, want), s.Close())
			}
		case <-ctx.Done():
			return errors.Join(ctx.Err(), s.Close())
		}
	}
	_, requests := s.Stats()
	fmt.Printf("%8d messages were published and heard, in order, over a connection that answered %d pings meanwhile\n",
		published, requests.Replies)
	return s.Close()
}
