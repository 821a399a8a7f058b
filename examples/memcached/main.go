// Command memcached sets, gets and deletes thousands of keys over a few connections, while those are broken and the
// server goes away and comes back with nothing of what it knew; and then shows how fast that is without faults, beside
// gomemcache.
//
// It starts the memcached that is installed; if there is none, it has a small server of its own. Run it with
//
//	go run .
//
// client.go and protocol.go are how a program uses plex for memcached.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/examples/internal/timeline"
	"go.atomizer.io/plex/faulttest/proxy"
)

const (
	connections = 8
	callers     = 64
	pace        = 4 * time.Millisecond   // from a caller's reply to its next request
	patience    = 2 * time.Second        // for a reply
	step        = 250 * time.Millisecond // from row to row
	breaks      = 20                     // connections that are broken
	breakEvery  = 100 * time.Millisecond
	outage      = 2 * step
	rounds      = 4
	round       = 500 * time.Millisecond
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "memcached:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	server, err := newBackend()
	if err != nil {
		return err
	}
	if err := server.up(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.down()) }()
	fmt.Printf("The server is %v.\n", server)
	fmt.Printf("%d callers set, get and delete over %d connections to %s.\n\n", callers, connections, server.addr())

	if err := endure(server); err != nil {
		return err
	}

	fmt.Printf("\nWithout faults and without the proxy, %d rounds of %v each in turns.\n", rounds, round)
	all := contenders(server.addr(), connections, callers)
	rates, err := measure(all, rounds, round)
	if err != nil {
		return err
	}
	compare(all, rates)

	return nil
}

// endure has the callers at work while everything breaks. The connections go through a proxy, because it can break them
// one by one, which memcached does not.
func endure(server backend) error {
	way, err := proxy.New(proxy.Config{Backend: server.addr()})
	if err != nil {
		return err
	}
	defer way.Close()

	client, err := NewClient(context.Background(), way.Addr(), connections)
	if err != nil {
		return err
	}
	l := &load{client: client, patience: patience, pace: pace}

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.run(ctx, callers)
	}()
	err = perform(l, server, way)
	cancel()
	<-done
	pool, requests := client.mux.Stats(), client.requests.Stats()
	err = errors.Join(err, client.Close(), l.audit())
	summarize(l, pool, requests)

	return err
}

// perform does the damage, and draws what comes of it.
func perform(l *load, server backend, way *proxy.Proxy) error {
	table := timeline.Start(os.Stdout, step, header, rows(l))
	defer table.Stop()

	time.Sleep(2 * step)
	table.Note("one connection after the other is broken")
	for i := range breaks {
		breakOne(way, i)
		time.Sleep(breakEvery)
	}
	table.Note("no more")
	time.Sleep(2 * step)
	table.Note("the server goes down")
	if err := l.restart(server, way, outage); err != nil {
		return err
	}
	table.Note("the server is back")
	time.Sleep(4 * step)

	return nil
}

// breakOne breaks a connection, if there is one: with a reset, or as a server does that hangs up.
func breakOne(way *proxy.Proxy, i int) {
	conns := way.Conns()
	if len(conns) == 0 {
		return
	}
	if conn := conns[i%len(conns)]; i%2 == 0 {
		conn.Reset()
	} else {
		conn.FIN()
	}
}

// restart takes the server away for a while. Connects are refused meanwhile, as they would be without the proxy.
func (l *load) restart(server backend, way *proxy.Proxy, outage time.Duration) error {
	l.restarts.Add(1)
	if err := server.down(); err != nil {
		return err
	}
	l.restarts.Add(1)
	way.Refuse()
	way.ResetAll()
	time.Sleep(outage)
	if err := server.up(); err != nil {
		return err
	}

	return way.Listen()
}

const header = "open             lost  healed  replies  failed  forgotten\n" +
	"                                         per s"

// rows returns what draws the next row: what is, and what has been since the row before.
func rows(l *load) func() string {
	var before plex.Stats
	var answered, failed, forgotten int64

	return func() string {
		now := l.client.mux.Stats()
		a, f, g := l.answered(), l.failed(), l.forgotten.Load()
		row := fmt.Sprintf("%s %2d %7s %7s %8s %7s %10s", timeline.Bar(connections, now.Open, 0), now.Open,
			timeline.NonZero(now.Lost-before.Lost), timeline.NonZero(now.Healed-before.Healed),
			timeline.Count((a-answered)*int64(time.Second/step)), timeline.NonZero(f-failed), timeline.NonZero(g-forgotten))
		before, answered, failed, forgotten = now, a, f, g

		return row
	}
}
