package plex_test

// The supervisor: it starts in time for the first caller, decides once, and stops at once.

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
)

func TestTheEndComesAtOnceWhateverTheHealerIsDoing(t *testing.T) {
	fail := func(l *ledger, calls ...*fakenet.Dial) {
		l.Helper()

		for _, call := range calls {
			call.Fail(errRefused)
		}

		synctest.Wait()
	}
	succeed := func(l *ledger, calls ...*fakenet.Dial) {
		l.Helper()

		for _, call := range calls {
			fresh, _ := l.Pair()
			call.Succeed(fresh)
		}

		synctest.Wait()
	}

	for _, state := range []struct {
		name  string
		bring func(l *ledger, c *connector)
		wait  time.Duration // how long the end may take
	}{
		{"pausing", func(l *ledger, c *connector) {
			fail(l, c.unanswered(4)...)
			fail(l, c.next())
		}, 0},
		{"at the end of its pause", func(l *ledger, c *connector) {
			fail(l, c.unanswered(4)...)
			time.Sleep(time.Minute - 1)
		}, 0},
		{"connecting", func(_ *ledger, c *connector) { _ = c.unanswered(4) }, 0},
		{"connecting, and nobody heeds the ctx", func(_ *ledger, c *connector) { _ = c.unanswered(4) }, time.Second},
		{"waiting for connects that have timed out", func(*ledger, *connector) { time.Sleep(time.Minute) }, time.Second},
		{"probing", func(l *ledger, c *connector) {
			fail(l, c.unanswered(4)...)
			time.Sleep(time.Minute)
			_ = c.unanswered(1)
		}, 0},
		{"ramping up", func(l *ledger, c *connector) {
			fail(l, c.unanswered(4)...)
			time.Sleep(time.Minute)
			succeed(l, c.unanswered(1)...)
			succeed(l, c.unanswered(2)...)
			_ = c.unanswered(4)
		}, 0},
	} {
		for _, how := range []string{"Close", "Shutdown", "the ctx's end"} {
			t.Run(state.name+"/"+how, func(t *testing.T) {
				bubble(t, func(t *testing.T, l *ledger) {
					const n = 16

					c := newConnector(l)
					conns, _ := l.Pairs(n)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()

					m, err := plex.New(ctx, plex.WithConnections(conns...), plex.WithConnector(c.connect),
						plex.WithBackoff(func(int) time.Duration { return time.Minute }))
					require.NoError(t, err)
					l.closeAtEnd(m)

					c.IgnoreCtx = state.wait > 0 // before the first call

					killAll(t, m, n)
					state.bring(l, c)

					var waiting []<-chan waiter
					for m.Stats().Open == 0 && len(waiting) < 3 {
						waiting = append(waiting, wantReader(t.Context(), m, 0))
					}

					began, calls := time.Now(), c.Total()

					switch how {
					case "Close":
						require.NoError(t, m.Close())
					case "Shutdown":
						require.NoError(t, m.Shutdown(t.Context()))
					default:
						cancel()
						require.NoError(t, m.Close()) // which waits for the one that the ctx has begun
					}

					require.LessOrEqual(t, time.Since(began), state.wait)

					if state.wait == 0 {
						connecting := c.Counts().Dialing
						require.Zero(t, connecting, "calls of Connect that heed their ctx are waited for")
					}

					for _, ch := range waiting {
						require.ErrorIs(t, (<-ch).err, plex.ErrClosed)
					}

					time.Sleep(time.Hour)
					require.Equal(t, calls, c.Total(), "no connect after the end")

					s := m.Stats()
					require.Zero(t, s.Open)

					if state.wait == 0 {
						require.Zero(t, s.Connecting)
						require.Zero(t, plexGoroutines(), "goroutines of plex")
					}
				})
			})
		}
	}
}

func TestExactlyOneConnectIsMadeForOneWaiter(t *testing.T) {
	for range 300 {
		bubble(t, func(t *testing.T, l *ledger) {
			s := newService(l)
			m, _, _ := l.scaling(1, 8, s.connect)
			release := leaseAll(t, m, 1)
			r, err := m.Reader(t.Context(), 0)
			require.NoError(t, err)
			require.Equal(t, 1, m.Stats().LeasedWriters, "that of the first; nobody has leased one of the second")
			time.Sleep(time.Second)
			require.Equal(t, 1, s.Total())
			requireClosed(t, r)
			release()
		})
	}
}

func TestACallerThatIsThereAsSoonAsNewHasReturnedIsConnectedFor(t *testing.T) {
	for range 300 {
		bubble(t, func(t *testing.T, l *ledger) {
			s := newService(l)
			m := l.mux(plex.WithConnector(s.connect), plex.WithMaxCapacity(8))
			r, err := m.Reader(t.Context(), time.Second)
			require.NoError(t, err)
			require.Zero(t, m.Stats().LeasedWriters)
			requireClosed(t, r)
			synctest.Wait()
			require.Equal(t, 1, s.Total())
		})
	}
}

func TestTheEndComesAtOnceWhateverTheAutoScalerIsDoing(t *testing.T) {
	for _, state := range []struct {
		name  string
		bring func(l *ledger, c *connector)
	}{
		{"nobody is overdue yet", func(*ledger, *connector) { time.Sleep(scaleAfter - 1) }},
		{"connecting", func(_ *ledger, c *connector) {
			time.Sleep(scaleAfter)
			_ = c.unanswered(3)
		}},
		{"pausing", func(_ *ledger, c *connector) {
			time.Sleep(scaleAfter)

			for _, call := range c.unanswered(3) {
				call.Fail(errRefused)
			}

			synctest.Wait()
		}},
		{"at its capacity", func(l *ledger, c *connector) {
			time.Sleep(scaleAfter)

			for _, call := range c.unanswered(3) {
				fresh, _ := l.Pair()
				call.Succeed(fresh)
			}

			synctest.Wait()
		}},
	} {
		for _, how := range []string{"Close", "Shutdown"} {
			t.Run(state.name+"/"+how, func(t *testing.T) {
				bubble(t, func(t *testing.T, l *ledger) {
					c := newConnector(l)
					m, _, _ := l.scaling(1, 4, c.connect, plex.WithBackoff(func(int) time.Duration { return time.Minute }))
					release := leaseAll(t, m, 1)

					var waiting []<-chan waiter
					for range 10 {
						waiting = append(waiting, wantReader(t.Context(), m, 0))
					}

					state.bring(l, c)

					began, calls := time.Now(), c.Total()

					var ended <-chan error
					if how == "Close" {
						ended = later(m.Close)
					} else {
						ended = later(func() error { return m.Shutdown(context.Background()) })
					}

					for _, ch := range waiting {
						if a := <-ch; a.err == nil {
							requireClosed(t, a.lease())
						} else {
							require.ErrorIs(t, a.err, plex.ErrClosed)
						}
					}

					release() // which is what Shutdown waits for
					require.NoError(t, <-ended)
					require.Zero(t, time.Since(began))

					connecting := c.Counts().Dialing
					require.Zero(t, connecting, "calls of Connect that heed their ctx are waited for")

					time.Sleep(time.Hour)
					require.Equal(t, calls, c.Total())

					s := m.Stats()
					require.Equal(t, []int{0, 0, 0}, []int{s.Open, s.Connecting, s.Waiting})
					require.Zero(t, plexGoroutines())
				})
			})
		}
	}
}

func TestTheEndComesAtOnceWhileConnectionsExpire(t *testing.T) {
	for _, how := range []string{"Close", "Shutdown"} {
		t.Run(how, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				c := newConnector(l)
				conns, _ := l.Pairs(3)
				m := l.mux(plex.WithConnections(conns...), plex.WithConnector(c.connect), plex.WithMaxLifetime(time.Hour),
					plex.WithConnectTimeout(24*time.Hour))

				time.Sleep(time.Hour)
				_ = c.unanswered(1)

				w := writerOf(t, m)
				began := time.Now()

				if how == "Close" {
					require.NoError(t, m.Close())
					requireClosed(t, w)
				} else {
					ended := later(func() error { return m.Shutdown(context.Background()) })
					synctest.Wait()
					requirePending(t, ended, "Shutdown")
					requireClosed(t, w)
					require.NoError(t, <-ended)
				}

				require.Zero(t, time.Since(began))
				time.Sleep(time.Hour)
				require.Equal(t, 1, c.Total())
				require.EqualValues(t, 1, m.Stats().Expired)
				require.Zero(t, plexGoroutines())
			})
		})
	}
}
