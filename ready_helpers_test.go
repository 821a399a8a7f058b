package plex_test

// Helpers of the tests of ready readers.

import (
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
)

// readyReader leases a reader that must be ready, or become so soon.
func readyReader(t testing.TB, m *plex.Multiplexer) plex.Reader {
	t.Helper()
	r, err := m.ReadyReader(t.Context(), patience)
	require.NoError(t, err)
	return r
}

// requireReady leases a reader that must be ready soon, checks that its first bytes are want and that it is on the
// connection with this local address, and puts it back.
func requireReady(t testing.TB, m *plex.Multiplexer, local net.Addr, want string) {
	t.Helper()
	r := readyReader(t, m)
	require.Equal(t, local.String(), r.LocalAddr().String(), "the connection that is ready")
	require.Equal(t, want, readN(t, r, len(want)))
	requireClosed(t, r)
}

// requireNothingReady checks that nothing is ready, nor becomes so in a while that is long for what could be late.
func requireNothingReady(t testing.TB, m *plex.Multiplexer) {
	t.Helper()
	r, err := m.ReadyReader(t.Context(), 50*time.Millisecond)
	if err == nil {
		b := make([]byte, 100)
		_ = r.SetReadDeadline(time.Now().Add(time.Millisecond))
		n, readErr := r.Read(b)
		_ = r.Close()
		require.FailNow(t, "a reader was ready", "on %v: %q, %v", r.LocalAddr(), b[:n], readErr)
	}
	require.ErrorIs(t, err, plex.ErrTimeout)
}

// attend turns the attention of m on, which nothing but ReadyReader does.
func attend(t testing.TB, m *plex.Multiplexer) {
	t.Helper()
	r, err := m.ReadyReader(t.Context(), -1)
	if err == nil {
		requireClosed(t, r)
	}
}

// wantReady asks for a ready reader in the background of a bubble, and returns when that waits or is done.
func wantReady(t *testing.T, m *plex.Multiplexer, timeout time.Duration) <-chan waiter {
	ch := later(func() waiter {
		r, err := m.ReadyReader(t.Context(), timeout)
		return waiter{r: r, err: err, at: time.Now()}
	})
	synctest.Wait()
	return ch
}

// cork is the service's end of a connection which keeps back what is written to it, if it is in place.
type cork struct {
	net.Conn

	mu    sync.Mutex
	place bool
	held  []byte
}

func (c *cork) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.place {
		return c.Conn.Write(p)
	}
	c.held = append(c.held, p...)
	return len(p), nil
}

// put keeps back what is written from now on.
func (c *cork) put() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.place = true
}

// kept is how many bytes are kept back.
func (c *cork) kept() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.held)
}

// pass lets the first n bytes that are kept back go.
func (c *cork) pass(t testing.TB, n int) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.Conn.Write(c.held[:n])
	require.NoError(t, err)
	c.held = c.held[n:]
}
