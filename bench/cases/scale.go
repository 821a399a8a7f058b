package cases

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/bench/harness"
	"go.atomizer.io/plex/bench/peer"
	"go.atomizer.io/plex/bench/pools"
)

func scaleCases() []*harness.Case {
	return []*harness.Case{burst()}
}

// opened is how many connections a burst has opened.
var opened = harness.Metric{Key: "connections", Title: "connections opened", Unit: harness.Count}

// burst compares how a pool that has one connection takes many callers at once.
func burst() *harness.Case {
	const callers, most = 1_000, 64
	c := &harness.Case{
		Group: GroupScale,
		Name:  "burst",
		Title: fmt.Sprintf("%s callers at once", harness.Thousands(callers)),
		Compares: fmt.Sprintf("%s callers that each hold a connection for 1 ms come at once to a pool of 1 that may grow to %d; plex adds connections for those who have waited for 1 ms, the others at once",
			harness.Thousands(callers), most),
		Metrics: []harness.Metric{
			{Key: harness.TimePerOp, Title: "until all are served", Unit: harness.Nanoseconds},
			waitP50, waitP99, waitMax, opened,
		},
		Ops:    1,
		Rounds: 15,
	}
	for _, kind := range pools.Growing {
		c.Subjects = append(c.Subjects, harness.Subject{Name: kind.Name, Open: func() (harness.Work, error) {
			server, err := peer.NewServer()
			if err != nil {
				return harness.Work{}, err
			}
			return harness.Work{
				Run:   func(n int) (harness.Sample, error) { return bursts(server, kind, n, callers, most) },
				Close: server.Stop,
			}, nil
		}})
	}
	return c
}

func bursts(server *peer.Server, kind pools.Kind, n, callers, most int) (harness.Sample, error) {
	var (
		took  time.Duration
		waits []float64
		dials atomic.Int64
	)
	dial := server.Dialer(nil)
	config := pools.Config{Max: most, Open: 1, Dial: func(ctx context.Context) (net.Conn, error) {
		dials.Add(1)
		return dial(ctx)
	}}
	for range n {
		pool, err := openScaling(kind, config)
		if err != nil {
			return harness.Sample{}, err
		}
		each := make([]float64, callers)
		start := time.Now()
		err = parallel(callers, callers, func(i, _ int) error {
			asked := time.Now()
			return pool.Use(context.Background(), func(net.Conn) {
				each[i] = float64(time.Since(asked))
				time.Sleep(time.Millisecond)
			})
		})
		took += time.Since(start)
		pool.Close()
		if err != nil {
			return harness.Sample{}, err
		}
		waits = append(waits, each...)
	}
	figures := map[string]float64{
		harness.TimePerOp: float64(took) / float64(n),
		opened.Key:        float64(dials.Load()) / float64(n),
	}
	noteWaits(figures, waits)
	return harness.Sample{Figures: figures}, nil
}

// openScaling opens a pool that grows. All but plex do so without being told.
func openScaling(kind pools.Kind, c pools.Config) (pools.Pool, error) {
	if kind.Name != pools.Plex.Name {
		return kind.Open(c)
	}
	mux, err := plex.New(context.Background(),
		plex.WithConnector(plex.DialFunc(c.Dial)),
		plex.WithMinConnections(c.Open),
		plex.WithMaxCapacity(c.Max),
		plex.WithAutoScaling(time.Millisecond),
	)
	if err != nil {
		return nil, err
	}
	return pools.OfPlex(mux), nil
}
