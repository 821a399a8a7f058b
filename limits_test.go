package plex_test

// Bounds that the user sets on waiting and connecting, and the name in what a pool says.

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex"
)

func TestOneCallerTooManyFailsAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, _, _ := l.single(plex.WithMaxWaiting(2))
		w, r := writerOf(t, m), readerOf(t, m)
		first := wantWriter(t.Context(), m, 0)
		second := wantWriter(t.Context(), m, time.Hour)
		began := time.Now()
		_, err := m.Writer(t.Context(), 0)
		require.ErrorIs(t, err, plex.ErrTooManyWaiting)
		var failed *plex.AcquireError
		require.ErrorAs(t, err, &failed)
		require.Equal(t, 2, failed.Waiting)
		require.False(t, failed.Timeout())
		require.EqualError(t, err, "plex: no writer: too many callers are waiting (capacity 1, open 1, leased 1, connecting 0, waiting 2)")
		require.Zero(t, time.Since(began))

		reader := wantReader(t.Context(), m, 0) // the bound is on each kind
		requireClosed(t, w)
		requireClosed(t, got(t, first).w)
		requireClosed(t, got(t, second).w)
		requireClosed(t, r)
		requireClosed(t, got(t, reader).r)
		s := m.Stats()
		require.EqualValues(t, 1, s.Refused)
		require.EqualValues(t, 3, s.Waited)
		requireClosed(t, writerOf(t, m)) // what is idle can be had at any time
	})
}

func TestWithABoundOfZeroNobodyWaits(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		m := l.mux(plex.WithConnector(s.connect), plex.WithMaxWaiting(0))
		_, err := m.Writer(t.Context(), 0)
		require.ErrorIs(t, err, plex.ErrTooManyWaiting)
		synctest.Wait()
		requireClosed(t, writerOf(t, m)) // it was demand all the same, so that something is open by now
	})
}

// As many callers as may wait are never refused, whatever they do.
func TestAsManyAsMayWaitAreNotRefused(t *testing.T) {
	const most = 3
	l := newLedger(t)
	m, _, _ := l.single(plex.WithMaxWaiting(most))
	hammer(most, 2000, func(int, int) {
		w, err := m.Writer(t.Context(), 0)
		if assert.NoError(t, err) {
			assert.NoError(t, w.Close())
		}
	})
	require.Zero(t, m.Stats().Refused)
}

func TestFailFastTellsTheCauseAtOnceAndRecovers(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		m := s.pool(2, plex.WithFailFast(3), plex.WithBackoff(func(int) time.Duration { return time.Second }))
		s.goDown()
		killAll(t, m, 2)
		waits := wantWriter(t.Context(), m, 0)
		began := time.Now()
		a := <-waits
		require.ErrorIs(t, a.err, plex.ErrUnavailable)
		require.ErrorIs(t, a.err, errRefused)
		require.Equal(t, 2*time.Second, a.at.Sub(began), "with the third failure in a row")

		for range 10 { // and so is everyone else, until a connect succeeds
			began = time.Now()
			_, err := m.Reader(t.Context(), 0)
			require.ErrorIs(t, err, plex.ErrUnavailable)
			require.Zero(t, time.Since(began))
		}
		require.EqualValues(t, 11, m.Stats().Refused)

		s.comeUp()
		time.Sleep(2 * time.Second)
		requireClosed(t, writerOf(t, m))
		requireClosed(t, readerOf(t, m))
	})
}

func TestFailFastIsOverWhileSomethingIsOpen(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		m := s.pool(2, plex.WithFailFast(1), plex.WithBackoff(func(int) time.Duration { return time.Second }))
		s.goDown()
		killAll(t, m, 1)
		time.Sleep(time.Minute)
		require.NotZero(t, m.Stats().ConnectFailed)
		w := writerOf(t, m) // the other connection's
		waits := wantWriter(t.Context(), m, time.Second)
		a := <-waits
		require.ErrorIs(t, a.err, plex.ErrTimeout, "it was worth waiting for")
		requireClosed(t, w)
	})
}

// A pool that keeps nothing open connects for those who ask, also for those who are refused.
func TestThoseWhoFailFastAreDemand(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		s.goDown()
		m := l.mux(plex.WithConnector(s.connect), plex.WithFailFast(2))
		_, err := m.Writer(t.Context(), 0)
		require.ErrorIs(t, err, plex.ErrUnavailable)
		time.Sleep(time.Minute)
		s.comeUp()
		time.Sleep(time.Minute)
		require.Zero(t, m.Stats().Open, "nobody has asked")
		_, err = m.Writer(t.Context(), 0)
		require.ErrorIs(t, err, plex.ErrUnavailable)
		time.Sleep(time.Second)
		requireClosed(t, writerOf(t, m))
	})
}

func TestReadyReadersWaitWhereOthersFailFast(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		s.goDown()
		m := l.mux(plex.WithConnector(s.connect), plex.WithFailFast(1), plex.WithBackoff(func(int) time.Duration { return time.Second }))
		type result struct {
			r   plex.Reader
			err error
		}
		arrives := later(func() result {
			r, err := m.ReadyReader(t.Context(), 0)
			return result{r, err}
		})
		_, err := m.Writer(t.Context(), 0)
		require.ErrorIs(t, err, plex.ErrUnavailable)
		s.comeUp()
		_, _ = m.Writer(t.Context(), 0)
		time.Sleep(time.Minute)
		s.connected(0)[0].Send("x")
		a := <-arrives
		require.NoError(t, a.err)
		requireClosed(t, a.r)
	})
}

func TestTheBoundOnConnectsHoldsForHealingAndGrowth(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		s.set(func(s *service) { s.latency = 100 * time.Millisecond })
		m := s.pool(12, plex.WithMaxConnecting(2), plex.WithMinConnections(8), plex.WithAutoScaling(time.Millisecond))
		require.Equal(t, 2, s.peakSinceSet(), "in New")
		killAll(t, m, 8)
		var all []<-chan waiter
		for range 12 {
			all = append(all, wantWriter(t.Context(), m, 0))
		}
		for _, ch := range all {
			a := <-ch
			require.NoError(t, a.err)
			defer func() { _ = a.w.Close() }()
		}
		require.Equal(t, 2, s.peakSinceSet())
	})
}

func TestTheNameIsInErrorsAndLogs(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		var out bytes.Buffer
		m, _, _ := l.single(plex.WithName("sessions"), plex.WithLogger(slog.New(slog.NewTextHandler(&out, nil))))
		w := writerOf(t, m)
		_, err := m.Writer(t.Context(), -1)
		require.ErrorContains(t, err, "plex: sessions: no writer: timed out")
		var failed *plex.AcquireError
		require.True(t, errors.As(err, &failed))
		require.Equal(t, "sessions", failed.Pool)
		requireClosed(t, w)
		killAll(t, m, 1)
		require.NoError(t, m.Close())
		require.Contains(t, out.String(), "pool=sessions")
	})
}
