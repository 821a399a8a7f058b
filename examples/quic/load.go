package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/request"
)

// client asks the service, over a pool of streams.
type client struct {
	dialer   *Dialer
	mux      *plex.Multiplexer
	requests *request.Client[[]byte, []byte]
}

func newClient(ctx context.Context, address string, tlsConfig *tls.Config, streams int) (*client, error) {
	dialer, err := NewDialer("127.0.0.1:0", address, tlsConfig, &quic.Config{
		MaxIdleTimeout:  idleTimeout,
		KeepAlivePeriod: keepAlive, // while nobody asks, too
	})
	if err != nil {
		return nil, err
	}
	mux, err := plex.New(ctx,
		plex.WithConnector(plex.DialFunc(dialer.DialStream)),
		plex.WithMinConnections(streams),
		plex.WithMaxCapacity(streams),
	)
	if err != nil {
		return nil, errors.Join(err, dialer.Close())
	}
	requests, err := request.New(mux, protocol{})
	if err != nil {
		return nil, errors.Join(err, mux.Close(), dialer.Close())
	}

	return &client{dialer: dialer, mux: mux, requests: requests}, nil
}

func (c *client) close() error {
	return errors.Join(c.requests.Close(), c.mux.Close(), c.dialer.Close())
}

// load is many callers that ask all the time, and the book of what became of each request.
type load struct {
	client   *client
	patience time.Duration // for one reply
	pace     time.Duration // from a caller's reply to its next request

	begun     atomic.Int64
	answered  atomic.Int64 // with the right reply
	wrong     atomic.Int64 // replies
	notSent   atomic.Int64 // failed, and the server cannot have got it
	maybeSent atomic.Int64 // failed, and the server may have got it

	mu       sync.Mutex
	took     []time.Duration // those that were answered
	lastFail error
}

// run has so many callers ask until ctx ends, and returns when the last request has ended.
func (l *load) run(ctx context.Context, callers int) {
	var calling sync.WaitGroup
	for range callers {
		calling.Go(func() {
			for ctx.Err() == nil {
				l.ask()
				time.Sleep(l.pace)
			}
		})
	}
	calling.Wait()
}

// ask makes one request. Its context is its own, so that the end of the run breaks nothing off.
func (l *load) ask() {
	ctx, cancel := context.WithTimeout(context.Background(), l.patience)
	defer cancel()
	question := fmt.Appendf(nil, "request %d %0*d", l.begun.Add(1), rand.IntN(500), 0)
	want := bytes.Clone(question)
	slices.Reverse(want)

	begun := time.Now()
	reply, err := l.client.requests.Do(ctx, question)
	took := time.Since(begun)
	l.mu.Lock()
	defer l.mu.Unlock()
	var failed *request.Error
	switch {
	case errors.As(err, &failed) && !failed.MaybeSent:
		l.notSent.Add(1)
		l.lastFail = err
	case err != nil:
		l.maybeSent.Add(1)
		l.lastFail = err
	case !bytes.Equal(reply, want):
		l.wrong.Add(1)
	default:
		l.answered.Add(1)
		l.took = append(l.took, took)
	}
}

func (l *load) failed() int64 { return l.notSent.Load() + l.maybeSent.Load() }

// percentile is how long p % of the answered requests took at the most.
func (l *load) percentile(p int) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.took) == 0 {
		return 0
	}
	slices.Sort(l.took)

	return l.took[(len(l.took)-1)*p/100]
}

// audit says what is not as it has to be when all is over.
func (l *load) audit() error {
	var wrong []error
	if begun, ended := l.begun.Load(), l.answered.Load()+l.wrong.Load()+l.failed(); begun != ended {
		wrong = append(wrong, fmt.Errorf("%d requests were begun, and %d have ended", begun, ended))
	}
	if n := l.wrong.Load(); n > 0 {
		wrong = append(wrong, fmt.Errorf("%d replies were not what had been asked for", n))
	}
	if stats := l.client.requests.Stats(); stats.InFlight > 0 || stats.Unknown > 0 {
		wrong = append(wrong, fmt.Errorf("%d requests are still in flight, %d replies are to nothing that was asked",
			stats.InFlight, stats.Unknown))
	}

	return errors.Join(wrong...)
}

// await waits until something is true, and reports whether it came to that.
func await(within time.Duration, is func() bool) bool {
	for begun := time.Now(); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Since(begun) > within {
			return false
		}
	}

	return true
}
