package cases

// Package request beside the client that a careful programmer writes by hand for one protocol.

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/bench/harness"
	"go.atomizer.io/plex/bench/peer"
)

// gatheringCallers are how many callers there are.
var gatheringCallers = []int{1, 16, 128, 1_000, 8_000}

// gathering compares package request with a client that does the least: it appends requests to one
// buffer under a mutex, one flusher lets the others run once and writes what is there, and a map
// says who waits for which reply. It knows no contexts, lost connections, bounds or counts.
func gathering(p *peer.Process, callers int) *harness.Case {
	const conns = 16
	dial := p.Dialer(peer.Echo, peer.TCP)
	limit := 0.8
	if callers == 1 {
		limit = 0.95
	}
	asked := func(callers int, one func() error) func(n int) (harness.Sample, error) {
		return func(n int) (harness.Sample, error) {
			return ask(callers, n, func(int) error { return one() })
		}
	}
	c := &harness.Case{
		Group: GroupMessage,
		Name:  fmt.Sprintf("gather/%d", callers),
		Title: plural(callers, "caller"),
		Compares: fmt.Sprintf("%s that each send a request of %d bytes and wait for the reply, over package request with %d connections, or over as many with a client of 40 lines that gathers requests, too",
			plural(callers, "goroutine"), peer.FrameSize, conns),
		Metrics: []harness.Metric{requests, replyP50, replyP99, harness.Allocs},
		Targets: []harness.Target{harness.AtLeast(limit, byHand, requests.Key)},
		Turn:    150 * time.Millisecond,
		Rounds:  11,
		Subjects: []harness.Subject{
			{Name: "plex", Open: func() (harness.Work, error) {
				mux, client, err := newClient(dial, conns)
				if err != nil {
					return harness.Work{}, err
				}
				for range 4 * conns { // the first request on a connection makes the client know it
					if _, err := client.Do(context.Background(), 0); err != nil {
						return harness.Work{}, errors.Join(err, client.Close(), mux.Close())
					}
				}
				return harness.Work{
					Run: asked(callers, func() error {
						_, err := client.Do(context.Background(), 0)
						return err
					}),
					Close: func() { _, _ = client.Close(), mux.Close() }, // both return nil
				}, nil
			}},
			{Name: byHand, Open: func() (harness.Work, error) {
				all, err := dialMany(dial, conns)
				if err != nil {
					return harness.Work{}, err
				}
				client := newGatherer(all)
				return harness.Work{Run: asked(callers, client.ask), Close: client.close}, nil
			}},
		},
	}
	if callers == 1 {
		c.Compares += "; and by a caller that leases a Duplex for each request and reads the reply itself"
		c.Subjects = append(c.Subjects, askingOver(dial, conns))
	}
	return c
}

// askingOver is a lone caller that needs no client: it leases a whole connection for each request.
// The pool is one whose read halves are asked for when they are ready, as that of a client is.
func askingOver(dial dialer, conns int) harness.Subject {
	return asking("plex, a Duplex", 1, func() (func(int) error, func() error, error) {
		mux, err := plex.New(context.Background(), plex.WithConnector(plex.DialFunc(dial)),
			plex.WithMinConnections(conns), plex.WithMaxCapacity(conns))
		if err != nil {
			return nil, nil, err
		}
		if _, err := mux.ReadyReader(context.Background(), -1); !errors.Is(err, plex.ErrTimeout) {
			return nil, nil, errors.Join(fmt.Errorf("a connection that is not used is ready: %w", err), mux.Close())
		}
		return func(int) error {
			d, err := mux.Duplex(context.Background(), 0)
			if err != nil {
				return err
			}
			return errors.Join(exchange(d, 0), d.Close())
		}, mux.Close, nil
	})
}

// gatherer is the client written by hand.
type gatherer struct {
	conns   []net.Conn
	readers sync.WaitGroup

	mu       sync.Mutex
	next     uint64
	pending  map[uint64]chan struct{}
	frames   []byte // to be written
	spare    []byte
	flushing bool
	turn     int // of the connections
}

// waits are for those that wait for a reply.
var waits = sync.Pool{New: func() any { return make(chan struct{}, 1) }}

func newGatherer(conns []net.Conn) *gatherer {
	g := &gatherer{conns: conns, pending: make(map[uint64]chan struct{})}
	for _, nc := range conns {
		g.readers.Go(func() { g.receive(bufio.NewReaderSize(nc, chunk)) })
	}
	return g
}

func (g *gatherer) ask() error {
	wait := waits.Get().(chan struct{})
	g.mu.Lock()
	g.next++
	g.pending[g.next] = wait
	f := peer.NewFrame(g.next, 0)
	g.frames = append(g.frames, f[:]...)
	lead := !g.flushing
	g.flushing = true
	g.mu.Unlock()
	if lead {
		g.flush(true)
	}
	<-wait
	waits.Put(wait)
	return nil
}

// flush writes once, and leaves the rest to another goroutine.
func (g *gatherer) flush(once bool) {
	for {
		runtime.Gosched()
		g.mu.Lock()
		if len(g.frames) == 0 {
			g.flushing = false
			g.mu.Unlock()
			return
		}
		frames := g.frames
		g.frames, g.spare = g.spare[:0], nil
		nc := g.conns[g.turn]
		g.turn = (g.turn + 1) % len(g.conns)
		g.mu.Unlock()
		_, _ = nc.Write(frames) // a dead connection ends the process by a deadlock
		g.mu.Lock()
		g.spare = frames
		more := len(g.frames) > 0
		g.flushing = more
		g.mu.Unlock()
		switch {
		case !more:
			return
		case once:
			go g.flush(false)
			return
		}
	}
}

func (g *gatherer) receive(in *bufio.Reader) {
	for {
		var f peer.Frame
		if _, err := io.ReadFull(in, f[:]); err != nil {
			return
		}
		g.mu.Lock()
		wait := g.pending[f.ID()]
		delete(g.pending, f.ID())
		g.mu.Unlock()
		wait <- struct{}{}
	}
}

func (g *gatherer) close() {
	closeAll(g.conns)
	g.readers.Wait()
}
