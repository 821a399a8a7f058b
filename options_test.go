package plex_test

// What New makes of its options: every bad one is named, nothing is taken or left behind on an error, and
// WithMinConnections is all or nothing.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
)

// uncomparableConn is a net.Conn that panics when it is compared or used as a map key.
type uncomparableConn struct {
	*fakenet.Conn
	_ []int
}

func TestNewNamesTheBadOptionSaysWhatIsWrongAndWhatWouldBeRight(t *testing.T) {
	var (
		typedNil  *fakenet.Conn
		nilLogger *slog.Logger
		ms        = time.Millisecond
		given     = plex.WithConnections
		capacity  = plex.WithMaxCapacity
		minimum   = plex.WithMinConnections
		scaling   = plex.WithAutoScaling
	)

	type option = plex.Option

	for _, tc := range []struct {
		name string
		// opts may use three good connections, and a connector that must not be called.
		opts func(a, b, c net.Conn, connector option) []option
		is   error
		want []string
	}{
		{
			"nil connection", func(a, _, c net.Conn, _ option) []option { return []option{given(a, nil, c)} },
			plex.ErrNilConnection,
			[]string{"WithConnections", "connection 2 of 3", "nil"},
		},
		{
			"connection holding a nil pointer", func(a, b, _ net.Conn, _ option) []option { return []option{given(a, b, typedNil)} },
			plex.ErrNilConnection,
			[]string{"WithConnections", "connection 3 of 3", "nil"},
		},
		{
			"nil connection in a second WithConnections", func(a, _, _ net.Conn, _ option) []option { return []option{given(a), given(nil)} },
			plex.ErrNilConnection,
			[]string{"WithConnections", "connection 2 of 2", "nil"},
		},
		{
			"same connection twice", func(a, b, _ net.Conn, _ option) []option { return []option{given(a, b, a)} },
			plex.ErrKnownConnection,
			[]string{"WithConnections", "connection 3 of 3", "connection 1", "once"},
		},
		{
			"same connection in two options", func(a, _, _ net.Conn, _ option) []option { return []option{given(a), given(a)} },
			plex.ErrKnownConnection,
			[]string{"WithConnections", "connection 2 of 2", "connection 1", "once"},
		},
		{
			"capacity of zero", func(_, _, _ net.Conn, _ option) []option { return []option{capacity(0)} },
			nil,
			[]string{"WithMaxCapacity", "0", "at least 1"},
		},
		{
			"capacity below zero", func(_, _, _ net.Conn, _ option) []option { return []option{capacity(-7)} },
			nil,
			[]string{"WithMaxCapacity", "-7", "at least 1"},
		},
		{
			"capacity below the connections given", func(a, b, c net.Conn, _ option) []option { return []option{given(a, b, c), capacity(2)} },
			nil,
			[]string{"WithMaxCapacity", "2", "WithConnections", "3 connections", "at least 3"},
		},
		{
			"nil connector", func(_, _, _ net.Conn, _ option) []option { return []option{plex.WithConnector(nil)} },
			nil,
			[]string{"WithConnector", "nil"},
		},
		{
			"nil connector behind a good one", func(_, _, _ net.Conn, connector option) []option { return []option{connector, plex.WithConnector(nil)} },
			nil,
			[]string{"WithConnector", "nil"},
		},
		{
			"nil option", func(a, _, _ net.Conn, _ option) []option { return []option{given(a), nil} },
			nil,
			[]string{"option 2 of 2", "nil"},
		},
		{
			"auto-scaling of zero", func(_, _, _ net.Conn, connector option) []option { return []option{connector, capacity(3), scaling(0)} },
			nil,
			[]string{"WithAutoScaling", "0s", "above zero"},
		},
		{
			"auto-scaling below zero", func(_, _, _ net.Conn, connector option) []option {
				return []option{connector, capacity(3), scaling(-ms)}
			},
			nil,
			[]string{"WithAutoScaling", "-1ms", "above zero"},
		},
		{
			"auto-scaling without a connector", func(a, _, _ net.Conn, _ option) []option { return []option{given(a), capacity(3), scaling(ms)} },
			nil,
			[]string{"WithAutoScaling", "WithConnector"},
		},
		{"auto-scaling with no room beside the connections", func(a, b, _ net.Conn, connector option) []option {
			return []option{given(a, b), connector, scaling(ms)}
		}, nil, []string{"WithAutoScaling", "room", "2", "WithMaxCapacity"}},
		{"auto-scaling with no room beside the minimum", func(_, _, _ net.Conn, connector option) []option {
			return []option{minimum(4), capacity(4), connector, scaling(ms)}
		}, nil, []string{"WithAutoScaling", "room", "4", "WithMaxCapacity"}},
		{"minimum above the capacity", func(_, _, _ net.Conn, connector option) []option {
			return []option{minimum(4), capacity(3), connector}
		}, nil, []string{"WithMinConnections", "4", "3", "WithMaxCapacity"}},
		{"minimum above the connections given without a connector", func(a, _, _ net.Conn, _ option) []option {
			return []option{given(a), minimum(2), capacity(3)}
		}, nil, []string{"WithMinConnections", "WithConnector"}},
		{
			"minimum below zero", func(a, _, _ net.Conn, _ option) []option { return []option{given(a), minimum(-1)} },
			nil,
			[]string{"WithMinConnections", "-1", "at least 0"},
		},
		{
			"idle timeout of zero", func(a, _, _ net.Conn, _ option) []option { return []option{given(a), plex.WithIdleTimeout(0)} },
			nil,
			[]string{"WithIdleTimeout", "0s", "above zero"},
		},
		{
			"idle timeout below zero", func(a, _, _ net.Conn, _ option) []option { return []option{given(a), plex.WithIdleTimeout(-ms)} },
			nil,
			[]string{"WithIdleTimeout", "-1ms", "above zero"},
		},
		{
			"lifetime of zero", func(_, _, _ net.Conn, connector option) []option { return []option{connector, plex.WithMaxLifetime(0)} },
			nil,
			[]string{"WithMaxLifetime", "0s", "above zero"},
		},
		{
			"lifetime below zero", func(_, _, _ net.Conn, connector option) []option {
				return []option{connector, plex.WithMaxLifetime(-ms)}
			},
			nil,
			[]string{"WithMaxLifetime", "-1ms", "above zero"},
		},
		{"connect timeout of zero", func(_, _, _ net.Conn, connector option) []option {
			return []option{connector, plex.WithConnectTimeout(0)}
		}, nil, []string{"WithConnectTimeout", "0s", "above zero"}},
		{"connect timeout below zero", func(_, _, _ net.Conn, connector option) []option {
			return []option{connector, plex.WithConnectTimeout(-ms)}
		}, nil, []string{"WithConnectTimeout", "-1ms", "above zero"}},
		{
			"leak threshold of zero", func(a, _, _ net.Conn, _ option) []option { return []option{given(a), plex.WithLeakDetection(0)} },
			nil,
			[]string{"WithLeakDetection", "0s", "above zero"},
		},
		{
			"leak threshold below zero", func(a, _, _ net.Conn, _ option) []option { return []option{given(a), plex.WithLeakDetection(-ms)} },
			nil,
			[]string{"WithLeakDetection", "-1ms", "above zero"},
		},
		{"a bound of zero on connects", func(_, _, _ net.Conn, connector option) []option {
			return []option{connector, plex.WithMaxConnecting(0)}
		}, nil, []string{"WithMaxConnecting", "is 0", "at least 1"}},
		{
			"a bound on connects without a connector", func(a, _, _ net.Conn, _ option) []option {
				return []option{given(a), plex.WithMaxConnecting(1)}
			},
			nil,
			[]string{"WithMaxConnecting", "WithConnector"},
		},
		{
			"a bound on waiters below zero", func(a, _, _ net.Conn, _ option) []option { return []option{given(a), plex.WithMaxWaiting(-1)} },
			nil,
			[]string{"WithMaxWaiting", "is -1", "at least 0"},
		},
		{"to fail fast without a failure", func(_, _, _ net.Conn, connector option) []option {
			return []option{connector, plex.WithFailFast(0)}
		}, nil, []string{"WithFailFast", "is 0", "at least 1"}},
		{
			"to fail fast without a connector", func(a, _, _ net.Conn, _ option) []option { return []option{given(a), plex.WithFailFast(1)} },
			nil,
			[]string{"WithFailFast", "WithConnector"},
		},
		{
			"an empty name", func(a, _, _ net.Conn, _ option) []option { return []option{given(a), plex.WithName("")} },
			nil,
			[]string{"WithName", "empty"},
		},
		{
			"a probe without a function", func(a, _, _ net.Conn, _ option) []option { return []option{given(a), plex.WithProbe(ms, ms, nil)} },
			nil,
			[]string{"WithProbe", "function is nil"},
		},
		{
			"a probe without an idle time", func(a, _, _ net.Conn, _ option) []option { return []option{given(a), plex.WithProbe(0, ms, pings)} },
			nil,
			[]string{"WithProbe", "idle time is 0s", "above zero"},
		},
		{
			"a probe without a timeout", func(a, _, _ net.Conn, _ option) []option { return []option{given(a), plex.WithProbe(ms, -ms, pings)} },
			nil,
			[]string{"WithProbe", "timeout is -1ms", "above zero"},
		},
		{
			"a trace without a function", func(a, _, _ net.Conn, _ option) []option { return []option{given(a), plex.WithTrace(plex.Trace{})} },
			nil,
			[]string{"WithTrace", "no function"},
		},
		{
			"nil observer", func(a, _, _ net.Conn, _ option) []option { return []option{given(a), plex.WithObserver(nil)} },
			nil,
			[]string{"WithObserver", "nil"},
		},
		{
			"nil backoff", func(_, _, _ net.Conn, connector option) []option { return []option{connector, plex.WithBackoff(nil)} },
			nil,
			[]string{"WithBackoff", "nil"},
		},
		{
			"nil logger", func(a, _, _ net.Conn, _ option) []option { return []option{given(a), plex.WithLogger(nilLogger)} },
			nil,
			[]string{"WithLogger", "nil"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLedger(t)
				conns, _ := l.Pairs(3)
				dials := newConnector(l)
				dials.Auto = func(int) (*fakenet.Conn, error) { return nil, errors.New("must not be called") }
				l.HandedBack(conns...)

				past := time.Now().Add(-time.Hour)
				for _, c := range conns {
					require.NoError(t, c.SetDeadline(past))
				}

				m, err := plex.New(context.Background(), tc.opts(conns[0], conns[1], conns[2], plex.WithConnector(dials.connect))...)
				require.Error(t, err)
				assert.Nil(t, m)
				assert.True(t, strings.HasPrefix(err.Error(), "plex: "), err)
				assert.Equal(t, 1, len(strings.Split(err.Error(), "\n")), "only one thing is wrong: %v", err)

				for _, part := range tc.want {
					assert.Contains(t, err.Error(), part)
				}

				if tc.is != nil {
					assert.ErrorIs(t, err, tc.is)
				}

				calls := dials.Counts().Total
				assert.Zero(t, calls, "New validates before it opens anything")

				for _, c := range conns {
					read, write := c.(*fakenet.Conn).DeadlinesLeft()
					assert.Equal(t, []time.Time{past, past}, []time.Time{read, write}, "what New refuses it does not touch")
				}
			})
		})
	}
}

func TestNewRefusesANilContextInsteadOfPanicking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, _ := l.Pairs(1)
		l.HandedBack(conns...)

		m, err := plex.New(nilContext, plex.WithConnections(conns...))
		require.ErrorContains(t, err, "context")
		require.Nil(t, m)
	})
}

func TestNewWithAnEndedContextTakesAndOpensNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, _ := l.Pairs(2)
		dials := newConnector(l)
		dials.Auto = func(int) (*fakenet.Conn, error) { c, _ := l.Pair(); return c, nil }
		l.HandedBack(conns...)

		ctx, cancel := context.WithCancel(context.Background())
		cancel()

		for _, minimum := range []int{2, 4} {
			_, err := plex.New(ctx, plex.WithConnections(conns...), plex.WithMaxCapacity(4),
				plex.WithMinConnections(minimum), plex.WithConnector(dials.connect))
			require.ErrorIs(t, err, context.Canceled)
		}
	})
}

// permutations calls f with every order of opts.
func permutations(opts []plex.Option, f func([]plex.Option)) {
	var permute func(k int)

	permute = func(k int) {
		if k == len(opts) {
			f(slices.Clone(opts))
		}

		for i := k; i < len(opts); i++ {
			opts[k], opts[i] = opts[i], opts[k]
			permute(k + 1)
			opts[k], opts[i] = opts[i], opts[k]
		}
	}

	permute(0)
}

func TestOptionsGiveTheSameMultiplexerInEveryOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		orders := 0

		dial := plex.DialFunc(func(context.Context) (net.Conn, error) { c, _ := l.Pair(); return c, nil })
		opts := []plex.Option{
			nil, // the connections, new ones for each order
			plex.WithMaxCapacity(5),
			plex.WithMinConnections(4),
			plex.WithConnector(dial),
			plex.WithAutoScaling(time.Second),
			plex.WithConnectTimeout(time.Second),
		}

		permutations(opts, func(opts []plex.Option) {
			orders++

			conns, _ := l.Pairs(2)
			for i := range opts {
				if opts[i] == nil {
					opts[i] = plex.WithConnections(conns...)
				}
			}

			m, err := plex.New(context.Background(), opts...)
			require.NoError(t, err)

			s := m.Stats()
			require.Equal(t, [4]int{5, 4, 4, 4}, [4]int{s.Capacity, s.Open, s.IdleReaders, s.IdleWriters})
			require.Equal(t, conns[0].RemoteAddr(), m.Addr())
			require.NoError(t, m.Close())
		})

		require.Equal(t, 720, orders)
	})
}

func TestBadOptionsGiveTheSameErrorInEveryOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, _ := l.Pairs(2)
		l.HandedBack(conns...)

		seen := map[string]int{}

		permutations([]plex.Option{
			plex.WithConnections(conns...), // more than the capacity
			plex.WithMaxCapacity(1),
			plex.WithMinConnections(3),        // above the capacity, without a connector
			plex.WithAutoScaling(time.Second), // no room, no connector
			plex.WithMaxLifetime(0),
		}, func(opts []plex.Option) {
			_, err := plex.New(context.Background(), opts...)
			require.Error(t, err)

			seen[err.Error()]++
		})

		require.Len(t, seen, 1)
	})
}

func TestCapacityIsTheNumberOfConnectionsGivenUnlessSaidOtherwise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)

		three, _ := l.Pairs(3)
		require.Equal(t, 3, l.mux(plex.WithConnections(three...)).Stats().Capacity)

		split, _ := l.Pairs(3)
		require.Equal(t, 3, l.mux(plex.WithConnections(split[0]), plex.WithConnections(split[1:]...)).Stats().Capacity)

		more, _ := l.Pairs(3)
		require.Equal(t, 5, l.mux(plex.WithConnections(more...), plex.WithMaxCapacity(5)).Stats().Capacity)

		empty := l.mux()
		require.Equal(t, plex.Stats{Capacity: 1}, empty.Stats())
		require.Nil(t, empty.Addr())
		require.Equal(t, 1, l.mux(plex.WithConnections()).Stats().Capacity)
	})
}

func TestTheCallersSliceIsItsOwnAfterNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, _ := l.Pairs(2)
		opt := plex.WithConnections(conns...)
		m := l.mux(opt)

		first := conns[0].RemoteAddr()
		clear(conns)

		require.Equal(t, first, m.Addr())
		requireClosed(t, readerOf(t, m), readerOf(t, m))
	})
}

func TestMinConnectionsAreOpenWhenNewReturns(t *testing.T) {
	for given := range 4 {
		t.Run(fmt.Sprintf("%d given", given), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLedger(t)
				conns, _ := l.Pairs(given)
				dials := newConnector(l)
				dials.Auto = func(int) (*fakenet.Conn, error) { c, _ := l.Pair(); return c, nil }

				m := l.mux(plex.WithConnections(conns...), plex.WithMinConnections(3), plex.WithMaxCapacity(4),
					plex.WithConnector(dials.connect))

				calls, connecting := dials.Total(), dials.Counts().Dialing
				require.Equal(t, 3-given, calls)
				require.Zero(t, connecting)

				s := m.Stats()
				require.Equal(t, [4]int{3, 3, 3, 0}, [4]int{s.Open, s.IdleReaders, s.IdleWriters, s.Connecting})
				require.EqualValues(t, 3-given, s.Connected)
				require.Zero(t, s.Healed+s.ScaledUp+s.ConnectFailed)
				require.NoError(t, s.LastConnectError)
				require.NotNil(t, m.Addr())
			})
		})
	}
}

func TestAMinimumThatTheGivenConnectionsMeetConnectsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, _ := l.Pairs(3)

		require.Equal(t, 3, l.mux(plex.WithConnections(conns...), plex.WithMinConnections(2)).Stats().Open)
		require.Zero(t, l.mux(plex.WithMinConnections(0)).Stats().Open)
	})
}

var errDialRefused = errors.New("connection refused by the test")

func TestMinConnectionsAreAllOrNothing(t *testing.T) {
	for _, tc := range []struct {
		name string
		fail func(k *fakenet.Dial)
		want string
		is   error
	}{
		{"one fails", func(k *fakenet.Dial) { k.Fail(errDialRefused) }, errDialRefused.Error(), errDialRefused},
		{"one panics", func(k *fakenet.Dial) { k.Panic("the test's own panic") }, "the test's own panic", nil},
		{"one panics with an error", func(k *fakenet.Dial) { k.Panic(errDialRefused) }, errDialRefused.Error(), nil},
		{"one attaches nothing", func(k *fakenet.Dial) { k.Fail(nil) }, "", plex.ErrNotAttached},
	} {
		for failing := range 3 {
			t.Run(fmt.Sprintf("%s as number %d", tc.name, failing+1), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l := newLedger(t)
					conns, _ := l.Pairs(1)
					dials := newConnector(l)
					l.HandedBack(conns...)

					answered := make(chan struct{})

					go func() {
						defer close(answered)

						for i := range failing + 1 { // whether New connects one at a time or all at once
							call := dials.next()
							if i == failing {
								tc.fail(call)
							} else {
								c, _ := l.Pair()
								call.Succeed(c)
							}

							synctest.Wait()
						}
					}()

					began := time.Now()
					m, err := plex.New(context.Background(), plex.WithConnections(conns...), plex.WithMinConnections(4),
						plex.WithMaxCapacity(4), plex.WithConnector(dials.connect))
					require.Error(t, err)
					require.Nil(t, m)
					require.Contains(t, err.Error(), "WithMinConnections")
					require.Contains(t, err.Error(), tc.want)

					if tc.is != nil {
						require.ErrorIs(t, err, tc.is)
					}

					require.Zero(t, time.Since(began), "the others are not waited for until their timeout")

					connecting, peak := dials.Counts().Dialing, dials.Counts().PeakInUse
					require.Zero(t, connecting, "the other connects have been told to stop, and waited for")
					require.LessOrEqual(t, peak, 3, "with the one given, the capacity")
					require.Empty(t, l.Unbalanced(), "nothing is left open that New opened")
					<-answered
				})
			})
		}
	}
}

func TestNewGivesUpOnAHangingConnectAtTheConnectTimeout(t *testing.T) {
	for _, ignore := range []bool{false, true} {
		t.Run(fmt.Sprintf("ignores its ctx: %v", ignore), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLedger(t)
				dials := newConnector(l)
				dials.IgnoreCtx = ignore

				began := time.Now()
				m, err := plex.New(context.Background(), plex.WithMinConnections(2), plex.WithMaxCapacity(2),
					plex.WithConnectTimeout(3*time.Second), plex.WithConnector(dials.connect))
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.Contains(t, err.Error(), "WithMinConnections")
				require.Nil(t, m)

				if took := time.Since(began); ignore {
					require.LessOrEqual(t, took, 4*time.Second, "one that ignores its ctx is given a moment, not for ever")
				} else {
					require.Equal(t, 3*time.Second, took)
				}

				if ignore { // the late ones must be closed, as the ledger checks
					for dials.Pending() > 0 {
						c, _ := l.Pair()
						call := dials.next()
						call.Do(func() (*fakenet.Conn, error) {
							err := plex.Attach(call.Handle, c)
							assert.ErrorIs(t, err, plex.ErrClosed)

							return nil, err
						})
						synctest.Wait()
						requireClosedOnce(t, c, "a connection that comes late is closed")
					}
				}
			})
		})
	}
}

func TestNewGivesUpOnAHangingConnectAfterTenSecondsByDefault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dials := newConnector(newLedger(t))
		began := time.Now()
		_, err := plex.New(context.Background(), plex.WithMinConnections(1), plex.WithConnector(dials.connect))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 10*time.Second, time.Since(began))
	})
}

func TestNewGivesUpOnAHangingConnectWhenItsContextEnds(t *testing.T) {
	for _, ignore := range []bool{false, true} {
		t.Run(fmt.Sprintf("ignores its ctx: %v", ignore), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLedger(t)
				conns, _ := l.Pairs(1)
				dials := newConnector(l)
				dials.IgnoreCtx = ignore
				l.HandedBack(conns...)

				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()

				began := time.Now()
				m, err := plex.New(ctx, plex.WithConnections(conns...), plex.WithMinConnections(3), plex.WithMaxCapacity(3),
					plex.WithConnector(dials.connect))
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.Nil(t, m)

				if took := time.Since(began); ignore {
					require.LessOrEqual(t, took, 2*time.Second)
				} else {
					require.Equal(t, time.Second, took)
				}

				if ignore {
					for dials.Pending() > 0 {
						c, _ := l.Pair()
						dials.next().Succeed(c)
						synctest.Wait()
						requireClosedOnce(t, c)
					}
				}
			})
		})
	}
}

func TestNewClosesAConnectionWhoseHandshakeHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		c, _ := l.Pair()
		dials := newConnector(l)
		dials.Auto = func(int) (*fakenet.Conn, error) { return c, nil }
		dials.handshake = func(handle net.Conn) error { // the peer never answers, and nobody looks at the ctx
			_, _ = handle.Read(make([]byte, 1))

			return nil
		}

		began := time.Now()
		_, err := plex.New(context.Background(), plex.WithMinConnections(1), plex.WithConnectTimeout(time.Second),
			plex.WithConnector(dials.connect))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.LessOrEqual(t, time.Since(began), 2*time.Second)
		requireClosedOnce(t, c)

		connecting := dials.Counts().Dialing
		require.Zero(t, connecting, "the close has unblocked the handshake")
	})
}

func TestMinConnectionsConnectWithinTheCapacityWithGivenOnesCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, _ := l.Pairs(3)
		dials := newConnector(l)
		made := make(chan *plex.Multiplexer)

		go func() {
			made <- l.mux(plex.WithConnections(conns...), plex.WithMinConnections(8), plex.WithMaxCapacity(8),
				plex.WithConnector(dials.connect))
		}()

		for range 5 {
			call := dials.next()
			require.NotNil(t, call.Handle)
			require.Equal(t, conns[0].RemoteAddr(), call.Handle.RemoteAddr(), "where a new connection is to lead")

			deadline, ok := call.Ctx.Deadline()
			require.True(t, ok, "the connect timeout")
			require.Equal(t, 10*time.Second, time.Until(deadline))

			c, _ := l.Pair()
			call.Succeed(c)
			synctest.Wait()
		}

		m := <-made
		peak := dials.Counts().PeakInUse
		require.Equal(t, 8, m.Stats().Open)
		require.LessOrEqual(t, peak, 5)
	})
}

func TestADeadlineLeftByAHandshakeIsClearedBeforeTheFirstLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		c, p := l.Pair()
		dials := newConnector(l)
		dials.Auto = func(int) (*fakenet.Conn, error) { return c, nil }
		dials.handshake = func(handle net.Conn) error { return handle.SetDeadline(time.Now().Add(time.Second)) }

		m := l.mux(plex.WithMinConnections(1), plex.WithConnector(dials.connect))

		read, write := c.DeadlinesLeft()
		require.True(t, read.IsZero() && write.IsZero())

		time.Sleep(2 * time.Second)
		p.Send("x")

		r, w := readerOf(t, m), writerOf(t, m)
		_, err := r.Read(make([]byte, 1))
		require.NoError(t, err)
		_, err = w.Write([]byte("y"))
		require.NoError(t, err)
		requireClosed(t, r, w)
	})
}

func TestAHandshakeThatFailsHasItsTransportClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		dials := newConnector(l)
		dials.Auto = func(int) (*fakenet.Conn, error) { c, _ := l.Pair(); return c, nil }
		dials.handshake = func(net.Conn) error { return errDialRefused }

		_, err := plex.New(context.Background(), plex.WithMinConnections(1), plex.WithConnector(dials.connect))
		require.ErrorIs(t, err, errDialRefused)
	})
}

func TestTheEndOfNewsContextClosesTheMultiplexer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, peers := l.Pairs(2)
		ctx, cancel := context.WithCancel(context.Background())

		m, err := plex.New(ctx, plex.WithConnections(conns...))
		require.NoError(t, err)

		leased, idle := readerOf(t, m), readerOf(t, m)
		requireClosed(t, idle)

		read := make(chan error)

		go func() {
			_, err := leased.Read(make([]byte, 1))
			read <- err
		}()

		synctest.Wait()
		cancel()
		require.ErrorIs(t, <-read, plex.ErrClosed)

		for _, p := range peers {
			<-p.ConnClosed()
		}

		_, err = m.Reader(context.Background(), 0)
		require.ErrorIs(t, err, plex.ErrClosed)
		require.NoError(t, m.Close())
		require.NoError(t, leased.Close())
		synctest.Wait()
	})
}

func TestCloseDetachesTheMultiplexerFromNewsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		conns, _ := l.Pairs(1)
		ctx, cancel := context.WithCancel(context.Background())

		m, err := plex.New(ctx, plex.WithConnections(conns...))
		require.NoError(t, err)
		require.NoError(t, m.Close())
		cancel()
		synctest.Wait()
	})
}
