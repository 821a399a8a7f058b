package cases

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/bench/harness"
	"go.atomizer.io/plex/bench/peer"
	"go.atomizer.io/plex/bench/pools"
)

// The figures of requests.
var (
	requests = harness.Metric{Key: "requests/s", Title: "requests", Unit: harness.PerSecond, Higher: true}
	replyP50 = harness.Metric{Key: "p50-reply-ns", Title: "reply, median", Unit: harness.Nanoseconds}
	replyP99 = harness.Metric{Key: "p99-reply-ns", Title: "reply, 99 %", Unit: harness.Nanoseconds}
)

// RequestName is the name of the case with a server that takes so long.
func RequestName(service time.Duration) string { return fmt.Sprintf("request/%v", service) }

// RequestTimes are how long the server takes for a reply.
var RequestTimes = []time.Duration{0, 5 * time.Millisecond}

// Serving says how long the server takes.
func Serving(d time.Duration) string {
	if d == 0 {
		return "the server answers at once"
	}
	return "the server takes " + harness.Nanoseconds.Format(float64(d))
}

func requestCases(p *peer.Process) []*harness.Case {
	var cases []*harness.Case
	for _, d := range RequestTimes {
		cases = append(cases, requesting(p, d))
	}
	return cases
}

// requesting compares a request and its reply when there are many more callers
// than connections. Over plex the requests of many callers are on their way
// over one connection at the same time, and a reply finds its caller by what is
// in it. The other pools lend a connection out until the reply has come.
func requesting(p *peer.Process, service time.Duration) *harness.Case {
	const callers, conns = 1_000, 64
	c := &harness.Case{
		Group: GroupRequest,
		Name:  RequestName(service),
		Title: plural(callers, "goroutine") + ", " + Serving(service),
		Compares: fmt.Sprintf("%s that each send a request of %d bytes and wait for a reply, over %d connections, and %s",
			plural(callers, "goroutine"), peer.FrameSize, conns, Serving(service)),
		Metrics: []harness.Metric{requests, replyP50, replyP99, harness.Allocs},
		Turn:    250 * time.Millisecond,
		Rounds:  7,
	}
	dial := p.Dialer(peer.Echo, peer.TCP)
	c.Subjects = append(c.Subjects, harness.Subject{Name: "plex", Open: func() (harness.Work, error) {
		client, err := newMultiplexed(dial, conns, callers)
		if err != nil {
			return harness.Work{}, err
		}
		return harness.Work{
			Run: func(n int) (harness.Sample, error) {
				return ask(callers, n, func(caller int) error { return client.ask(caller, service) })
			},
			Close: client.close,
		}, nil
	}})
	c.Subjects = append(c.Subjects, ofPools(pools.All[1:], pools.Config{Max: conns, Open: conns, Dial: dial},
		func(p pools.Pool, n int) (harness.Sample, error) {
			return ask(callers, n, func(int) error { return askAlone(p, service) })
		})...)
	c.Subjects = append(c.Subjects, harness.Subject{Name: "net/http", Open: func() (harness.Work, error) {
		t := pools.NewHTTP(pools.Config{Max: conns, Dial: p.Dialer(peer.HTTP, peer.TCP)})
		url := fmt.Sprintf("http://%s/echo?delay=%d", p.Address(peer.HTTP, peer.TCP), service)
		return harness.Work{
			Run: func(n int) (harness.Sample, error) {
				return ask(callers, n, func(int) error { return peer.Get(context.Background(), t, url) })
			},
			Close: t.CloseIdleConnections,
		}, nil
	}})
	return c
}

// ask has n requests made, by whichever caller is free.
func ask(callers, n int, one func(caller int) error) (harness.Sample, error) {
	var (
		left  atomic.Int64
		times = make([][]float64, callers)
	)
	left.Store(int64(n))
	start := time.Now()
	err := parallel(callers, callers, func(i, _ int) error {
		for left.Add(-1) >= 0 {
			asked := time.Now()
			if err := one(i); err != nil {
				return err
			}
			times[i] = append(times[i], float64(time.Since(asked)))
		}
		return nil
	})
	took := time.Since(start)
	if err != nil {
		return harness.Sample{}, err
	}
	all := slices.Concat(times...)
	slices.Sort(all)
	return harness.Sample{Figures: map[string]float64{
		requests.Key: float64(n) / took.Seconds(),
		replyP50.Key: harness.Quantile(all, 0.5),
		replyP99.Key: harness.Quantile(all, 0.99),
	}}, nil
}

// askAlone has a connection for itself until the reply has come.
func askAlone(p pools.Pool, service time.Duration) error {
	f := peer.NewFrame(0, service)
	var failed error
	err := p.Use(context.Background(), func(nc net.Conn) {
		if _, failed = nc.Write(f[:]); failed == nil {
			_, failed = io.ReadFull(nc, f[:])
		}
	})
	return errors.Join(err, failed)
}

// multiplexed is a client on plex. Each connection is read by one goroutine,
// which holds a Reader for as long as it lives; a request is written in a lease
// of its own.
type multiplexed struct {
	mux     *plex.Multiplexer
	replies []chan struct{} // by caller, who waits for one at a time
	readers sync.WaitGroup
	once    sync.Once
	broken  chan struct{} // closed when a connection ends
}

func newMultiplexed(dial dialer, conns, callers int) (*multiplexed, error) {
	mux, err := plex.New(context.Background(), plex.WithConnector(plex.DialFunc(dial)), plex.WithMinConnections(conns), plex.WithMaxCapacity(conns))
	if err != nil {
		return nil, err
	}
	c := &multiplexed{mux: mux, replies: make([]chan struct{}, callers), broken: make(chan struct{})}
	for i := range c.replies {
		c.replies[i] = make(chan struct{}, 1)
	}
	for range conns {
		r, err := mux.Reader(context.Background(), 0)
		if err != nil {
			c.close()
			return nil, err
		}
		c.readers.Go(func() { c.receive(r) })
	}
	return c, nil
}

func (c *multiplexed) receive(r plex.Reader) {
	in := bufio.NewReader(r)
	for {
		var f peer.Frame
		if _, err := io.ReadFull(in, f[:]); err != nil {
			c.once.Do(func() { close(c.broken) })
			return
		}
		c.replies[f.ID()] <- struct{}{}
	}
}

func (c *multiplexed) ask(caller int, service time.Duration) error {
	w, err := c.mux.Writer(context.Background(), 0)
	if err != nil {
		return err
	}
	f := peer.NewFrame(uint64(caller), service)
	_, err = w.Write(f[:])
	if err := errors.Join(err, w.Close()); err != nil {
		return err
	}
	select {
	case <-c.replies[caller]:
		return nil
	case <-c.broken:
		return io.ErrUnexpectedEOF
	}
}

func (c *multiplexed) close() {
	_ = c.mux.Close() // it returns nil
	c.readers.Wait()
}
