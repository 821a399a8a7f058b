package cases

// Requests that are begun at a fixed rate, whether or not those before have been answered.

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex/bench/harness"
	"go.atomizer.io/plex/bench/peer"
	"go.atomizer.io/plex/request"
)

// The figures of an open loop, beside the replies'.
var (
	begun = harness.Metric{Key: "begun/s", Title: "requests begun", Unit: harness.PerSecond}
	late  = harness.Metric{Key: "p99-late-ns", Title: "begun late, 99 %", Unit: harness.Nanoseconds}
)

// oneWriteEach is package request where it gathers nothing.
const oneWriteEach = "plex, a Write for each"

const (
	openCallers = 128 // in the closed loop that says what there is room for
	openShare   = 0.5 // of that is asked for
)

func openLoopCases(p *peer.Process) []*harness.Case {
	return []*harness.Case{
		openFrames(p, false), openFrames(p, true),
		openRedis(false), openRedis(true),
	}
}

// openFrames compares package request with what gathers by hand, and with itself where it does not
// gather.
func openFrames(p *peer.Process, busy bool) *harness.Case {
	const conns = 16
	dial := p.Dialer(peer.Echo, peer.TCP)
	ours := func(options ...request.Option) openRequests {
		return func() (func(int) error, func() error, error) {
			mux, client, err := newClient(dial, conns, options...)
			if err != nil {
				return nil, nil, err
			}
			one := func(int) error {
				_, err := client.Do(context.Background(), 0)
				return err
			}
			return one, func() error { return errors.Join(client.Close(), mux.Close()) }, nil
		}
	}
	c := openLoop("open/request", "package request", fmt.Sprintf("requests of %d bytes over %d connections, by package request as it is and with WithWriteBuffer(0), and by hand", peer.FrameSize, conns), busy,
		fixedRate{"plex", ours()},
		fixedRate{byHand, func() (func(int) error, func() error, error) {
			all, err := dialMany(dial, conns)
			if err != nil {
				return nil, nil, err
			}
			client := newGatherer(all)
			return func(int) error { return client.ask() }, func() error { client.close(); return nil }, nil
		}},
		fixedRate{oneWriteEach, ours(request.WithWriteBuffer(0))},
	)
	if busy {
		c.Targets = []harness.Target{
			harness.AtMost(1, oneWriteEach, replyP50.Key), harness.AtMost(1, oneWriteEach, replyP99.Key),
		}
	}
	return c
}

// openRedis compares ordered replies with rueidis.
func openRedis(busy bool) *harness.Case {
	server := &shared{program: redisServer, ready: fillRedis}
	var subjects []fixedRate
	for _, client := range redisClients() {
		if client.name == "plex" || client.name == rueidisName || client.name == rueidisOne {
			subjects = append(subjects, fixedRate{client.name, client.opener(server)})
		}
	}
	return redisServer.needs(openLoop("open/redis", "Redis GET",
		fmt.Sprintf("GETs from redis-server over %d connections, or over one", redisConnections), busy, subjects...))
}

// openRequests makes a client. one makes a request and waits for the reply.
type openRequests func() (one func(caller int) error, shut func() error, err error)

// fixedRate is a subject of an open loop.
type fixedRate struct {
	name string
	open openRequests
}

// openLoop is a case in which all subjects get requests at the same rate: a part of what the slowest
// of them answers in a closed loop, which is measured before the first round.
func openLoop(name, title, what string, busy bool, subjects ...fixedRate) *harness.Case {
	c := &harness.Case{
		Group: GroupOpen, Name: name, Title: title,
		Metrics: []harness.Metric{replyP50, replyP99, begun, late},
		Ops:     1, // a turn
		Rounds:  7,
		// The goroutines that keep the processors busy would fill it.
		NoProfile: true,
	}
	turn, beside := 300*time.Millisecond, "nothing else to do"
	if busy {
		turn, beside = 600*time.Millisecond, "a goroutine for each processor that computes without end"
		c.Name, c.Title, c.Rounds = c.Name+"/busy", c.Title+", all processors busy", 5
	}
	c.Compares = fmt.Sprintf("%s, with %s; each is begun when it is due, at %g of the rate that %d callers of the slowest subject reach in turn under the same conditions, and its time counts from then",
		what, beside, openShare, openCallers)
	load := new(pacing)
	for _, s := range subjects {
		c.Subjects = append(c.Subjects, harness.Subject{Name: s.name, Open: func() (harness.Work, error) {
			one, shut, err := s.open()
			if err != nil {
				return harness.Work{}, err
			}
			if err := load.probe(one, busy, turn/2); err != nil {
				return harness.Work{}, errors.Join(err, shut())
			}
			return harness.Work{
				Run: func(turns int) (harness.Sample, error) {
					defer keepBusy(busy)()
					perSecond := load.rate()
					return beginAll(max(1, int(float64(turns)*turn.Seconds()*perSecond)), perSecond, one)
				},
				Close: func() { _ = shut() }, // it is not used any more, whatever it says
			}, nil
		}})
	}
	return c
}

// pacing is at which rate requests are begun. All subjects are probed before the first turn.
type pacing struct {
	mu      sync.Mutex
	slowest float64 // requests in a second
}

// probe measures what a subject answers in a closed loop. The better one of two tries counts, since
// the machine may have been busy.
func (p *pacing) probe(one func(int) error, busy bool, d time.Duration) error {
	defer keepBusy(busy)()
	best := 0.0
	for range 2 {
		reached, err := closedLoop(openCallers, d, one)
		if err != nil {
			return err
		}
		best = max(best, reached)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.slowest == 0 || best < p.slowest {
		p.slowest = best
	}
	return nil
}

func (p *pacing) rate() float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(1, openShare*p.slowest)
}

// closedLoop has callers make one request after the other for so long, and returns how many were
// answered in a second.
func closedLoop(callers int, d time.Duration, one func(caller int) error) (perSecond float64, err error) {
	var (
		over     atomic.Bool
		answered atomic.Int64
	)
	start := time.Now()
	timer := time.AfterFunc(d, func() { over.Store(true) })
	defer timer.Stop()
	err = parallel(callers, callers, func(i, _ int) error {
		for !over.Load() {
			if err := one(i); err != nil {
				return err
			}
			answered.Add(1)
		}
		return nil
	})
	return float64(answered.Load()) / time.Since(start).Seconds(), err
}

// beginAll begins n requests at a rate, each in a goroutine of its own, and waits for all replies.
// A request's time counts from when it was due: a client that holds up those that come later gets
// no better figures for it. What is begun late, because the goroutine that begins them did not run
// in time, is late for every subject, and is a figure of its own.
func beginAll(n int, perSecond float64, one func(caller int) error) (harness.Sample, error) {
	var (
		wg     sync.WaitGroup
		once   sync.Once
		failed error
		times  = make([]float64, n)
		lates  = make([]float64, n)
		start  = time.Now()
	)
	for i := range n {
		due := start.Add(time.Duration(float64(i) / perSecond * float64(time.Second)))
		now := time.Now()
		for now.Before(due) {
			time.Sleep(due.Sub(now))
			now = time.Now()
		}
		lates[i] = float64(now.Sub(due))
		wg.Go(func() {
			if err := one(i); err != nil {
				once.Do(func() { failed = err })
			}
			times[i] = float64(time.Since(due))
		})
	}
	took := time.Since(start)
	wg.Wait()
	if failed != nil {
		return harness.Sample{}, failed
	}
	slices.Sort(times)
	slices.Sort(lates)
	return harness.Sample{Figures: map[string]float64{
		replyP50.Key: harness.Quantile(times, 0.5),
		replyP99.Key: harness.Quantile(times, 0.99),
		begun.Key:    float64(n) / took.Seconds(),
		late.Key:     harness.Quantile(lates, 0.99),
	}}, nil
}

// keepBusy starts goroutines that compute, one for each processor, and returns what ends them.
func keepBusy(busy bool) (end func()) {
	if !busy {
		return func() {}
	}
	var (
		over atomic.Bool
		wg   sync.WaitGroup
	)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for !over.Load() { // which is work enough
			}
		})
	}
	return func() {
		over.Store(true)
		wg.Wait()
	}
}
