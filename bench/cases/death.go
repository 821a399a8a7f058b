package cases

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/bench/harness"
	"go.atomizer.io/plex/bench/peer"
	"go.atomizer.io/plex/bench/pools"
)

// Seen and Replaced are the series of an idle death, in nanoseconds.
const (
	Seen     = "seen"
	Replaced = "replaced"
)

// DeathName is the name of the case for a reset, or for the ordinary end.
func DeathName(reset bool) string {
	if reset {
		return "death/rst"
	}
	return "death/fin"
}

// idleDeath measures how soon the death of an idle connection is seen, and how
// soon there is another in its place. The pools that look at a connection only
// when they lend it out have no figure here: they never see it.
func idleDeath(reset bool) *harness.Case {
	const conns = 64
	how := map[bool]string{false: "closed", true: "reset"}[reset]
	return &harness.Case{
		Group: GroupHeal,
		Name:  DeathName(reset),
		Title: "an idle connection is " + how + " by the peer",
		Compares: fmt.Sprintf("from when the peer has %s one of %d idle connections until it is closed on this side, and until another is there",
			how, conns),
		Metrics: []harness.Metric{
			quantile(Seen, "seen, median", 0.5), quantile(Seen, "seen, 99 %", 0.99),
			quantile(Replaced, "replaced, median", 0.5), quantile(Replaced, "replaced, 99 %", 0.99),
		},
		Targets: []harness.Target{
			harness.Below(1e6, quantile(Seen, "", 0.99).Key),
			harness.Below(3e6, quantile(Replaced, "", 0.99).Key),
		},
		Subjects: []harness.Subject{
			{Name: "plex", Open: func() (harness.Work, error) { return openDeaths(conns, reset) }},
			{Name: "net/http", Open: func() (harness.Work, error) { return openDeathsHTTP(conns, reset) }},
		},
		Ops:    500,
		Rounds: 9,
	}
}

func quantile(series, title string, q float64) harness.Metric {
	return harness.Metric{Key: fmt.Sprintf("p%02.0f-%s-ns", q*100, series), Title: title, Unit: harness.Nanoseconds}
}

// deathSample makes a sample of the series.
func deathSample(series map[string][]float64) harness.Sample {
	figures := make(map[string]float64)
	for name, values := range series {
		sorted := slices.Sorted(slices.Values(values))
		for _, q := range []float64{0.5, 0.99} {
			figures[quantile(name, "", q).Key] = harness.Quantile(sorted, q)
		}
	}
	return harness.Sample{Figures: figures, Series: series}
}

// deathWatch takes notes of when connections are closed on this side.
type deathWatch chan death

type death struct {
	client string
	at     time.Time
}

func newDeathWatch() deathWatch { return make(deathWatch, 1<<10) }

func (w deathWatch) closed(client string) { w <- death{client, time.Now()} }

var errUnseen = errors.New("the death of an idle connection was not seen within 10 s")

// of waits for the death of a client.
func (w deathWatch) of(client string) (time.Time, error) {
	late := time.NewTimer(10 * time.Second)
	defer late.Stop()
	for {
		select {
		case d := <-w:
			if d.client == client {
				return d.at, nil
			}
		case <-late.C:
			return time.Time{}, errUnseen
		}
	}
}

// between is the pause between two deaths, in which the process falls asleep as
// one with nothing to do would.
const between = 500 * time.Microsecond

func openDeaths(conns int, reset bool) (harness.Work, error) {
	watch := newDeathWatch()
	healed := make(healings, 1<<10)
	server, mux, err := openServed(conns, watch.closed, plex.WithLogger(slog.New(healed)))
	if err != nil {
		return harness.Work{}, err
	}
	run := func(n int) (harness.Sample, error) {
		series := map[string][]float64{Seen: nil, Replaced: nil}
		for range n {
			time.Sleep(between)
			client, killed := server.Kill(reset)
			seen, err := watch.of(client)
			if err != nil {
				return harness.Sample{}, err
			}
			replaced, err := healed.next()
			if err != nil {
				return harness.Sample{}, err
			}
			series[Seen] = append(series[Seen], float64(seen.Sub(killed)))
			series[Replaced] = append(series[Replaced], float64(replaced.Sub(killed)))
			if err := greetReplacement(mux, conns); err != nil {
				return harness.Sample{}, err
			}
		}
		return deathSample(series), nil
	}
	return harness.Work{Run: run, Close: func() {
		_ = mux.Close() // it returns nil
		server.Stop()
	}}, nil
}

// greetReplacement reads the greeting of the latest connection. It is the last
// in the queue, so the others take a turn first.
func greetReplacement(mux *plex.Multiplexer, conns int) error {
	for i := range conns {
		r, err := mux.Reader(context.Background(), time.Minute)
		if err != nil {
			return err
		}
		if i == conns-1 {
			err = readGreeting(r)
		}
		if err := errors.Join(err, r.Close()); err != nil {
			return err
		}
	}
	return nil
}

// healings is a log handler that takes notes of when connections are healed,
// which plex logs when the new one is in service.
type healings chan time.Time

func (h healings) Enabled(context.Context, slog.Level) bool { return true }
func (h healings) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h healings) WithGroup(string) slog.Handler            { return h }
func (h healings) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "plex: connection healed" {
		h <- time.Now()
	}
	return nil
}

func (h healings) next() (time.Time, error) {
	late := time.NewTimer(10 * time.Second)
	defer late.Stop()
	select {
	case at := <-h:
		return at, nil
	case <-late.C:
		return time.Time{}, errors.New("no connection was healed within 10 s")
	}
}

// openDeathsHTTP does the same with the transport of net/http, which has a
// goroutine that reads from each idle connection. It does not replace any.
func openDeathsHTTP(conns int, reset bool) (harness.Work, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return harness.Work{}, err
	}
	var (
		mu     sync.Mutex
		idle   []net.Conn
		watch  = newDeathWatch()
		addr   = l.Addr().String()
		server = &http.Server{
			Handler: peer.NewHandler(),
			ConnState: func(nc net.Conn, state http.ConnState) {
				if state == http.StateIdle {
					mu.Lock()
					defer mu.Unlock()
					idle = append(idle, nc)
				}
			},
		}
		client = pools.NewHTTP(pools.Config{Max: conns, Dial: func(ctx context.Context) (net.Conn, error) {
			return peer.DialObserved(ctx, addr, watch.closed)
		}})
	)
	go func() { _ = server.Serve(l) }()
	victim := func() net.Conn { // nil if none is idle
		mu.Lock()
		defer mu.Unlock()
		if len(idle) == 0 {
			return nil
		}
		i := rand.IntN(len(idle))
		nc := idle[i]
		idle = slices.Delete(idle, i, i+1)
		return nc
	}
	run := func(n int) (harness.Sample, error) {
		series := map[string][]float64{Seen: nil}
		for range n {
			nc := victim()
			if nc == nil {
				if err := peer.Together(context.Background(), client, addr, conns); err != nil {
					return harness.Sample{}, err
				}
				for nc == nil {
					time.Sleep(between)
					nc = victim()
				}
			}
			time.Sleep(between)
			if reset {
				_ = nc.(*net.TCPConn).SetLinger(0) // fails only if it is dead already
			}
			killed := time.Now()
			_ = nc.Close()
			seen, err := watch.of(nc.RemoteAddr().String())
			if err != nil {
				return harness.Sample{}, err
			}
			series[Seen] = append(series[Seen], float64(seen.Sub(killed)))
		}
		return deathSample(series), nil
	}
	return harness.Work{Run: run, Close: func() {
		client.CloseIdleConnections()
		_ = server.Close() // the listener's error is of no interest
	}}, nil
}
