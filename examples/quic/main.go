// Command quic pools streams of a QUIC connection: many callers make requests over a few of them, while single streams
// are killed, while the server closes the QUIC connection, and while it goes away without a word and comes back.
//
// The server is in the same process. Run it with
//
//	go run .
//
// dialer.go and stream.go are how a program uses plex with QUIC.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/examples/internal/timeline"
)

const (
	streams    = 8
	callers    = 32
	pace       = 2 * time.Millisecond   // from a caller's reply to its next request
	patience   = 3 * time.Second        // for a reply
	step       = 250 * time.Millisecond // from row to row
	kills      = 10                     // streams that are killed
	killEvery  = 100 * time.Millisecond
	closes     = 5 // QUIC connections that the server closes
	closeEvery = 350 * time.Millisecond
	outage     = 2 * step
	healing    = 10 * time.Second // at the most
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "quic:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	serverTLS, clientTLS, err := newCertificate()
	if err != nil {
		return err
	}
	server, err := newService(serverTLS)
	if err != nil {
		return err
	}
	if err := server.up(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.down()) }()

	c, err := newClient(context.Background(), server.address, clientTLS, streams)
	if err != nil {
		return err
	}
	fmt.Printf("%d callers make requests over %d streams of a QUIC connection to %s.\n\n", callers, streams, server.address)

	l := &load{client: c, patience: patience, pace: pace}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.run(ctx, callers)
	}()
	err = perform(l, server)
	cancel()
	<-done
	stats := c.mux.Stats()
	err = errors.Join(err, l.audit(), c.close())
	summarize(l, server, stats)

	return err
}

// perform does the damage, and draws what comes of it.
func perform(l *load, server *service) error {
	table := timeline.Start(os.Stdout, step, header, rows(l))
	defer table.Stop()

	time.Sleep(3 * step)
	table.Note("one stream after the other is killed; the QUIC connection stays")
	for range kills {
		w, err := l.client.mux.Writer(context.Background(), time.Second)
		if err != nil {
			return err
		}
		if err := w.Kill(); err != nil {
			return err
		}
		time.Sleep(killEvery)
	}
	table.Note("the server closes the QUIC connection, %d times", closes)
	for range closes {
		if !await(healing, server.closeOne) {
			return fmt.Errorf("the server has had no connection for %v", healing)
		}
		time.Sleep(closeEvery)
	}
	table.Note("no more")
	time.Sleep(2 * step)
	table.Note("the server is gone, without a word")
	if err := server.down(); err != nil {
		return err
	}
	time.Sleep(outage)
	if err := server.up(); err != nil {
		return err
	}
	table.Note("the server is back")
	if !await(healing, func() bool { return l.client.mux.Stats().Open == streams }) {
		return fmt.Errorf("%d of %d streams are there after %v; the last connect: %v",
			l.client.mux.Stats().Open, streams, healing, l.client.mux.Stats().LastConnectError)
	}
	time.Sleep(4 * step)

	return nil
}

const header = "streams          lost  healed  QUIC connections  replies  failed\n" +
	"                                          dialled    per s"

// rows returns what draws the next row: what is, and what has been since the row before.
func rows(l *load) func() string {
	var before plex.Stats
	var answered, failed int64
	var dials int

	return func() string {
		now := l.client.mux.Stats()
		a, f, d := l.answered.Load(), l.failed(), l.client.dialer.Dials()
		row := fmt.Sprintf("%s %2d %7s %7s %17s %8s %7s", timeline.Bar(streams, now.Open, 0), now.Open,
			timeline.NonZero(now.Lost-before.Lost), timeline.NonZero(now.Healed-before.Healed), timeline.NonZero(d-dials),
			timeline.Count((a-answered)*int64(time.Second/step)), timeline.NonZero(f-failed))
		before, answered, failed, dials = now, a, f, d

		return row
	}
}

// summarize says what came of it.
func summarize(l *load, server *service, stats plex.Stats) {
	requests := l.client.requests.Stats()
	ms := func(p int) string { return fmt.Sprintf("%.1f ms", l.percentile(p).Seconds()*1e3) }
	fmt.Printf(`
  requests             %8s
  answered             %8s  each with the reply that belongs to it
  failed, not sent     %8s
  failed, maybe sent   %8s  on their way when their stream died
  wrong                %8s  replies
  late                 %8s  replies, which nobody waited for any more
  streams lost         %8s  of which %s were killed one by one
  streams healed       %8s
  QUIC connections     %8s  dialled, of which the server has seen %s
  half of the replies  %8s  or less; 99 %% of them %s
`, timeline.Count(l.begun.Load()), timeline.Count(l.answered.Load()), timeline.Count(l.notSent.Load()),
		timeline.Count(l.maybeSent.Load()), timeline.Count(l.wrong.Load()), timeline.Count(requests.Late),
		timeline.Count(stats.Lost), timeline.Count(stats.Killed), timeline.Count(stats.Healed),
		timeline.Count(l.client.dialer.Dials()), timeline.Count(server.connections.Load()), ms(50), ms(99))
	if l.lastFail != nil {
		fmt.Printf("\nWhat a caller was told:\n%s\n", timeline.Wrap(l.lastFail.Error(), "  ", 100))
	}
}
