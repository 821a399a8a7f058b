package plex_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex"
)

func TestHistogramsOfWaitsAndConnects(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		s.set(func(s *service) { s.latency = 3 * time.Millisecond })
		m := s.pool(1)
		for _, wait := range []time.Duration{time.Millisecond, 20 * time.Millisecond, 20 * time.Millisecond, 3 * time.Second} {
			w := writerOf(t, m)
			ch := wantWriter(t.Context(), m, 0)
			time.Sleep(wait)
			requireClosed(t, w)
			requireClosed(t, got(t, ch).w)
		}
		w := writerOf(t, m)
		_, err := m.Writer(t.Context(), time.Hour)
		require.ErrorIs(t, err, plex.ErrTimeout)
		requireClosed(t, w)

		stats := m.Stats()
		require.EqualValues(t, 5, stats.Waits.Count(), "who does not wait does not count")
		require.Equal(t, stats.Waited, stats.Waits.Count())
		require.EqualValues(t, 1, stats.Connects.Count())
		require.Equal(t, 4096*time.Microsecond, stats.Connects.Quantile(0.5))

		var want plex.Histogram
		want[10], want[15], want[22], want[27] = 1, 2, 1, 1 // 1 ms < 2^10 µs, 20 ms < 2^15 µs, 3 s < 2^22 µs
		require.Equal(t, want, stats.Waits)
		require.Equal(t, want.Bound(10), want.Quantile(0))
		require.Equal(t, want.Bound(15), want.Quantile(0.5))
		require.Equal(t, want.Bound(22), want.Quantile(0.8))
		require.Greater(t, want.Quantile(1), time.Hour)
	})
}

func TestHistogramBounds(t *testing.T) {
	var h plex.Histogram
	require.Zero(t, h.Count())
	require.Zero(t, h.Quantile(0.99), "of nothing")
	require.Equal(t, time.Microsecond, h.Bound(0))
	require.Equal(t, time.Microsecond, h.Bound(-1))
	for i := range len(h) - 2 {
		require.Equal(t, 2*h.Bound(i), h.Bound(i+1))
	}
	require.Greater(t, h.Bound(len(h)-1), 1000*h.Bound(len(h)-2))
}
