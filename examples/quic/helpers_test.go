package main

import (
	"context"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/stretchr/testify/require"
)

// long is how long something may take that has to happen. No test asserts that anything is fast.
const long = 20 * time.Second

// balance has a test fail unless it leaves as many goroutines as it has found. Call it first.
func balance(t *testing.T) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		if !await(long, func() bool { return runtime.NumGoroutine() <= before }) {
			stacks := make([]byte, 1<<20)
			t.Errorf("%d goroutines, there were %d\n%s",
				runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		}
	})
}

// start starts a service, and a client with so many streams, which end with the test.
func start(t *testing.T, streams int) (*service, *client) {
	t.Helper()
	serverTLS, clientTLS, err := newCertificate()
	require.NoError(t, err)
	s, err := newService(serverTLS)
	require.NoError(t, err)
	require.NoError(t, s.up())
	t.Cleanup(func() { require.NoError(t, s.down()) })

	c, err := newClient(t.Context(), s.address, clientTLS, streams)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, c.close())
		stats := c.mux.Stats()
		require.Zero(t, stats.Open, "streams that are open")
		require.Zero(t, stats.LeasedReaders+stats.LeasedWriters, "leases that are live")
		comes(t, "the end of the streams at the service", func() bool { return s.streams.Load() == 0 })
	})

	return s, c
}

// peer is a listener and a dialer to it, for tests of streams without a pool.
type peer struct {
	listener *quic.Listener
	dialer   *Dialer
}

func newPeer(t *testing.T, config *quic.Config) *peer {
	t.Helper()
	serverTLS, clientTLS, err := newCertificate()
	require.NoError(t, err)
	socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	transport := &quic.Transport{Conn: socket}
	listener, err := transport.Listen(serverTLS, config)
	require.NoError(t, err)
	dialer, err := NewDialer("127.0.0.1:0", socket.LocalAddr().String(), clientTLS, config)
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = dialer.Close() // the test may have
		require.NoError(t, transport.Close())
		require.NoError(t, socket.Close())
	})

	return &peer{listener: listener, dialer: dialer}
}

// pair opens a stream and returns both its ends. The server learns of a stream when something comes over it, which is
// one byte here, and read already.
func (p *peer) pair(t *testing.T) (ours, theirs net.Conn) {
	t.Helper()
	ctx := within(t)
	var accepting sync.WaitGroup
	var conn *quic.Conn
	var acceptErr error
	accepting.Go(func() { conn, acceptErr = p.listener.Accept(ctx) })
	ours, err := p.dialer.DialStream(ctx)
	require.NoError(t, err)
	_, err = ours.Write([]byte{0})
	require.NoError(t, err)
	accepting.Wait()
	require.NoError(t, acceptErr)
	accepted, err := conn.AcceptStream(ctx)
	require.NoError(t, err)
	theirs = &stream{Stream: accepted, conn: conn}
	_, err = theirs.Read(make([]byte, 1))
	require.NoError(t, err)

	return ours, theirs
}

// within makes a context that no call should outlast.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), long)
	t.Cleanup(cancel)

	return ctx
}

// comes waits for what has to be true at some time.
func comes(t *testing.T, what string, is func() bool) {
	t.Helper()
	require.True(t, await(long, is), "never came: %s", what)
}

// returns waits for something that has to come to an end.
func returns[T any](t *testing.T, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(long):
		require.FailNow(t, "never came", what)
		panic("unreachable")
	}
}
