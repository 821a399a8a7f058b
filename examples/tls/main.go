// Command tls pools TLS connections: lines go out over whichever is free and come back over the same, a connection is
// killed and another breaks, plex replaces both with a new handshake each, and the lines go on.
//
// It is a client and a server in one process, and the certificate is made in memory. Run it with
//
//	go run ./examples/tls
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/examples/internal/selfsigned"
	"go.atomizer.io/plex/examples/internal/timeline"
	"go.atomizer.io/plex/message"
)

const (
	connections = 4
	senders     = 16
	lines       = 20_000 // of one round
	patience    = 30 * time.Second
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "tls:", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	serverTLS, clientTLS, err := selfsigned.Configs()
	if err != nil {
		return err
	}
	srv, err := startServer(serverTLS)
	if err != nil {
		return err
	}

	// A tls.Dialer has made the handshake, and checked the certificate, when it returns. plex counts a connection as open
	// after that, so no caller waits for a handshake, and none can break it off halfway.
	dialer := &tls.Dialer{Config: clientTLS}
	mux, err := plex.New(ctx,
		plex.WithConnector(plex.DialContext(dialer, "tcp", srv.addr())),
		plex.WithMinConnections(connections),
		plex.WithMaxCapacity(connections),
	)
	if err != nil {
		return errors.Join(err, srv.close())
	}
	fmt.Printf("%d goroutines send lines over %d TLS connections to %s.\n\n", senders, connections, srv.addr())

	e := &echo{mux: mux}
	err = e.perform(ctx, srv)
	stats := mux.Stats() // before Close, with which the gauges fall to zero
	err = errors.Join(err, mux.Close())

	refused := strangers(ctx, srv.addr())
	err = errors.Join(err, srv.close())
	if err != nil {
		return err
	}

	fmt.Printf("\n  lines        %9s sent, and as many came back, each the right one\n", timeline.Count(e.came.Load()))
	fmt.Printf("  connections  %9d lost, of which %d by Kill, and %d healed\n", stats.Lost, stats.Killed, stats.Healed)
	for spoken, n := range srv.spoken {
		fmt.Printf("  handshakes   %9d with %s\n", n, spoken)
	}
	fmt.Printf("\nWhat a client is told that does not know the certificate:\n%s\n",
		timeline.Wrap(refused.Error(), "  ", 100))

	return nil
}

// echo sends lines and gets them back.
type echo struct {
	mux  *plex.Multiplexer
	came atomic.Int64
}

// perform sends lines before and after two connections end.
func (e *echo) perform(ctx context.Context, srv *server) error {
	receiver, err := message.New(e.mux, message.Lines)
	if err != nil {
		return err
	}

	if err := e.round(ctx, receiver); err != nil {
		return err
	}
	began := time.Now()
	srv.resetOne()
	if err := e.healed(ctx, 1); err != nil {
		return err
	}
	w, err := e.mux.Writer(ctx, 0)
	if err != nil {
		return err
	}
	if err := w.Kill(); err != nil {
		return err
	}
	if err := e.healed(ctx, 2); err != nil {
		return err
	}
	fmt.Printf("  the server resets a connection, a consumer kills another, and both are replaced after %v\n",
		time.Since(began).Round(100*time.Microsecond))

	return e.round(ctx, receiver)
}

// healed waits until so many connections have been replaced, and all are there.
func (e *echo) healed(ctx context.Context, n uint64) error {
	for stats := e.mux.Stats(); stats.Healed < n || stats.Open < connections; stats = e.mux.Stats() {
		if ctx.Err() != nil {
			return fmt.Errorf("%d connections are healed, want %d: %w",
				stats.Healed, n, errors.Join(ctx.Err(), stats.LastConnectError))
		}
		time.Sleep(100 * time.Microsecond)
	}

	return nil
}

// round sends numbered lines from many goroutines, and waits until each has come back.
func (e *echo) round(ctx context.Context, receiver *message.Receiver) error {
	var next atomic.Int64
	var sending sync.WaitGroup
	failures := make(chan error, senders)
	began := time.Now()
	for range senders {
		sending.Go(func() {
			for n := next.Add(1); n <= lines; n = next.Add(1) {
				// The line goes out with one Write: were it two, the lease would have to be held for both.
				if err := message.Send(ctx, e.mux, 0, fmt.Appendf(nil, "%d\n", n)); err != nil {
					failures <- err
					return
				}
			}
		})
	}

	receiving, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		sending.Wait()
		if len(failures) > 0 {
			cancel() // not all lines can come
		}
	}()
	seen := make([]bool, lines+1)
	left := lines
	for m, err := range receiver.All(receiving) {
		if err != nil {
			sending.Wait()
			close(failures)

			return errors.Join(err, <-failures)
		}
		n, err := strconv.Atoi(string(m.Data))
		if err != nil || n < 1 || n > lines || seen[n] {
			return fmt.Errorf("the line %q came, which is none that was sent, or came before", m.Data)
		}
		seen[n] = true
		e.came.Add(1)
		if left--; left == 0 {
			break
		}
	}
	sending.Wait()
	fmt.Printf("  %s lines there and back, %s per second\n", timeline.Count(lines),
		timeline.Count(int64(lines/time.Since(began).Seconds())))

	return nil
}

// strangers connects as a client that trusts only whom the system trusts, which has to fail.
func strangers(ctx context.Context, address string) error {
	mux, err := plex.New(ctx,
		plex.WithConnector(plex.DialContext(&tls.Dialer{}, "tcp", address)), plex.WithMinConnections(1))
	if err == nil {
		return errors.Join(errors.New("it was let in"), mux.Close())
	}

	return err
}
