// Command nats publishes numbered messages over a few connections to a NATS server in the same process, and gets them back.
// At first the server closes one connection after another, which may cost messages; later none may be missing.
// Package bus, beside it, is the client.
package main

import (
	"context"
	"fmt"
	"log"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go.atomizer.io/plex/examples/nats/bus"
)

const connections, publishers, messages = 4, 32, 10_000

func main() {
	if err := run(); err != nil {
		log.Fatal("nats: ", err)
	}
}

func run() error {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true})
	if err != nil {
		return err
	}
	defer s.Shutdown()
	s.Start()                // returns when the server listens
	var came [2]atomic.Int64 // of the first half and of the second
	var wrong atomic.Int64   // come twice, or never published
	seen := make([]atomic.Bool, 2*messages)
	client, err := bus.Dial(context.Background(), bus.Config{
		Address: s.Addr().String(), Connections: connections, Subject: "plex.numbers", Handle: func(_ string, data []byte) {
			if n, err := strconv.Atoi(string(data)); err == nil && !seen[n].Swap(true) {
				came[n/messages].Add(1)
			} else {
				wrong.Add(1)
			}
		},
	})
	if err != nil {
		return err
	}
	defer client.Close()

	failed := publish(client, 0, s)
	await(func() bool { return client.Stats().Open == connections && s.NumClients() == connections })
	fmt.Printf("%8d messages came while the server closed connections, of which %d are healed; %d could not be published\n",
		came[0].Load(), client.Stats().Healed, failed)
	publish(client, messages, nil)
	await(func() bool { return came[1].Load() == messages })
	fmt.Printf("%8d messages came while all was well\n", came[1].Load())
	if came[1].Load() != messages || wrong.Load() > 0 {
		return fmt.Errorf("want %d, and %d messages came twice or were wrong", messages, wrong.Load())
	}
	return nil
}

// publish publishes messages that are numbered from the first on, and returns how many of them failed. A server that it is
// given closes connections meanwhile.
func publish(client *bus.Client, first int, s *server.Server) int64 {
	var failed atomic.Int64
	var publishing sync.WaitGroup
	for p := range publishers {
		publishing.Go(func() {
			for n := p; n < messages; n += publishers {
				if s != nil && n%500 == 0 {
					_ = s.DisconnectClientByID(uint64(n / 500)) // it numbers its connections, and may have closed this one
				}
				if err := client.Publish(context.Background(), "plex.numbers", strconv.AppendInt(nil, int64(first+n), 10)); err != nil {
					failed.Add(1)
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	publishing.Wait()
	return failed.Load()
}

// await waits until something is true, for half a minute at the most.
func await(is func() bool) {
	for begun := time.Now(); !is() && time.Since(begun) < 30*time.Second; {
		time.Sleep(time.Millisecond)
	}
}
