package plex_test

// Helpers of connect_test.go.

import (
	"context"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
)

// open makes a multiplexer that opens n connections with connect. It is closed at the test's end.
func (l *ledger) open(n int, connect plex.Connect, opts ...plex.Option) (*plex.Multiplexer, error) {
	l.Helper()
	opts = append([]plex.Option{plex.WithMaxCapacity(n), plex.WithMinConnections(n), plex.WithConnector(connect)}, opts...)
	m, err := plex.New(context.Background(), opts...)
	if err == nil {
		l.closeAtEnd(m)
	}
	return m, err
}

// mustOpen is open that must succeed.
func (l *ledger) mustOpen(n int, connect plex.Connect, opts ...plex.Option) *plex.Multiplexer {
	l.Helper()
	m, err := l.open(n, connect, opts...)
	require.NoError(l, err)
	return m
}

// refused demands that New fails with connect, beside a healthy connection that was given, and that neither that
// connection nor a pool that is made of it afterwards has taken harm. It returns New's error.
func refused(t *testing.T, l *ledger, connect plex.Connect, opts ...plex.Option) error {
	t.Helper()
	given, peer := l.pair()
	_, err := l.open(2, connect, append(opts, plex.WithConnections(given))...)
	require.Error(t, err)
	require.Zero(t, given.closeCount(), "what the caller gave stays open and the caller's")
	read, write := given.deadlinesLeft()
	assert.True(t, read.IsZero() && write.IsZero(), "without a deadline")
	requireExchange(t, l.mux(plex.WithConnections(given)), peer)
	return err
}

// attaching is a Connect that attaches conn and goes on with then.
func attaching(conn net.Conn, then func(ctx context.Context, handle net.Conn) error) plex.Connect {
	return func(ctx context.Context, handle net.Conn) error {
		if err := plex.Attach(handle, conn); err != nil {
			return err
		}
		if then == nil {
			return nil
		}
		return then(ctx, handle)
	}
}

// requireExchange passes a few bytes both ways over the only connection of m.
func requireExchange(t testing.TB, m *plex.Multiplexer, peer *fakePeer) {
	t.Helper()
	r, w := readerOf(t, m), writerOf(t, m)
	peer.send("down")
	require.Equal(t, "down", readN(t, r, 4))
	_, err := w.Write([]byte("up"))
	require.NoError(t, err)
	require.Equal(t, "up", peer.read(2))
	requireClosed(t, r)
	requireClosed(t, w)
}
