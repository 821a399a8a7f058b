package plex_test

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
)

func TestSmokeReady(t *testing.T) {
	forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
		m, p := s.mux(l)
		_, err := m.ReadyReader(t.Context(), 20*time.Millisecond)
		require.ErrorIs(t, err, plex.ErrTimeout)
		go func() { time.Sleep(10 * time.Millisecond); _, _ = p.Write([]byte("hello")) }()
		r, err := m.ReadyReader(t.Context(), time.Second)
		require.NoError(t, err)
		b := make([]byte, 3)
		n, err := r.Read(b)
		require.NoError(t, err)
		require.Equal(t, "hel", string(b[:n]))
		require.NoError(t, r.Close())
		r, err = m.ReadyReader(t.Context(), time.Second)
		require.NoError(t, err)
		n, err = r.Read(b)
		require.NoError(t, err)
		require.Equal(t, "lo", string(b[:n]))
		require.NoError(t, r.Close())
		_, err = m.ReadyReader(t.Context(), 20*time.Millisecond)
		require.ErrorIs(t, err, plex.ErrTimeout)
		ended := make(chan error, 1)
		r.Conn().AfterEnd(func(err error) { ended <- err })
		p.fin()
		r, err = m.ReadyReader(t.Context(), time.Second)
		require.NoError(t, err)
		_, err = r.Read(b)
		require.ErrorIs(t, err, io.EOF)
		require.NoError(t, r.Close())
		require.ErrorIs(t, <-ended, io.EOF)
	})
}

func TestSmokePipe(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		a, b := net.Pipe()
		m := l.mux(plex.WithConnections(a))
		go func() { time.Sleep(time.Second); _, _ = b.Write([]byte("hello")); _ = b.Close() }()
		r, err := m.ReadyReader(t.Context(), 0)
		require.NoError(t, err)
		got, err := io.ReadAll(r)
		require.NoError(t, err)
		require.Equal(t, "hello", string(got))
		require.NoError(t, r.Close())
	})
}
