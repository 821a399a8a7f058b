package request_test

// The cost of a request. Compare the ratios, which are measured in one run, not the figures of
// different runs.
//
// go test -run '^$' -bench . -benchmem ./request

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/poll"
	"go.atomizer.io/plex/request"
)

// numbers is a protocol without length prefixes: requests and replies are eight bytes of identifier
// and eight more.
type numbers struct{}

const numberSize = 16

func (numbers) Append(dst []byte, id, n uint64) ([]byte, error) {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(dst, id), n), nil
}

func (numbers) Split(data []byte, _ bool) (int, []byte, error) {
	if len(data) < numberSize {
		return 0, nil, nil
	}

	return numberSize, data[:numberSize], nil
}

func (numbers) Parse(m []byte) (id, n uint64, err error) {
	return binary.BigEndian.Uint64(m), binary.BigEndian.Uint64(m[8:]), nil
}

// ParseBorrowed makes numbers a request.Borrower.
func (p numbers) ParseBorrowed(m []byte) (id, n uint64, err error) { return p.Parse(m) }

// numberServer sends back what it gets, and flushes when it has nothing more to read. With mute it
// only reads.
func numberServer(b testing.TB, mute bool) (address string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	var wg sync.WaitGroup

	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}

			wg.Go(func() {
				defer conn.Close()

				in, out := bufio.NewReader(conn), bufio.NewWriter(conn)
				m := make([]byte, numberSize)

				for {
					if _, err := io.ReadFull(in, m); err != nil {
						return
					}

					if mute {
						continue
					}

					_, _ = out.Write(m)
					if in.Buffered() < numberSize && out.Flush() != nil {
						return
					}
				}
			})
		}
	})
	b.Cleanup(func() {
		_ = ln.Close()
		wg.Wait()
	})

	return ln.Addr().String()
}

// numberClient makes a client with so many connections.
func numberClient(b testing.TB, address string, conns int, options ...request.Option) *request.Client[uint64, uint64] {
	mux, err := plex.New(context.Background(), plex.WithConnector(plex.Dial("tcp", address)),
		plex.WithMinConnections(conns), plex.WithMaxCapacity(conns))
	require.NoError(b, err)
	c, err := request.New(mux, numbers{}, options...)
	require.NoError(b, err)
	b.Cleanup(func() {
		require.NoError(b, c.Close())
		require.NoError(b, mux.Close())
	})

	return c
}

// share has callers make n requests together, and returns how long that took. It passes the
// caller's number to ask.
func share(b *testing.B, callers, n int, ask func(caller int, n uint64) (uint64, error)) time.Duration {
	var wg sync.WaitGroup
	var next atomic.Int64
	start := time.Now()

	for caller := range callers {
		wg.Go(func() {
			for {
				i := next.Add(1)
				if i > int64(n) {
					return
				}

				if reply, err := ask(caller, uint64(i)); err != nil || reply != uint64(i) {
					b.Errorf("asked %d, got %d, %v", i, reply, err)

					return
				}
			}
		})
	}

	wg.Wait()

	return time.Since(start)
}

// BenchmarkCallers compares 1,000 callers over 16 connections with 1,000 callers that have a
// connection each, which they write to and read from directly. Both sides take turns. The ratio is
// the median of the turns' ratios.
func BenchmarkCallers(b *testing.B) {
	const callers, conns, turn = 1_000, 16, 20_000

	for _, test := range []struct {
		name string
		ctx  func() (context.Context, context.CancelFunc)
	}{
		{"ctx=background", func() (context.Context, context.CancelFunc) { return context.Background(), func() {} }},
		{"ctx=shared", func() (context.Context, context.CancelFunc) { return context.WithCancel(context.Background()) }},
	} {
		b.Run(test.name, func(b *testing.B) {
			address := numberServer(b, false)
			c := numberClient(b, address, conns)
			ctx, cancel := test.ctx()
			defer cancel()

			raw := make([]net.Conn, callers)
			for i := range raw {
				var err error
				raw[i], err = net.Dial("tcp", address)
				require.NoError(b, err)
				defer raw[i].Close()
			}

			plexed := func(_ int, n uint64) (uint64, error) { return c.Do(ctx, n) }
			lockStep := func(caller int, n uint64) (uint64, error) {
				var m [numberSize]byte
				binary.BigEndian.PutUint64(m[8:], n)
				if _, err := raw[caller].Write(m[:]); err != nil {
					return 0, err
				}
				_, err := io.ReadFull(raw[caller], m[:])

				return binary.BigEndian.Uint64(m[8:]), err
			}

			share(b, callers, turn, plexed)
			share(b, callers, turn, lockStep)

			var ratios []float64
			var times [2]time.Duration

			b.ResetTimer()

			n := 0
			for ; n < b.N; n += turn {
				p, r := share(b, callers, turn, plexed), share(b, callers, turn, lockStep)
				times[0] += p
				times[1] += r
				ratios = append(ratios, float64(r)/float64(p))
			}

			slices.Sort(ratios)
			b.ReportMetric(float64(n)/times[0].Seconds(), "requests/s")
			b.ReportMetric(float64(n)/times[1].Seconds(), "raw-requests/s")
			b.ReportMetric(ratios[len(ratios)/2], "requests/raw")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkDo measures one caller, and then many, with a context that can end.
func BenchmarkDo(b *testing.B) {
	for _, callers := range []int{1, 100} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			c := numberClient(b, numberServer(b, false), 4)
			ctx := b.Context()
			ask := func(_ int, n uint64) (uint64, error) { return c.Do(ctx, n) }
			share(b, callers, 1_000, ask)
			b.ReportAllocs()
			b.ResetTimer()
			share(b, callers, b.N, ask)
		})
	}
}

// BenchmarkMemory measures the memory that a request in flight takes beyond the goroutine that
// waits for it: how much more a goroutine blocked in Do takes than one blocked in a channel.
func BenchmarkMemory(b *testing.B) {
	const inFlight = 20_000

	for range b.N {
		var wg sync.WaitGroup
		block := func() used {
			blocked := make(chan struct{})
			defer wg.Wait()
			defer close(blocked)

			return memory(func() {
				for range inFlight {
					wg.Go(func() { <-blocked })
				}
				time.Sleep(100 * time.Millisecond)
			})
		}
		block() // from now on the runtime has memory for as many ended goroutines
		empty := block()

		c := numberClient(b, numberServer(b, true), 16)
		full := memory(func() {
			for i := range inFlight {
				wg.Go(func() { _, _ = c.Do(context.Background(), uint64(i)) })
			}
			for c.Stats().Sent < inFlight {
				time.Sleep(10 * time.Millisecond)
			}
		})
		require.NoError(b, c.Close())
		wg.Wait()
		b.ReportMetric(float64(full.heap-empty.heap)/inFlight, "heap-B/request")
		b.ReportMetric(float64(full.stack-empty.stack)/inFlight, "stack-B/request")
	}
	b.ReportMetric(0, "ns/op")
}

type used struct{ heap, stack int64 }

// memory returns how much more memory is in use after f than before.
func memory(f func()) used {
	now := func() used {
		var s runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&s)

		return used{int64(s.HeapAlloc), int64(s.StackInuse)}
	}
	before := now()
	f()
	after := now()

	return used{after.heap - before.heap, after.stack - before.stack}
}

// A request allocates nothing but what the protocol does. What the runtime allocates now and then
// does not count.
func TestARequestAllocatesNothing(t *testing.T) {
	c := numberClient(t, numberServer(t, false), 2)
	ctx := t.Context()
	ask := func() {
		if _, err := c.Do(ctx, 1); err != nil {
			t.Error(err)
		}
	}
	for range 1000 {
		ask()
	}
	least := 10.0
	for range 5 {
		least = min(least, testing.AllocsPerRun(1000, ask))
	}
	if !raceEnabled {
		most := 0.0
		if poll.Parks {
			most = 2 // a goroutine
		}
		require.LessOrEqual(t, least, most)
	}
}
