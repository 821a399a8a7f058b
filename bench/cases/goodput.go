package cases

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/bench/harness"
	"go.atomizer.io/plex/bench/peer"
)

// good is what has arrived.
var good = harness.Metric{Key: "B/s", Title: "goodput", Unit: harness.BytesPerSecond, Higher: true}

// goodput compares plex with itself when nothing fails.
func goodput() *harness.Case {
	const conns = 64
	return &harness.Case{
		Group: GroupHeal,
		Name:  "goodput",
		Title: "10 % of the connections killed each second",
		Compares: fmt.Sprintf("what arrives from %d goroutines that write messages of 1 KiB over %d connections, of which 10 %% are reset each second, with what arrives if none is",
			conns, conns),
		Metrics: []harness.Metric{good, {Key: "killed/s", Title: "killed", Unit: harness.PerSecond}},
		Targets: []harness.Target{harness.AtLeast(0.95, "undisturbed", good.Key)},
		Subjects: []harness.Subject{
			{Name: "plex", Open: func() (harness.Work, error) { return openGoodput(conns, time.Second*10/conns) }},
			{Name: "undisturbed", Open: func() (harness.Work, error) { return openGoodput(conns, 0) }},
		},
		Turn:   1500 * time.Millisecond,
		Rounds: 5,
	}
}

func openGoodput(conns int, killEvery time.Duration) (harness.Work, error) {
	server, mux, err := openServed(conns, nil)
	if err != nil {
		return harness.Work{}, err
	}
	stopReading := keepReading(mux, conns)
	run := func(n int) (harness.Sample, error) {
		stop := killer(server, killEvery)
		received, killed := server.Received(), server.Killed()
		start := time.Now()
		err := parallel(conns, n, func(_, n int) error { return writeMessages(mux, n) })
		took := lastArrival(server, received).Sub(start).Seconds()
		figures := map[string]float64{
			good.Key:   float64(server.Received()-received) / took,
			"killed/s": float64(server.Killed()-killed) / took,
		}
		stop()
		return harness.Sample{Figures: figures}, err
	}
	return harness.Work{Run: run, Close: func() {
		_ = mux.Close() // it returns nil
		stopReading()
		server.Stop()
	}}, nil
}

// lastArrival waits until nothing arrives any more, and returns when it last
// did. Something has to have arrived since it was so much.
func lastArrival(server *peer.Server, received int64) time.Time {
	const quiet = 2 * time.Millisecond
	last := time.Now()
	before := received
	for time.Since(last) < quiet || before == received && time.Since(last) < time.Second {
		time.Sleep(quiet / 20)
		if now := server.Received(); now != before {
			before, last = now, time.Now()
		}
	}
	return last
}

// killer kills a connection every so often, until it is stopped. It never does
// for 0.
func killer(server *peer.Server, every time.Duration) (stop func()) {
	if every == 0 {
		return func() {}
	}
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		clock := time.NewTicker(every)
		defer clock.Stop()
		for {
			select {
			case <-clock.C:
				server.Kill(true)
			case <-done:
				return
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
	}
}

// writeMessages writes n messages. One that could not be written is written
// again.
func writeMessages(mux *plex.Multiplexer, n int) error {
	message := make([]byte, 1<<10)
	for done := 0; done < n; {
		w, err := mux.Writer(context.Background(), 10*time.Second)
		if err != nil {
			return err
		}
		if _, err := w.Write(message); err == nil {
			done++
		}
		if err := w.Close(); err != nil && !errors.Is(err, plex.ErrLeaseClosed) {
			return err
		}
	}
	return nil
}

// keepReading reads from all connections at all times, as a client does that
// awaits replies. It ends with the multiplexer.
func keepReading(mux *plex.Multiplexer, conns int) (wait func()) {
	var wg sync.WaitGroup
	for range conns {
		wg.Go(func() {
			buf := make([]byte, 1<<10)
			for {
				r, err := mux.Reader(context.Background(), 0)
				if err != nil {
					return
				}
				for err == nil {
					_, err = r.Read(buf)
				}
				_ = r.Close() // the error has been seen
			}
		})
	}
	return wg.Wait
}
