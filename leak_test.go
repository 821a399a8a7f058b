package plex_test

// Leak detection: leases that are held for too long are reported, once, with the stack that took them.

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
)

const leakMessage = "plex: suspected leak of a lease"

// forgetsItsReader and forgetsItsWriter are to be found in stacks.
func forgetsItsReader(t *testing.T, m *plex.Multiplexer) plex.Reader { return readerOf(t, m) }

func forgetsItsWriter(ctx context.Context, m *plex.Multiplexer) (plex.Writer, error) {
	return m.Writer(ctx, 0)
}

func TestALeaseThatIsHeldForTooLongIsReportedOnceWithTheStackThatTookIt(t *testing.T) {
	const threshold = 10 * time.Second

	bubble(t, func(t *testing.T, l *ledger) {
		book := &logbook{}
		conns, _ := l.Pairs(2)
		m := l.mux(plex.WithConnections(conns...), plex.WithLeakDetection(threshold), book.option())

		time.Sleep(7 * time.Second)

		began := time.Now()
		r := forgetsItsReader(t, m)
		w, err := forgetsItsWriter(t.Context(), m)
		require.NoError(t, err)

		time.Sleep(threshold - 1)
		require.Empty(t, book.messages())
		require.Zero(t, m.Stats().SuspectedLeaks)

		time.Sleep(threshold/2 + 1)
		settled(m)

		found := book.with(leakMessage)
		require.Len(t, found, 2)

		for _, rec := range found {
			require.Equal(t, slog.LevelWarn, rec.level)
			require.Equal(t, []string{"half", "addr", "held", "stack"}, rec.keys)
			require.Equal(t, conns[0].RemoteAddr().String(), rec.attrs["addr"])
			require.Equal(t, rec.at.Sub(began), rec.attrs["held"])

			stack := rec.attrs["stack"].(string)
			if rec.attrs["half"] == "reader" {
				require.Contains(t, stack, "plex_test.forgetsItsReader\n\t")
			} else {
				require.Equal(t, "writer", rec.attrs["half"])
				require.True(t, strings.HasPrefix(stack, "go.atomizer.io/plex_test.forgetsItsWriter\n\t"), "it begins with the caller: %s", stack)
			}

			require.Contains(t, stack, "TestALeaseThatIsHeldForTooLong")
			require.Contains(t, stack, "leak_test.go:")
		}

		require.EqualValues(t, 2, m.Stats().SuspectedLeaks)

		time.Sleep(time.Hour)
		require.Len(t, book.messages(), 2, "once for each lease")
		require.Equal(t, 2, m.Stats().Open, "nothing is done about it")
		requireClosed(t, r, w)
	})
}

func TestShortLeasesAreNoLeaks(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		book := &logbook{}
		m, _, _ := l.single(plex.WithLeakDetection(10*time.Second), book.option())

		for range 500 {
			r, w := readerOf(t, m), writerOf(t, m)
			time.Sleep(10*time.Second - 1)
			requireClosed(t, r, w)
		}

		time.Sleep(time.Hour) // nobody has it
		require.Empty(t, book.messages())
		require.Zero(t, m.Stats().SuspectedLeaks)
	})
}

func TestEachLeaseOfAHalfIsSuspectedAnew(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		book := &logbook{}
		m, _, _ := l.single(plex.WithLeakDetection(10*time.Second), book.option())

		for n := range 5 {
			r := readerOf(t, m)

			time.Sleep(time.Minute)
			requireClosed(t, r)

			short := readerOf(t, m)
			time.Sleep(time.Second)
			requireClosed(t, short)
			require.Len(t, book.with(leakMessage), n+1)
			require.EqualValues(t, n+1, m.Stats().SuspectedLeaks)
		}
	})
}

func TestALeaseThatWasWaitedForIsOldFromWhenItWasHad(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		book := &logbook{}
		m, _, _ := l.single(plex.WithLeakDetection(10*time.Second), book.option())
		first := readerOf(t, m)
		waiting := wantReader(t.Context(), m, 0)

		time.Sleep(9 * time.Second)
		requireClosed(t, first)

		second := got(t, waiting)

		time.Sleep(9 * time.Second)
		requireClosed(t, second.lease())
		time.Sleep(time.Hour)
		require.Empty(t, book.messages())
	})
}

func TestLeaksAreCountedWithoutALogger(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, _, _ := l.single(plex.WithLeakDetection(time.Second))
		w := writerOf(t, m)

		time.Sleep(2 * time.Second)
		require.EqualValues(t, 1, m.Stats().SuspectedLeaks)
		requireClosed(t, w)
	})
}

func TestALeaseOfALostConnectionIsSuspectedAsWell(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		book := &logbook{}
		s := newService(l)
		m := s.pool(1, plex.WithLeakDetection(10*time.Second), book.option())
		r, w := readerOf(t, m), writerOf(t, m)

		require.NoError(t, r.Kill())
		time.Sleep(time.Minute)

		found := book.with(leakMessage)
		require.Len(t, found, 1)
		require.Equal(t, "writer", found[0].attrs["half"])
		requireClosed(t, w)
	})
}

func TestWithoutLeakDetectionNobodyIsSuspected(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		book := &logbook{}
		m, _, _ := l.single(book.option(), plex.WithIdleTimeout(time.Second))
		r := readerOf(t, m)

		time.Sleep(1000 * time.Hour)
		require.Empty(t, book.messages())
		require.Zero(t, m.Stats().SuspectedLeaks)
		requireClosed(t, r)
	})
}

func TestTheEndComesAtOnceWithALeakedLease(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		book := &logbook{}
		m, _, _ := l.single(plex.WithLeakDetection(10*time.Second), book.option())
		r := readerOf(t, m)

		time.Sleep(time.Minute)

		began := time.Now()
		require.NoError(t, m.Close())
		require.Zero(t, time.Since(began))
		time.Sleep(time.Hour)
		require.Len(t, book.with(leakMessage), 1)
		requireClosed(t, r)
		require.Zero(t, plexGoroutines())
	})
}

func TestLeakDetectionDoesNotWaitForATransport(t *testing.T) {
	l := newLedger(t)
	client, server := tcpPair(t)
	defer server.Close() //nolint:errcheck // the test is over
	c := &counted{Conn: &fakenet.OneMutex{Conn: client}}
	l.Watch(c)
	m := l.mux(plex.WithConnections(c), plex.WithLeakDetection(20*time.Millisecond))
	r := leaseReader(t, m)
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = r.Read(make([]byte, 1)) })
	time.Sleep(10 * time.Millisecond)
	wg.Go(func() { _ = r.Close() }) // which interrupts the Read, and waits for the transport
	time.Sleep(100 * time.Millisecond)
	finish(t, "Stats", func() { m.Stats() })
	finish(t, "the lease's Close", wg.Wait)
	finish(t, "Close", func() { require.NoError(t, m.Close()) })
}

func TestStacksTellWhoHasALease(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, _, _ := l.single(plex.WithLeakDetection(time.Hour))
		r := forgetsItsReader(t, m)
		w, err := forgetsItsWriter(t.Context(), m)
		require.NoError(t, err)
		reader, writer := r.Conn().Stacks()
		require.Contains(t, reader, "plex_test.forgetsItsReader\n\t")
		require.Contains(t, writer, "plex_test.forgetsItsWriter\n\t")
		requireClosed(t, r)
		reader, writer = w.Conn().Stacks()
		require.Empty(t, reader, "nobody has it")
		require.NotEmpty(t, writer)
		requireClosed(t, w)

		plain, _, _ := l.single()
		r = readerOf(t, plain)
		reader, writer = r.Conn().Stacks()
		require.Empty(t, reader+writer)
		requireClosed(t, r)
		reader, writer = plex.Conn{}.Stacks()
		require.Empty(t, reader+writer)
	})
}
