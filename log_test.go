package plex_test

// What is logged: messages and keys that do not change, and a handler that may do as it likes.

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
)

func TestALossIsLoggedWithItsCauseAddressAndAge(t *testing.T) {
	for _, loss := range []struct {
		name  string
		cause error
		level slog.Level
		lose  func(t *testing.T, r plex.Reader, p *fakenet.Peer)
	}{
		{"Kill", plex.ErrKilled, slog.LevelInfo, func(t *testing.T, r plex.Reader, _ *fakenet.Peer) { require.NoError(t, r.Kill()) }},
		{"a reset", syscall.ECONNRESET, slog.LevelWarn, func(t *testing.T, r plex.Reader, p *fakenet.Peer) {
			p.Reset(syscall.ECONNRESET, false)

			_, err := r.Read(make([]byte, 1))
			require.Error(t, err)
			requireClosed(t, r)
		}},
		{"the peer's close", io.EOF, slog.LevelWarn, func(t *testing.T, r plex.Reader, p *fakenet.Peer) {
			_ = p.Close()

			_, err := r.Read(make([]byte, 1))
			require.Equal(t, io.EOF, err)
			requireClosed(t, r)
		}},
	} {
		t.Run(loss.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				book := &logbook{}
				m, conn, peer := l.single(book.option())
				r := readerOf(t, m)

				time.Sleep(5 * time.Second)
				loss.lose(t, r, peer)
				synctest.Wait()
				require.Equal(t, []string{"plex: connection lost"}, book.messages(), "once")

				rec := book.with("plex: connection lost")[0]
				require.Equal(t, loss.level, rec.level)
				require.Equal(t, []string{"cause", "addr", "age"}, rec.keys)
				require.ErrorIs(t, rec.attrs["cause"].(error), loss.cause)
				require.Equal(t, conn.RemoteAddr().String(), rec.attrs["addr"])
				require.Equal(t, 5*time.Second, rec.attrs["age"])
			})
		})
	}
}

func TestAHealIsLoggedWithItsAttemptsItsTimeAndTheFailuresBefore(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c, book := newConnector(l), &logbook{}
		conns, _ := l.Pairs(2)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect), book.option(),
			plex.WithBackoff(func(int) time.Duration { return 10 * time.Second }))

		requireClosed(t, readerOf(t, m)) // so that the second is next
		killAll(t, m, 1)

		for n := range 2 {
			call := c.next()
			time.Sleep(500 * time.Millisecond)
			call.Fail(errRefused)
			synctest.Wait()

			failed := book.with("plex: connect failed")
			require.Len(t, failed, n+1)
			require.Equal(t, slog.LevelWarn, failed[n].level)
			require.Equal(t, []string{"cause", "addr", "attempts"}, failed[n].keys)
			require.Equal(t, map[string]any{
				"cause": errRefused, "addr": conns[1].RemoteAddr().String(), "attempts": int64(n + 1),
			}, failed[n].attrs)
		}

		call := c.next()
		time.Sleep(250 * time.Millisecond)

		fresh, _ := l.Pair()
		call.Succeed(fresh)
		synctest.Wait()

		healed := book.with("plex: connection healed")
		require.Len(t, healed, 1)
		require.Equal(t, slog.LevelInfo, healed[0].level)
		require.Equal(t, []string{"addr", "attempts", "took"}, healed[0].keys)
		require.Equal(t, map[string]any{
			"addr": conns[1].RemoteAddr().String(), "attempts": int64(3), "took": 21250 * time.Millisecond,
		}, healed[0].attrs)
		require.Equal(t, []string{
			"plex: connection lost", "plex: connect failed", "plex: connect failed", "plex: connection healed",
		}, book.messages())
	})
}

func TestScalingIsLoggedWithItsReasonAndTheNumbers(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s, book := newService(l), &logbook{}
		m, _, _ := l.scaling(2, 4, s.connect, book.option(), plex.WithIdleTimeout(10*time.Second))

		s.grow(t, m, 1)
		s.grow(t, m, 1)
		time.Sleep(11 * time.Second)
		synctest.Wait()

		scaled := book.with("plex: scaled")
		require.Len(t, scaled, 4)
		require.Len(t, book.messages(), 4)

		var got []map[string]any

		for _, rec := range scaled {
			require.Equal(t, slog.LevelInfo, rec.level)
			require.Equal(t, []string{"why", "from", "to"}, rec.keys)
			got = append(got, rec.attrs)
		}

		require.Equal(t, []map[string]any{
			{"why": "callers wait", "from": int64(2), "to": int64(3)},
			{"why": "callers wait", "from": int64(3), "to": int64(4)},
		}, got[:2])
		require.ElementsMatch(t, []map[string]any{ // which are told by goroutines of their own
			{"why": "not needed", "from": int64(4), "to": int64(3)},
			{"why": "not needed", "from": int64(3), "to": int64(2)},
		}, got[2:])
	})
}

func TestARenewalIsLogged(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c, book := newConnector(l), &logbook{}
		conns, _ := l.Pairs(1)
		m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect), book.option(), plex.WithMaxLifetime(time.Hour))

		time.Sleep(54*time.Minute - 1)

		call := c.next()
		time.Sleep(300 * time.Millisecond)

		fresh, _ := l.Pair()
		call.Succeed(fresh)
		require.EqualValues(t, 1, settled(m).Expired)
		require.Equal(t, []string{"plex: connection renewed"}, book.messages())

		rec := book.with("plex: connection renewed")[0]
		require.Equal(t, slog.LevelInfo, rec.level)
		require.Equal(t, []string{"why", "addr", "attempts", "took"}, rec.keys)
		require.Equal(t, map[string]any{
			"why": "maximal lifetime", "addr": conns[0].RemoteAddr().String(), "attempts": int64(1), "took": 300 * time.Millisecond,
		}, rec.attrs)
	})
}

func TestTheEndIsNotLogged(t *testing.T) {
	for name, end := range map[string]func(*plex.Multiplexer) error{
		"Close":    (*plex.Multiplexer).Close,
		"Shutdown": func(m *plex.Multiplexer) error { return m.Shutdown(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				c, book := newConnector(l), &logbook{}
				conns, _ := l.Pairs(4)
				m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect), book.option())

				killAll(t, m, 2)
				_ = c.unanswered(2) // which the end fails
				require.Len(t, book.messages(), 2)
				require.NoError(t, end(m))
				time.Sleep(time.Hour)
				require.Len(t, book.messages(), 2, book)
			})
		})
	}
}

func TestALoggersOwnAttributesAndLevelAreKept(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		var (
			mu  sync.Mutex
			out bytes.Buffer
		)

		s := newService(l)
		handler := slog.NewTextHandler(lockedWriter{&mu, &out}, &slog.HandlerOptions{Level: slog.LevelWarn})
		m := s.pool(1, plex.WithLogger(slog.New(handler).With("pool", "orders").WithGroup("plex")))

		lost := time.Now()

		require.NoError(t, s.connected(0)[0].Close())
		r := readerOf(t, m)
		_, err := r.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		requireClosed(t, r)
		require.EqualValues(t, 1, settled(m).Healed)

		mu.Lock()
		defer mu.Unlock()

		require.Contains(t, out.String(), `level=WARN msg="plex: connection lost" pool=orders plex.cause=`)
		require.Contains(t, out.String(), "time="+lost.Format("2006-01-02T15:04:05.000Z07:00"))
		require.NotContains(t, out.String(), "healed", "which is below the level")
	})
}

// lockedWriter is for a handler whose output a test reads.
type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (w lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()

	return w.w.Write(p)
}

func TestAHandlerMayCallTheMultiplexer(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		var m *plex.Multiplexer

		s, book := newService(l), &logbook{}
		ready := make(chan struct{})
		seen := map[string]int{}
		book.hook = func(rec record) { // records come one after the other
			<-ready

			seen[rec.msg]++

			_ = m.Stats()
			_ = m.Addr()

			if r, err := m.Reader(context.Background(), -1); err == nil {
				assert.NoError(t, r.Close())
			}

			if w, err := m.Writer(context.Background(), time.Millisecond); err == nil {
				assert.NoError(t, w.Close())
			}

			_, err := m.Add(context.Background(), nil)
			assert.ErrorIs(t, err, plex.ErrNilConnection)
		}

		conns, _ := l.Pairs(2)
		m = l.mux(plex.WithConnections(conns...), plex.WithConnector(s.connect), plex.WithMaxCapacity(4), plex.WithAutoScaling(scaleAfter),
			plex.WithIdleTimeout(time.Minute), plex.WithMaxLifetime(time.Hour), plex.WithLeakDetection(time.Second), book.option())
		close(ready)

		killAll(t, m, 1)
		s.goDown()
		killAll(t, m, 1)
		time.Sleep(time.Second)
		s.comeUp()
		time.Sleep(10 * time.Second)

		release := leaseAll(t, m, m.Stats().Open)
		waiting := wantReader(t.Context(), m, 0)

		time.Sleep(3 * time.Second)
		closeAll(t, waiting)
		release()
		time.Sleep(3 * time.Hour)
		require.NoError(t, m.Close())

		for _, msg := range []string{
			"plex: connection lost", "plex: connect failed", "plex: connection healed",
			"plex: scaled", "plex: connection renewed", leakMessage,
		} {
			require.NotZero(t, seen[msg], msg)
		}
	})
}

func TestAHandlerMayCloseTheMultiplexer(t *testing.T) {
	for name, end := range map[string]func(*plex.Multiplexer) error{
		"Close":    (*plex.Multiplexer).Close,
		"Shutdown": func(m *plex.Multiplexer) error { return m.Shutdown(context.Background()) },
	} {
		for _, msg := range []string{"plex: connection lost", "plex: connect failed", leakMessage, "plex: scaled"} {
			t.Run(name+" on "+msg, func(t *testing.T) {
				bubble(t, func(t *testing.T, l *ledger) {
					var m *plex.Multiplexer

					s, book := newService(l), &logbook{}
					closed := make(chan struct{})
					book.hook = func(rec record) {
						if rec.msg == msg {
							assert.NoError(t, end(m))
							close(closed)
						}
					}
					m, _, _ = l.scaling(2, 3, s.connect, book.option(), plex.WithIdleTimeout(5*time.Minute),
						plex.WithLeakDetection(time.Minute), plex.WithBackoff(func(int) time.Duration { return time.Hour }))

					if msg == "plex: scaled" {
						release := leaseAll(t, m, 2)
						if r, err := m.Reader(t.Context(), time.Second); err == nil { // served before the record was handled
							requireClosed(t, r)
						} else {
							require.ErrorIs(t, err, plex.ErrClosed)
						}
						release()
					}

					s.goDown()

					var r plex.Reader
					if msg != "plex: scaled" {
						r = readerOf(t, m)
						killAll(t, m, 1)
					}

					select {
					case <-closed:
					case <-time.After(2 * time.Minute):
						if name == "Close" {
							t.Error("the handler's call has not returned")
						}
					}

					if r != (plex.Reader{}) {
						_ = r.Close()
					}

					<-closed
				})
			})
		}
	}
}

func TestAHandlerThatHangsHoldsUpNothing(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s, book := newService(l), &logbook{}
		stuck, free := make(chan struct{}, 100_000), make(chan struct{})
		defer close(free)

		book.hook = func(record) {
			stuck <- struct{}{}
			<-free
		}

		m := s.pool(2, book.option())

		for n := range uint64(10_000) {
			killAll(t, m, 1)
			time.Sleep(2 * time.Second)
			require.Equal(t, n+1, m.Stats().Healed)
		}

		require.Len(t, stuck, 1, "one record at a time")

		began := time.Now()
		require.NoError(t, m.Close())
		require.LessOrEqual(t, time.Since(began), time.Second)
	})
}
