// Command dns asks a DNS server thousands of questions over a few connections, TCP first and then TLS, while those
// connections are broken and the server goes away and comes back; and then shows how fast that is without faults,
// beside the client of miekg/dns.
//
// The server is in this process. Run it with
//
//	go run .
//
// client.go is how a program uses plex for DNS.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/examples/internal/timeline"
	"go.atomizer.io/plex/request"
)

const (
	connections = 8
	callers     = 64
	pace        = 4 * time.Millisecond   // from a caller's answer to its next query
	patience    = 2 * time.Second        // for an answer
	lateOne     = 16                     // one query in so many is answered after those behind it
	step        = 250 * time.Millisecond // from row to row
	breaks      = 15                     // connections that are broken
	breakEvery  = 100 * time.Millisecond
	outage      = 2 * step
	rounds      = 4
	round       = 400 * time.Millisecond
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "dns:", err)
		os.Exit(1)
	}
}

// transport is TCP or TLS, and what came of it.
type transport struct {
	name   string
	server *server
	client *tls.Config // nil: TCP

	load     *load
	pool     plex.Stats
	requests request.Stats
	names    []string
	rates    []float64
}

func run() error {
	certificate, trust, err := newCertificate()
	if err != nil {
		return err
	}
	transports := []*transport{
		{name: "TCP", server: new(server)},
		{name: "TLS", server: &server{tls: &tls.Config{Certificates: []tls.Certificate{certificate}}}, client: trust},
	}

	fmt.Printf("%d callers query a DNS server over %d connections.\n", callers, connections)
	fmt.Printf("One query in %d is answered %v late, the others at once.\n", lateOne, lateness)
	for _, t := range transports {
		if err := t.endure(); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	summarize(transports)

	fmt.Printf("\nWithout faults, %d rounds of %v each in turns.\n", rounds, round)
	for _, t := range transports {
		if err := t.race(); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	compare(transports)

	return nil
}

// endure has the callers query while everything breaks.
func (t *transport) endure() (err error) {
	t.load = &load{patience: patience, pace: pace, lateOne: lateOne}
	t.server.heard = t.load.hear
	if err := t.server.up(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.server.down()) }()

	client, err := NewClient(context.Background(), connect(t.server.address, t.client), connections)
	if err != nil {
		return err
	}
	t.load.client = client

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		t.load.run(ctx, callers)
	}()
	fmt.Printf("\nDNS over %s, %s\n\n", t.name, t.server.address)
	err = t.perform()
	cancel()
	<-done
	t.pool, t.requests = client.mux.Stats(), client.requests.Stats()

	return errors.Join(err, client.Close(), t.load.audit())
}

// perform does the damage, and draws what comes of it.
func (t *transport) perform() error {
	table := timeline.Start(os.Stdout, step, header, rows(t.load))
	defer table.Stop()

	time.Sleep(2 * step)
	table.Note("one connection after the other is broken")
	for i := range breaks {
		t.server.breakOne(i%2 == 0)
		time.Sleep(breakEvery)
	}
	table.Note("no more")
	time.Sleep(2 * step)
	table.Note("the server goes down")
	if err := t.server.down(); err != nil {
		return err
	}
	time.Sleep(outage)
	table.Note("the server is back")
	if err := t.server.up(); err != nil {
		return err
	}
	time.Sleep(4 * step)

	return nil
}

const header = "open             lost  healed  answers  failed  late or\n" +
	"                                         per s          unknown"

// rows returns what draws the next row: what is, and what has been since the row before.
func rows(l *load) func() string {
	var before plex.Stats
	var answered, failed int64
	var strays uint64

	return func() string {
		now, requests := l.client.mux.Stats(), l.client.requests.Stats()
		a, f, s := l.answered.Load(), l.failed(), requests.Late+requests.Unknown
		row := fmt.Sprintf("%s %2d %7s %7s %8s %7s %8s", timeline.Bar(connections, now.Open, 0), now.Open,
			timeline.NonZero(now.Lost-before.Lost), timeline.NonZero(now.Healed-before.Healed),
			timeline.Count((a-answered)*int64(time.Second/step)), timeline.NonZero(f-failed), timeline.NonZero(s-strays))
		before, answered, failed, strays = now, a, f, s

		return row
	}
}

// race measures the contenders.
func (t *transport) race() (err error) {
	t.server.heard = nil
	if err := t.server.up(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.server.down()) }()

	all := contenders(t.server.address, t.client, connections, callers)
	for _, c := range all {
		t.names = append(t.names, c.name)
	}
	t.rates, err = measure(all, rounds, round)

	return err
}
