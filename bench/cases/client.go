package cases

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/bench/harness"
	"go.atomizer.io/plex/bench/peer"
	"go.atomizer.io/plex/request"
)

// ownConnection is a connection for each caller.
const ownConnection = "one connection per caller"

// BytesPerRequest is what a request in flight takes.
const BytesPerRequest = "B/request"

func clientCases(p *peer.Process) []*harness.Case {
	cases := make([]*harness.Case, 0, len(RequestTimes)+len(gatheringCallers)+1)
	for _, d := range RequestTimes {
		cases = append(cases, client(p, d))
	}
	for _, callers := range gatheringCallers {
		cases = append(cases, gathering(p, callers))
	}
	return append(cases, inFlight(p))
}

// client compares package request with a connection for each caller.
func client(p *peer.Process, service time.Duration) *harness.Case {
	const callers, conns = 1_000, 16
	dial := p.Dialer(peer.Echo, peer.TCP)
	return &harness.Case{
		Group: GroupMessage,
		Name:  fmt.Sprintf("client/%v", service),
		Title: plural(callers, "caller") + ", " + Serving(service),
		Compares: fmt.Sprintf("%s that each send a request of %d bytes and wait for the reply, over package request with %d connections, or over %s connections, one for each; %s",
			plural(callers, "goroutine"), peer.FrameSize, conns, harness.Thousands(callers), Serving(service)),
		Metrics: []harness.Metric{requests, replyP50, replyP99, harness.Allocs},
		Turn:    300 * time.Millisecond,
		Rounds:  7,
		Subjects: []harness.Subject{
			{Name: "plex", Open: func() (harness.Work, error) {
				mux, client, err := newClient(dial, conns)
				if err != nil {
					return harness.Work{}, err
				}
				return harness.Work{
					Run: func(n int) (harness.Sample, error) {
						return ask(callers, n, func(int) error {
							_, err := client.Do(context.Background(), service)
							return err
						})
					},
					Close: func() { _, _ = client.Close(), mux.Close() }, // both return nil
				}, nil
			}},
			{Name: ownConnection, Open: func() (harness.Work, error) {
				all, err := dialMany(dial, callers)
				if err != nil {
					return harness.Work{}, err
				}
				return harness.Work{
					Run: func(n int) (harness.Sample, error) {
						return ask(callers, n, func(i int) error { return exchange(all[i], service) })
					},
					Close: func() { closeAll(all) },
				}, nil
			}},
		},
	}
}

// exchange sends a request and reads the reply.
func exchange(nc net.Conn, service time.Duration) error {
	f := peer.NewFrame(0, service)
	if _, err := nc.Write(f[:]); err != nil {
		return err
	}
	_, err := io.ReadFull(nc, f[:])
	return err
}

// inFlight shows what a request takes while its reply is awaited, beside the
// goroutine that waits.
func inFlight(p *peer.Process) *harness.Case {
	const conns, waiting = 16, 10_000
	return &harness.Case{
		Group: GroupMessage,
		Name:  "client/memory",
		Title: harness.Thousands(waiting) + " requests in flight",
		Compares: fmt.Sprintf("memory of %s requests whose replies are awaited over %d connections, the goroutines that wait included; and of as many goroutines that wait for nothing",
			harness.Thousands(waiting), conns),
		Metrics: []harness.Metric{{Key: BytesPerRequest, Title: "memory for each", Unit: harness.Size}},
		Ops:     1,
		Rounds:  5,
		Subjects: []harness.Subject{
			idleSubject("plex", func() (harness.Sample, error) {
				mux, client, err := newClient(p.Dialer(peer.Echo, peer.TCP), conns)
				if err != nil {
					return harness.Sample{}, err
				}
				return waiters(waiting, func(ctx context.Context) {
					_, _ = client.Do(ctx, time.Hour) // it is given up at the end
				}, func() bool { return client.Stats().Sent == waiting }, func() { _, _ = client.Close(), mux.Close() })
			}),
			idleSubject("goroutine", func() (harness.Sample, error) {
				return waiters(waiting, func(ctx context.Context) { <-ctx.Done() }, func() bool { return true }, func() {})
			}),
		},
	}
}

// waiters measures what n goroutines in wait take, once ready says that all
// are.
func waiters(n int, wait func(context.Context), ready func() bool, end func()) (harness.Sample, error) {
	defer end()
	before := settle(n)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() { wait(ctx) })
	}
	for deadline := time.Now().Add(30 * time.Second); !ready(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return harness.Sample{}, context.DeadlineExceeded
		}
	}
	now := measure()
	cancel()
	wg.Wait()
	return harness.Sample{Figures: map[string]float64{
		BytesPerRequest: max(0, float64(now.bytes)-float64(before.bytes)) / float64(n),
	}}, nil
}

func newClient(dial dialer, conns int, options ...request.Option) (*plex.Multiplexer, *request.Client[time.Duration, struct{}], error) {
	mux, err := plex.New(context.Background(), plex.WithConnector(plex.DialFunc(dial)), plex.WithMinConnections(conns), plex.WithMaxCapacity(conns))
	if err != nil {
		return nil, nil, err
	}
	client, err := request.New(mux, frames{}, options...)
	if err != nil {
		_ = mux.Close() // it returns nil
		return nil, nil, err
	}
	return mux, client, nil
}

// frames is the protocol of peer.Echo: a request says how long its reply shall
// take.
type frames struct{}

func (frames) Append(dst []byte, id uint64, delay time.Duration) ([]byte, error) {
	f := peer.NewFrame(id, delay)
	return append(dst, f[:]...), nil
}

func (frames) Split(data []byte, atEOF bool) (int, []byte, error) {
	switch {
	case len(data) >= peer.FrameSize:
		return peer.FrameSize, data[:peer.FrameSize], nil
	case atEOF && len(data) > 0:
		return 0, nil, io.ErrUnexpectedEOF
	}
	return 0, nil, nil
}

func (frames) Parse(message []byte) (uint64, struct{}, error) {
	return binary.LittleEndian.Uint64(message), struct{}{}, nil
}

// ParseBorrowed makes frames a request.Borrower.
func (f frames) ParseBorrowed(message []byte) (uint64, struct{}, error) { return f.Parse(message) }
