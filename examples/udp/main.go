// Command udp makes requests over a few connected UDP sockets, each request and each answer one datagram; and shows what
// comes of it when nobody listens for a while.
//
// It is a client and a server in one process. Run it with
//
//	go run ./examples/udp
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/examples/internal/timeline"
	"go.atomizer.io/plex/request"
)

const (
	sockets  = 4
	callers  = 32
	requests = 20_000                 // of one round
	unheard  = 200                    // requests while nobody listens
	patience = 100 * time.Millisecond // for an answer; datagrams may be lost, so there has to be an end
	tries    = 20                     // for one request
	largest  = 8 << 10                // bytes of payload
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "udp:", err)
		os.Exit(1)
	}
}

func run() error {
	srv := &server{address: "127.0.0.1:0"}
	if err := srv.up(); err != nil {
		return err
	}

	// A dialled UDP socket is connected: it takes datagrams from that address alone, and is told when nobody listens there.
	mux, err := plex.New(context.Background(),
		plex.WithConnector(plex.Dial("udp", srv.address)),
		plex.WithMinConnections(sockets),
		plex.WithMaxCapacity(sockets),
	)
	if err != nil {
		return errors.Join(err, srv.down())
	}
	client, err := request.New(mux, protocol{})
	if err != nil {
		return errors.Join(err, mux.Close(), srv.down())
	}
	fmt.Printf("%d callers make requests over %d UDP sockets to %s.\n", callers, sockets, srv.address)

	var listening, alone, again book
	listening.run(client, requests, tries)
	err = srv.down()
	alone.run(client, unheard, 1)
	if err == nil {
		err = srv.up()
	}
	again.run(client, requests, tries)

	stats := mux.Stats() // before Close, with which the gauges fall to zero
	err = errors.Join(err, client.Close(), mux.Close(), srv.down())
	const full = "a datagram was dropped, as a socket's buffer was full"
	listening.print("while the server listens", full)
	alone.print("while nobody listens", "there is nobody to answer")
	again.print("when the server is back", full)
	fmt.Printf("\n  largest      %8s bytes in one datagram, answered by one of the same size\n",
		timeline.Count(srv.largest.Load()))
	fmt.Printf("  late         %8s answers, to requests that had been given up\n", timeline.Count(client.Stats().Late))
	fmt.Printf("  sockets      %8d opened and %d lost: that nobody listens says nothing about a socket\n",
		stats.Connected, stats.Lost)

	switch {
	case err != nil:
		return err
	case listening.wrong() != nil || again.wrong() != nil:
		return errors.Join(listening.wrong(), again.wrong())
	case listening.answered.Load() != requests || again.answered.Load() != requests:
		return errors.New("not all requests were answered")
	case alone.answered.Load() != 0 || stats.Lost != 0:
		return errors.New("a socket was lost, or somebody has answered for the server")
	}

	return nil
}

// book is what became of the requests of one round.
type book struct {
	answered, refused, silent, retried, other atomic.Int64

	mu    sync.Mutex
	first error // that was none of these
	took  time.Duration
}

// run makes so many requests, each up to so many times.
func (b *book) run(client *request.Client[string, string], n int64, tries int) {
	var next atomic.Int64
	var calling sync.WaitGroup
	began := time.Now()
	for range callers {
		calling.Go(func() {
			for i := next.Add(1); i <= n; i = next.Add(1) {
				for try := 1; !b.ask(client, i) && try < tries; try++ {
					b.retried.Add(1)
				}
			}
		})
	}
	calling.Wait()
	b.took = time.Since(began)
}

// ask makes one request, and reports whether it was answered. It may be made again: to ask this server twice does no
// harm, and the answer to an earlier try has another id, so it is not taken for that of a later one.
func (b *book) ask(client *request.Client[string, string], number int64) bool {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	question := fmt.Sprintf("number %d ", number)
	question += strings.Repeat("x", int(number*37%(largest-int64(len(question))+1)))

	answer, err := client.Do(ctx, question)
	switch {
	case err == nil && answer == strings.ToUpper(question):
		b.answered.Add(1)
		return true
	case err == nil:
		err = fmt.Errorf("the answer to request %d is %.40q", number, answer)
	case errors.Is(err, context.DeadlineExceeded):
		b.silent.Add(1)
		return false
	case errors.Is(err, syscall.ECONNREFUSED):
		b.refused.Add(1)
		return false
	}

	b.other.Add(1)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.first == nil {
		b.first = err
	}

	return false
}

// wrong is the first failure that was not to be expected.
func (b *book) wrong() error {
	b.mu.Lock()
	defer b.mu.Unlock()

	return b.first
}

func (b *book) print(when, why string) {
	fmt.Printf("\n  %s, for %v:\n", when, b.took.Round(time.Millisecond))
	fmt.Printf("  answered     %8s requests, each by the datagram that belongs to it\n", timeline.Count(b.answered.Load()))
	if n := b.retried.Load(); n > 0 {
		fmt.Printf("  tried again  %8s times\n", timeline.Count(n))
	}
	if n := b.silent.Load(); n > 0 {
		fmt.Printf("  no answer    %8s within %v: %s\n", timeline.Count(n), patience, why)
	}
	if n := b.refused.Load(); n > 0 {
		fmt.Printf("  refused      %8s: an earlier datagram has brought the news that nobody listens\n", timeline.Count(n))
	}
}
