package plex_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
)

// The worst transport: its Read and Write return neither at a deadline nor after Close. It costs its own
// lease a few seconds, and its connection.
func TestALeaseEndsThoughTheTransportNeverReturns(t *testing.T) {
	read := func(t *testing.T, m *plex.Multiplexer) (use func(), end, kill func() error) {
		r, err := m.Reader(t.Context(), -1)
		require.NoError(t, err)
		return func() { _, _ = r.Read(make([]byte, 1)) }, r.Close, r.Kill
	}
	write := func(t *testing.T, m *plex.Multiplexer) (use func(), end, kill func() error) {
		w, err := m.Writer(t.Context(), -1)
		require.NoError(t, err)
		return func() { _, _ = w.Write([]byte("x")) }, w.Close, w.Kill
	}
	recv := func(t *testing.T, m *plex.Multiplexer) (use func(), end, kill func() error) {
		r, err := m.Reader(t.Context(), -1)
		require.NoError(t, err)
		return func() { _, err := r.RecvChunks(t.Context(), 0); assert.NoError(t, err) }, r.Close, r.Kill
	}
	send := func(t *testing.T, m *plex.Multiplexer) (use func(), end, kill func() error) {
		w, err := m.Writer(t.Context(), -1)
		require.NoError(t, err)
		return func() {
			ch, err := w.SendChunks(t.Context(), 0)
			assert.NoError(t, err)
			ch <- []byte("x")
		}, w.Close, w.Kill
	}
	for _, test := range []struct {
		name  string
		lease func(*testing.T, *plex.Multiplexer) (use func(), end, kill func() error)
		kills bool
	}{
		{"Close beside Read", read, false},
		{"Close beside Write", write, false},
		{"Close of a read stream", recv, false},
		{"Kill beside Read", read, true},
		{"Kill beside Write", write, true},
		{"Kill of a read stream", recv, true},
		{"Kill of a write stream", send, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				hang := func([]byte, func([]byte) (int, error)) (int, error) {
					<-release
					return 0, context.Canceled
				}
				c, _ := fakenet.Pair()
				c.OnRead(hang)
				c.OnWrite(hang)
				c.TreatDeadlines(fakenet.DeadlinesIgnored)
				m, err := plex.New(t.Context(), plex.WithConnections(c))
				require.NoError(t, err)
				use, end, kill := test.lease(t, m)
				go use()
				synctest.Wait()

				start, over := time.Now(), end
				if test.kills {
					over = kill
				}
				_ = over()
				assert.Less(t, time.Since(start), 10*time.Second)
				assert.ErrorIs(t, end(), plex.ErrLeaseClosed, "the lease is over")
				assert.Equal(t, 1, c.Closes(), "the connection is closed")

				close(release)
				synctest.Wait()
				s := m.Stats()
				assert.Zero(t, s.Open)
				assert.Zero(t, s.LeasedReaders+s.LeasedWriters)
				assert.NoError(t, m.Close())
			})
		})
	}
}
