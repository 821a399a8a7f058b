// Command memcached sets, reads and deletes thousands of keys over a few connections, and checks every value. It has a
// small server of its own, whose connections break all the time, or talks to yours, as in "go run . 127.0.0.1:11211".
// Package cache, beside it, is the client.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex/examples/memcached/cache"
	"go.atomizer.io/plex/request"
)

const connections, callers, keys = 4, 64, 200 // so many keys for each caller

func main() {
	log.SetFlags(0)
	if err := run(os.Args[1:]); err != nil {
		log.Fatal("memcached: ", err)
	}
}

func run(args []string) error {
	server, err := startServer()
	if err != nil {
		return err
	}
	if len(args) > 0 {
		server = args[0] // another one
	}
	limited, stop := context.WithTimeout(context.Background(), 30*time.Second)
	defer stop()
	ctx, fail := context.WithCancelCause(limited)
	defer fail(nil)
	client, err := cache.Dial(ctx, server, connections)
	if err != nil {
		return err
	}
	var right, givenUp atomic.Int64
	var calling sync.WaitGroup
	for caller := range callers {
		calling.Go(func() {
			for k := range keys {
				err := use(ctx, client, fmt.Sprintf("plex:%d:%d", caller, k))
				failed := new(request.Error)
				switch {
				case err == nil:
					right.Add(1)
				case errors.As(err, &failed) && ctx.Err() == nil:
					givenUp.Add(1) // the connection broke, so nobody knows what value the key has now
				default:
					fail(err) // a wrong answer, or the time is over
				}
			}
		})
	}
	calling.Wait()
	stats, _ := client.Stats()
	if err := errors.Join(context.Cause(ctx), client.Close()); err != nil || right.Load() == 0 {
		return cmp.Or(err, errors.New("all keys were given up"))
	}
	fmt.Printf("%d callers used %d keys each over %d connections to %s.\n\n", callers, keys, connections, server)
	fmt.Printf("%8d keys were set, read and deleted, and had the right value\n", right.Load())
	fmt.Printf("%8d keys were given up, as the connection broke that a request was on\n", givenUp.Load())
	fmt.Printf("%8d connections were lost, and %d healed\n", stats.Lost, stats.Healed)
	return nil
}

// use sets a key, reads it and deletes it.
func use(ctx context.Context, client *cache.Client, key string) error {
	value := "the value of " + key
	if err := client.Set(ctx, key, []byte(value), time.Hour); err != nil {
		return err
	}
	if got, err := client.Get(ctx, key); err != nil || string(got) != value {
		return cmp.Or(err, fmt.Errorf("%s is %q, want %q", key, got, value))
	}
	return client.Delete(ctx, key)
}
