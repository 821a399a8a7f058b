package plex_test

// Few goroutines serve many connections, which the kernel makes possible.

import (
	"context"
	"encoding/binary"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
)

// crowdOf makes n TCP connections, their peers in the same order.
func crowdOf(t testing.TB, n int) (clients, peers []net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close() //nolint:errcheck // nobody dials any more
	for range n {
		client, err := net.Dial("tcp", ln.Addr().String())
		require.NoError(t, err)
		server, err := ln.Accept()
		require.NoError(t, err)
		clients, peers = append(clients, client), append(peers, server)
	}
	t.Cleanup(func() {
		for _, p := range peers {
			_ = p.(*net.TCPConn).SetLinger(0) // so many ports are soon free again
			_ = p.Close()
		}
	})
	return clients, peers
}

// serveCrowd has four goroutines read what n connections bring, a numbered word for each in each round, and checks that
// each came once, over the right connection.
func serveCrowd(t *testing.T, n, rounds int) {
	l := newLedger(t)
	clients, peers := crowdOf(t, n)
	m := l.mux(plex.WithConnections(clients...))
	attend(t, m)
	runtime.GC()
	before := runtime.NumGoroutine()

	number := make(map[string]int, n)
	for i, c := range clients {
		number[c.LocalAddr().String()] = i
	}
	came := make([]atomic.Int64, n)
	var words atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				r, err := m.ReadyReader(ctx, 0)
				if err != nil {
					return
				}
				var b [8]byte
				_ = r.SetReadDeadline(time.Now().Add(patience))
				if _, err := r.Read(b[:]); err != nil {
					t.Errorf("the first Read on %v: %v", r.LocalAddr(), err)
				}
				i := number[r.LocalAddr().String()]
				if want := uint64(i)<<32 | uint64(came[i].Add(1)); binary.BigEndian.Uint64(b[:]) != want {
					t.Errorf("connection %d: % x, want %016x", i, b, want)
				}
				if err := r.Close(); err != nil {
					t.Error(err)
				}
				words.Add(1)
			}
		})
	}
	eventually(t, func() bool { return m.Stats().WaitingReady == 4 }, "all four wait")
	most := 0
	for round := 1; round <= rounds; round++ {
		for i, p := range peers {
			var b [8]byte
			binary.BigEndian.PutUint64(b[:], uint64(i)<<32|uint64(round))
			_, err := p.Write(b[:])
			require.NoError(t, err)
			if i%100 == 0 {
				most = max(most, runtime.NumGoroutine())
			}
		}
		ok := within(2*patience, func() bool { return words.Load() == int64(round*n) })
		require.True(t, ok, "%d of %d words have come", words.Load(), round*n)
	}
	assert.LessOrEqual(t, most, before+8+byPoller(0, n), "goroutines, of which there were %d", before)
	cancel()
	wg.Wait()
	requireNothingReady(t, m)
	requireKept(t, m, n)
}

func TestFourGoroutinesServeAThousandConnectionsWithNoGoroutineEach(t *testing.T) {
	serveCrowd(t, 1000, 5)
}

func TestFourGoroutinesServeTenThousandConnections(t *testing.T) {
	if testing.Short() {
		t.Skip("-short")
	}
	var limit syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	n := min(10_000, (int(min(limit.Cur, 1<<20))-200)/2)
	if n < 5000 {
		t.Skipf("%d descriptors allow only %d connections", limit.Cur, n)
	}
	t.Logf("%d connections", n)
	serveCrowd(t, n, 2)
}
