package plex_test

// Connecting: what a Connect may do with its handle, what the adapters do, and that every misbehaviour has an outcome
// that says so, closes what it brought, exactly once, and harms nothing else.

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
)

// ---------------------------------------------------------------------------------------------------------------
// The handle

func TestConnectHandshakesThroughTheHandle(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c, peer := l.Pair()
		go func() {
			if peer.ReadN(5) == "USER\n" {
				peer.Send("+OK\nbanner for the first reader")
			}
		}()
		m := l.mustOpen(1, attaching(c, func(_ context.Context, handle net.Conn) error {
			if _, err := handle.Write([]byte("USER\n")); err != nil {
				return err
			}
			answer := make([]byte, 4)
			if _, err := io.ReadFull(handle, answer); err != nil {
				return err
			}
			assert.Equal(t, "+OK\n", string(answer))
			assert.Equal(t, c.LocalAddr(), handle.LocalAddr())
			assert.Equal(t, c.RemoteAddr(), handle.RemoteAddr())
			return nil
		}))
		assert.Equal(t, c.RemoteAddr(), m.Addr())
		r := readerOf(t, m)
		assert.Equal(t, "banner for the first reader", readN(t, r, 27))
		requireClosed(t, r)
		requireExchange(t, m, peer)
		stats := m.Stats()
		assert.EqualValues(t, 1, stats.Connected)
		assert.Zero(t, stats.ConnectFailed)
		assert.NoError(t, stats.LastConnectError)
	})
}

func TestConnectDeadlinesPassThroughTheHandle(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c, peer := l.Pair()
		_ = l.mustOpen(1, attaching(c, func(_ context.Context, handle net.Conn) error {
			require.NoError(t, handle.SetReadDeadline(time.Now().Add(time.Second)))
			start := time.Now()
			_, err := handle.Read(make([]byte, 1))
			assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
			assert.Equal(t, time.Second, time.Since(start))

			peer.Allow(0)
			require.NoError(t, handle.SetWriteDeadline(time.Now().Add(time.Second)))
			n, err := handle.Write([]byte("x"))
			assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
			assert.Zero(t, n)
			assert.Equal(t, 2*time.Second, time.Since(start))
			peer.Allow(-1)

			at := time.Now().Add(time.Minute)
			require.NoError(t, handle.SetDeadline(at))
			read, write := c.DeadlinesLeft()
			assert.Equal(t, []time.Time{at, at}, []time.Time{read, write})

			require.NoError(t, handle.SetDeadline(time.Time{}))
			read, write = c.DeadlinesLeft()
			assert.True(t, read.IsZero() && write.IsZero())
			return nil
		}))
	})
}

func TestConnectDeadlineLeftByAHandshakeIsCleared(t *testing.T) {
	for _, way := range []string{"handle", "read deadline", "write deadline", "passed", "transport", "transport before Attach"} {
		t.Run(way, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				c, peer := l.Pair()
				if way == "transport before Attach" {
					require.NoError(t, c.SetDeadline(time.Now().Add(time.Second)))
				}
				m := l.mustOpen(1, attaching(c, func(_ context.Context, handle net.Conn) error {
					switch at := time.Now().Add(time.Second); way {
					case "handle":
						return handle.SetDeadline(at)
					case "read deadline":
						return handle.SetReadDeadline(at)
					case "write deadline":
						return handle.SetWriteDeadline(at)
					case "passed":
						return handle.SetDeadline(past)
					case "transport":
						return c.SetDeadline(at)
					}
					return nil
				}))
				read, write := c.DeadlinesLeft()
				assert.True(t, read.IsZero(), "read deadline %v", read)
				assert.True(t, write.IsZero(), "write deadline %v", write)
				time.Sleep(time.Minute)
				requireExchange(t, m, peer)
				requireKept(t, m, 1)
			})
		})
	}
}

func TestConnectHandleBeforeAttach(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c, peer := l.Pair()
		m := l.mustOpen(1, func(_ context.Context, handle net.Conn) error {
			_, err := handle.Read(make([]byte, 1))
			assert.ErrorContains(t, err, "Attach")
			_, err = handle.Write([]byte("x"))
			assert.ErrorContains(t, err, "Attach")
			assert.ErrorContains(t, handle.SetDeadline(time.Now()), "Attach")
			assert.ErrorContains(t, handle.SetReadDeadline(time.Now()), "Attach")
			assert.ErrorContains(t, handle.SetWriteDeadline(time.Now()), "Attach")
			assert.ErrorContains(t, handle.Close(), "Attach")
			assert.Nil(t, handle.RemoteAddr(), "there has not been a connection yet")
			assert.Nil(t, handle.LocalAddr())
			return plex.Attach(handle, c)
		})
		requireExchange(t, m, peer)
	})
}

func TestConnectRemoteAddrIsThePoolsBeforeAttach(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		given, _ := l.Pair()
		c, _ := l.Pair()
		l.mustOpen(2, func(_ context.Context, handle net.Conn) error {
			assert.Equal(t, given.RemoteAddr(), handle.RemoteAddr())
			return plex.Attach(handle, c)
		}, plex.WithConnections(given))
	})
}

// TestConnectHandleIsInertAfterwards keeps the handle and uses it while others lease the connection.
func TestConnectHandleIsInertAfterwards(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c, peer := l.Pair()
		var handle net.Conn
		m := l.mustOpen(1, attaching(c, func(_ context.Context, conn net.Conn) error {
			handle = conn
			return nil
		}))
		inert := func() {
			t.Helper()
			before := c.Calls()
			n, err := handle.Read(make([]byte, 10))
			assert.ErrorIs(t, err, net.ErrClosed)
			assert.Zero(t, n)
			n, err = handle.Write([]byte("stale"))
			assert.ErrorIs(t, err, net.ErrClosed)
			assert.Zero(t, n)
			assert.ErrorIs(t, handle.SetDeadline(past), net.ErrClosed)
			assert.ErrorIs(t, handle.SetReadDeadline(past), net.ErrClosed)
			assert.ErrorIs(t, handle.SetWriteDeadline(past), net.ErrClosed)
			assert.ErrorIs(t, handle.Close(), net.ErrClosed)
			assert.Equal(t, before, c.Calls(), "nothing reached the transport")
			assert.Equal(t, c.RemoteAddr(), handle.RemoteAddr())
			assert.Equal(t, c.LocalAddr(), handle.LocalAddr())
		}
		peer.Send("for the reader")
		inert()
		r, w := readerOf(t, m), writerOf(t, m)
		inert()
		assert.Equal(t, "for the reader", readN(t, r, 14))
		_, err := w.Write([]byte("from the writer"))
		require.NoError(t, err)
		assert.Equal(t, "from the writer", peer.Unread())
		requireClosed(t, r, w)
		inert()

		// Attach with it closes what it is given, which nobody else would.
		late, _ := l.Pair()
		assert.Error(t, plex.Attach(handle, late))
		assert.Equal(t, 1, late.Closes())
		requireKept(t, m, 1)
	})
}

// TestConnectLeavesAReadBehind: a goroutine that Connect has left blocked in the handle's Read ends, and takes no byte
// from the first reader.
func TestConnectLeavesAReadBehind(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c, peer := l.Pair()
		left := make(chan outcome, 3)
		m := l.mustOpen(1, attaching(c, func(_ context.Context, handle net.Conn) error {
			for range 3 {
				go func() {
					n, err := handle.Read(make([]byte, 100))
					left <- outcome{n, err}
				}()
			}
			synctest.Wait() // they are blocked
			return nil
		}))
		for range 3 {
			got := <-left
			assert.Zero(t, got.n)
			assert.ErrorIs(t, got.err, net.ErrClosed)
		}
		requireExchange(t, m, peer)
		requireKept(t, m, 1)
	})
}

// TestConnectLeavesAWriteBehind: as long as none of it was written the connection is as good as before. Otherwise the
// next message would be read as its rest.
func TestConnectLeavesAWriteBehind(t *testing.T) {
	for _, allowed := range []int{0, 3} {
		t.Run(fmt.Sprintf("%d written", allowed), func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				c, peer := l.Pair()
				peer.Allow(allowed)
				left := make(chan outcome, 1)
				connect := attaching(c, func(_ context.Context, handle net.Conn) error {
					go func() {
						n, err := handle.Write([]byte("message"))
						left <- outcome{n, err}
					}()
					synctest.Wait()
					return nil
				})
				if allowed == 0 {
					m := l.mustOpen(1, connect)
					peer.Allow(-1)
					requireExchange(t, m, peer)
				} else {
					assert.ErrorIs(t, refused(t, l, connect), plex.ErrPartialWrite)
				}
				got := <-left
				assert.Equal(t, allowed, got.n)
				assert.Error(t, got.err)
			})
		})
	}
}

func TestConnectHandleIsSafeForManyGoroutines(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c, peer := l.Pair()
		go func() { _, _ = io.Copy(peer, peer) }()
		m := l.mustOpen(1, attaching(c, func(_ context.Context, handle net.Conn) error {
			var users sync.WaitGroup
			for range 8 {
				users.Go(func() {
					for range 20 {
						_, err := handle.Write([]byte("x"))
						assert.NoError(t, err)
						_, err = handle.Read(make([]byte, 1))
						assert.NoError(t, err)
						assert.NoError(t, handle.SetDeadline(time.Now().Add(time.Hour)))
						assert.NotNil(t, handle.RemoteAddr())
					}
				})
			}
			users.Wait()
			return nil
		}))
		requireKept(t, m, 1)
	})
}

func TestConnectContextCarriesTheTimeout(t *testing.T) {
	for _, timeout := range []time.Duration{0, 3 * time.Second} {
		bubble(t, func(t *testing.T, l *ledger) {
			var opts []plex.Option
			want := 10 * time.Second // the default
			if timeout > 0 {
				opts, want = append(opts, plex.WithConnectTimeout(timeout)), timeout
			}
			c, _ := l.Pair()
			var seen context.Context
			l.mustOpen(1, func(ctx context.Context, handle net.Conn) error {
				deadline, ok := ctx.Deadline()
				assert.True(t, ok)
				assert.Equal(t, want, time.Until(deadline))
				assert.NoError(t, ctx.Err())
				seen = ctx
				return plex.Attach(handle, c)
			}, opts...)
			assert.Error(t, seen.Err(), "over with its Connect")
		})
	}
}

// TestConnectContextEndsWithNews: who gives up on New gives up on its connects.
func TestConnectContextEndsWithNews(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := newConnector(l)
		ctx, cancel := context.WithCancel(context.Background())
		failed := later(func() error {
			_, err := plex.New(ctx, plex.WithMaxCapacity(2), plex.WithMinConnections(2), plex.WithConnector(c.connect))
			return err
		})
		call := c.next()
		requirePending(t, failed, "New")
		start := time.Now()
		cancel()
		assert.ErrorIs(t, <-failed, context.Canceled)
		assert.Zero(t, time.Since(start))
		assert.Error(t, call.Ctx.Err())
		synctest.Wait()
		connecting := c.Counts().Dialing
		assert.Zero(t, connecting)
	})
}

// ---------------------------------------------------------------------------------------------------------------
// Misbehaviour

var errLogin = errors.New("login refused")

// TestConnectMisbehaviours has each thing that a Connect may do wrong happen beside a healthy connection. Unless said
// otherwise it is attached to a connection of the ledger, which thereby is closed exactly once.
func TestConnectMisbehaviours(t *testing.T) {
	for _, tc := range []struct {
		name    string
		connect func(t *testing.T, l *ledger) plex.Connect
		is      error  // what New's error matches
		says    string // and contains
	}{
		{
			name: "returns nil without attaching",
			connect: func(*testing.T, *ledger) plex.Connect {
				return func(context.Context, net.Conn) error { return nil }
			},
			is: plex.ErrNotAttached,
		},
		{
			name: "returns an error without attaching",
			connect: func(*testing.T, *ledger) plex.Connect {
				return func(context.Context, net.Conn) error { return errLogin }
			},
			is: errLogin,
		},
		{
			name: "returns an error after attaching",
			connect: func(_ *testing.T, l *ledger) plex.Connect {
				c, _ := l.Pair()
				return attaching(c, func(context.Context, net.Conn) error { return errLogin })
			},
			is: errLogin,
		},
		{
			name: "attaches twice",
			connect: func(t *testing.T, l *ledger) plex.Connect {
				first, _ := l.Pair()
				second, _ := l.Pair()
				return attaching(first, func(_ context.Context, handle net.Conn) error {
					err := plex.Attach(handle, second)
					assert.ErrorIs(t, err, plex.ErrAttached)
					assert.Equal(t, 1, second.Closes())
					return err
				})
			},
			is: plex.ErrAttached,
		},
		{
			name: "attaches the same twice",
			connect: func(t *testing.T, l *ledger) plex.Connect {
				c, _ := l.Pair()
				return attaching(c, func(_ context.Context, handle net.Conn) error {
					err := plex.Attach(handle, c)
					assert.ErrorIs(t, err, plex.ErrAttached)
					return err
				})
			},
			is: plex.ErrAttached,
		},
		{
			name: "attaches nil",
			connect: func(t *testing.T, _ *ledger) plex.Connect {
				return func(_ context.Context, handle net.Conn) error { return plex.Attach(handle, nil) }
			},
			is: plex.ErrNilConnection,
		},
		{
			name: "attaches nil and forgets the error",
			connect: func(t *testing.T, _ *ledger) plex.Connect {
				return func(_ context.Context, handle net.Conn) error {
					assert.ErrorIs(t, plex.Attach(handle, nil), plex.ErrNilConnection)
					return nil
				}
			},
			is: plex.ErrNilConnection,
		},
		{
			name: "attaches a typed nil",
			connect: func(*testing.T, *ledger) plex.Connect {
				return func(_ context.Context, handle net.Conn) error { return plex.Attach(handle, (*net.TCPConn)(nil)) }
			},
			is: plex.ErrNilConnection,
		},
		{
			name: "attaches its handle",
			connect: func(*testing.T, *ledger) plex.Connect {
				return func(_ context.Context, handle net.Conn) error { return plex.Attach(handle, handle) }
			},
		},
		{
			name: "attaches its handle behind a connection",
			connect: func(t *testing.T, l *ledger) plex.Connect {
				c, _ := l.Pair()
				return attaching(c, func(_ context.Context, handle net.Conn) error {
					err := plex.Attach(handle, handle)
					assert.Error(t, err)
					return err
				})
			},
		},
		{
			name: "attaches what is closed",
			connect: func(_ *testing.T, l *ledger) plex.Connect {
				return func(_ context.Context, handle net.Conn) error {
					c, _ := fakenet.Pair()
					_ = c.Close()
					return plex.Attach(handle, c)
				}
			},
			is: net.ErrClosed,
		},
		{
			name: "closes the handle",
			connect: func(t *testing.T, l *ledger) plex.Connect {
				c, _ := l.Pair()
				return attaching(c, func(_ context.Context, handle net.Conn) error {
					assert.NoError(t, handle.Close())
					synctest.Wait()
					assert.Equal(t, 1, c.Closes())
					_, err := handle.Write([]byte("x"))
					assert.Error(t, err)
					_, err = handle.Read(make([]byte, 1))
					assert.Error(t, err)
					_ = handle.Close() // once is enough
					return nil
				})
			},
			says: "closed the connection",
		},
		{
			name: "closes the handle and returns an error",
			connect: func(t *testing.T, l *ledger) plex.Connect {
				c, _ := l.Pair()
				return attaching(c, func(_ context.Context, handle net.Conn) error {
					return errors.Join(errLogin, handle.Close())
				})
			},
			is: errLogin,
		},
		{
			name: "closes the handle and attaches another",
			connect: func(t *testing.T, l *ledger) plex.Connect {
				first, _ := l.Pair()
				second, _ := l.Pair()
				return attaching(first, func(_ context.Context, handle net.Conn) error {
					_ = handle.Close()
					err := plex.Attach(handle, second)
					assert.Error(t, err)
					assert.Equal(t, 1, second.Closes())
					return err
				})
			},
		},
		{
			name: "panics",
			connect: func(*testing.T, *ledger) plex.Connect {
				return func(context.Context, net.Conn) error { panic("at the disco") }
			},
			says: "at the disco",
		},
		{
			name: "panics after attaching",
			connect: func(_ *testing.T, l *ledger) plex.Connect {
				c, _ := l.Pair()
				return attaching(c, func(context.Context, net.Conn) error { panic("at the disco") })
			},
			says: "at the disco",
		},
		{
			name: "panics with an error",
			connect: func(_ *testing.T, l *ledger) plex.Connect {
				c, _ := l.Pair()
				return attaching(c, func(context.Context, net.Conn) error { panic(errLogin) })
			},
			is:   errLogin,
			says: errLogin.Error(),
		},
		{
			name: "panics with nil",
			connect: func(*testing.T, *ledger) plex.Connect {
				return func(context.Context, net.Conn) error { panic(nil) }
			},
			says: "panic",
		},
		{
			name: "panics at run time",
			connect: func(*testing.T, *ledger) plex.Connect {
				return func(context.Context, net.Conn) error {
					var none []int
					return fmt.Errorf("%d", none[len(none)])
				}
			},
			says: "index out of range",
		},
		{
			name: "leaves with runtime.Goexit",
			connect: func(*testing.T, *ledger) plex.Connect {
				return func(context.Context, net.Conn) error { runtime.Goexit(); return nil }
			},
			says: "Goexit",
		},
		{
			name: "leaves with runtime.Goexit after attaching",
			connect: func(_ *testing.T, l *ledger) plex.Connect {
				c, _ := l.Pair()
				return attaching(c, func(context.Context, net.Conn) error { runtime.Goexit(); return nil })
			},
			says: "Goexit",
		},
		{
			name: "closes the transport",
			connect: func(t *testing.T, _ *ledger) plex.Connect {
				c, _ := fakenet.Pair() // closed twice, by Connect and by plex, which cannot know
				return attaching(c, func(context.Context, net.Conn) error { return c.Close() })
			},
			is: net.ErrClosed,
		},
		{
			name: "ends with a write cut short",
			connect: func(t *testing.T, l *ledger) plex.Connect {
				c, peer := l.Pair()
				peer.Allow(3)
				return attaching(c, func(_ context.Context, handle net.Conn) error {
					assert.NoError(t, handle.SetWriteDeadline(time.Now().Add(time.Second)))
					n, err := handle.Write([]byte("message"))
					assert.Equal(t, 3, n)
					assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
					return nil
				})
			},
			is: plex.ErrPartialWrite,
		},
		{
			name: "reads to the end",
			connect: func(t *testing.T, l *ledger) plex.Connect {
				c, peer := l.Pair()
				peer.Send("go away")
				_ = peer.Close()
				return attaching(c, func(_ context.Context, handle net.Conn) error {
					got, err := io.ReadAll(handle)
					assert.NoError(t, err)
					assert.Equal(t, "go away", string(got))
					return nil
				})
			},
			is: io.EOF, // nobody could use it
		},
		{
			name: "is reset and forgets the error",
			connect: func(t *testing.T, l *ledger) plex.Connect {
				c, peer := l.Pair()
				peer.Reset(syscall.ECONNRESET, false)
				return attaching(c, func(_ context.Context, handle net.Conn) error {
					_, err := handle.Read(make([]byte, 1))
					assert.ErrorIs(t, err, syscall.ECONNRESET)
					return nil
				})
			},
			is: syscall.ECONNRESET,
		},
		{
			name: "DialFunc returns nothing",
			connect: func(*testing.T, *ledger) plex.Connect {
				return plex.DialFunc(func(context.Context) (net.Conn, error) { return nil, nil })
			},
			is: plex.ErrNilConnection,
		},
		{
			name: "DialFunc returns a typed nil",
			connect: func(*testing.T, *ledger) plex.Connect {
				return plex.DialFunc(func(context.Context) (net.Conn, error) { return (*net.TCPConn)(nil), nil })
			},
			is: plex.ErrNilConnection,
		},
		{
			name: "DialFunc returns a typed nil and an error",
			connect: func(*testing.T, *ledger) plex.Connect {
				return plex.DialFunc(func(context.Context) (net.Conn, error) { return (*net.TCPConn)(nil), errLogin })
			},
			is: errLogin,
		},
		{
			name: "DialFunc returns both a connection and an error",
			connect: func(_ *testing.T, l *ledger) plex.Connect {
				c, _ := l.Pair()
				return plex.DialFunc(func(context.Context) (net.Conn, error) { return c, errLogin })
			},
			is: errLogin,
		},
		{
			name: "DialFunc panics",
			connect: func(*testing.T, *ledger) plex.Connect {
				return plex.DialFunc(func(context.Context) (net.Conn, error) { panic("at the disco") })
			},
			says: "at the disco",
		},
		{
			name: "DialContext returns both a connection and an error",
			connect: func(_ *testing.T, l *ledger) plex.Connect {
				c, _ := l.Pair()
				return plex.DialContext(dialer(func() (net.Conn, error) { return c, errLogin }), "fake", "address")
			},
			is: errLogin,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				err := refused(t, l, tc.connect(t, l))
				if tc.is != nil {
					assert.ErrorIs(t, err, tc.is)
				}
				assert.Contains(t, err.Error(), tc.says)
				assert.Contains(t, err.Error(), "plex: ")
			})
		})
	}
}

// dialer is a plex.ContextDialer.
type dialer func() (net.Conn, error)

func (d dialer) DialContext(context.Context, string, string) (net.Conn, error) { return d() }

func TestConnectPanicCarriesItsStack(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		assert.Contains(t, refused(t, l, panickingConnect).Error(), "panickingConnect")
	})
}

func panickingConnect(context.Context, net.Conn) error { panic("find me") }

// TestConnectForgetsTheSecondAttach: a Connect that attaches twice does not know what it does, so whatever it returns
// is a failure.
func TestConnectForgetsTheSecondAttach(t *testing.T) {
	for _, same := range []bool{false, true} {
		t.Run(fmt.Sprintf("same=%v", same), func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				first, _ := l.Pair()
				second := first
				if !same {
					second, _ = l.Pair()
				}
				assert.ErrorIs(t, refused(t, l, attaching(first, func(_ context.Context, handle net.Conn) error {
					assert.ErrorIs(t, plex.Attach(handle, second), plex.ErrAttached)
					return nil
				})), plex.ErrAttached)
			})
		})
	}
}

// TestConnectAttachesWhatIsInThePool: the connection has its place already, so it is refused and not closed.
func TestConnectAttachesWhatIsInThePool(t *testing.T) {
	t.Run("given", func(t *testing.T) {
		bubble(t, func(t *testing.T, l *ledger) {
			given, peer := l.Pair()
			_, err := l.open(2, attaching(given, nil), plex.WithConnections(given))
			assert.ErrorIs(t, err, plex.ErrKnownConnection)
			assert.Zero(t, given.Closes())
			requireExchange(t, l.mux(plex.WithConnections(given)), peer)
		})
	})
	t.Run("connected", func(t *testing.T) {
		bubble(t, func(t *testing.T, l *ledger) {
			c, _ := l.Pair()
			_, err := l.open(2, attaching(c, nil))
			assert.ErrorIs(t, err, plex.ErrKnownConnection)
		})
	})
	t.Run("forgotten", func(t *testing.T) {
		bubble(t, func(t *testing.T, l *ledger) {
			given, _ := l.Pair()
			l.HandedBack(given)
			_, err := l.open(2, func(_ context.Context, handle net.Conn) error {
				assert.ErrorIs(t, plex.Attach(handle, given), plex.ErrKnownConnection)
				return nil
			}, plex.WithConnections(given))
			assert.ErrorIs(t, err, plex.ErrKnownConnection)
		})
	})
	t.Run("and another then", func(t *testing.T) {
		bubble(t, func(t *testing.T, l *ledger) {
			given, _ := l.Pair()
			other, _ := l.Pair()
			l.HandedBack(given)
			_, err := l.open(2, func(_ context.Context, handle net.Conn) error {
				assert.ErrorIs(t, plex.Attach(handle, given), plex.ErrKnownConnection)
				return plex.Attach(handle, other)
			}, plex.WithConnections(given))
			assert.ErrorIs(t, err, plex.ErrKnownConnection)
		})
	})
	t.Run("and again once it is gone", func(t *testing.T) {
		// A connection's identity ends with it.
		bubble(t, func(t *testing.T, l *ledger) {
			c, peer := fakenet.Pair()
			conn := &reusable{c}
			m := l.mux()
			for range 3 {
				rest, err := m.Add(t.Context(), conn)
				require.NoError(t, err)
				require.Empty(t, rest)
				requireExchange(t, m, peer)
				require.NoError(t, readerOf(t, m).Kill())
				synctest.Wait()
				require.Zero(t, m.Stats().Open)
			}
			_, err := l.open(1, attaching(conn, func(context.Context, net.Conn) error { return errLogin }))
			require.ErrorIs(t, err, errLogin)
			requireExchange(t, l.mustOpen(1, attaching(conn, nil)), peer)
		})
	})
}

// reusable is a connection whose Close does nothing.
type reusable struct{ *fakenet.Conn }

func (*reusable) Close() error { return nil }

// TestConnectAttachesAnotherPoolsHandle: it is refused, and the other pool goes on.
func TestConnectAttachesAnotherPoolsHandle(t *testing.T) {
	for _, attached := range []bool{false, true} {
		t.Run(fmt.Sprintf("attached=%v", attached), func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				c, peer := l.Pair()
				handles, proceed := make(chan net.Conn), make(chan struct{})
				other := later(func() *plex.Multiplexer {
					return l.mustOpen(1, func(_ context.Context, handle net.Conn) error {
						if attached {
							if err := plex.Attach(handle, c); err != nil {
								return err
							}
						}
						handles <- handle
						<-proceed
						if !attached {
							return plex.Attach(handle, c)
						}
						return nil
					})
				})
				foreign := <-handles
				assert.Error(t, refused(t, l, attaching(foreign, nil)))
				close(proceed)
				m := <-other
				requireExchange(t, m, peer)

				// Nor is it of use when its Connect has returned.
				assert.Error(t, refused(t, l, attaching(foreign, nil)))
				requireExchange(t, m, peer)
				requireKept(t, m, 1)
			})
		})
	}
}

// TestAttachToTheHandleOfAConnectThatFailed: its slot is another connect's by then.
func TestAttachToTheHandleOfAConnectThatFailed(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		given, _ := l.Pair()
		healed, peer := l.Pair()
		late, _ := l.Pair()
		var stale net.Conn
		m := l.mux(plex.WithConnections(given), plex.WithConnector(func(_ context.Context, handle net.Conn) error {
			if stale == nil {
				stale = handle
				return errLogin
			}
			assert.ErrorIs(t, plex.Attach(stale, late), net.ErrClosed)
			assert.Equal(t, 1, late.Closes())
			return plex.Attach(handle, healed)
		}))
		require.NoError(t, readerOf(t, m).Kill())
		eventually(t, func() bool { return m.Stats().Connected == 1 }, "the second connect")
		requireExchange(t, m, peer)
		stats := m.Stats()
		assert.EqualValues(t, 1, stats.ConnectFailed)
		assert.EqualValues(t, 1, stats.Connected)
		assert.NoError(t, stats.LastConnectError, "the latest succeeded")
		assert.Zero(t, stats.Connecting)
	})
}

func TestAttachOutsideOfAConnect(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		notAHandle, _ := l.Pair()
		c, _ := l.Pair()
		l.HandedBack(notAHandle, c)
		assert.Error(t, plex.Attach(notAHandle, c))
		assert.Error(t, plex.Attach(nil, c))
		assert.Error(t, plex.Attach(nil, nil))
		assert.Error(t, plex.Attach((*net.TCPConn)(nil), c))
	})
}

// TestAttachFromManyGoroutines: one of them wins, the others' transports are closed, and the connect fails because
// there were others.
func TestAttachFromManyGoroutines(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		var won atomic.Int64
		err := refused(t, l, func(_ context.Context, handle net.Conn) error {
			var all sync.WaitGroup
			for range 16 {
				c, _ := l.Pair()
				all.Go(func() {
					switch err := plex.Attach(handle, c); {
					case err == nil:
						won.Add(1)
					default:
						assert.ErrorIs(t, err, plex.ErrAttached)
						assert.Equal(t, 1, c.Closes())
					}
				})
			}
			all.Wait()
			return nil
		})
		assert.EqualValues(t, 1, won.Load())
		assert.ErrorIs(t, err, plex.ErrAttached)
	})
}

// ---------------------------------------------------------------------------------------------------------------
// Time

// TestConnectThatIgnoresItsContext: New returns on time, and what the Connect brings later is closed.
func TestConnectThatIgnoresItsContext(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		given, _ := l.Pair()
		l.HandedBack(given)
		c := newConnector(l)
		c.IgnoreCtx = true
		start := time.Now()
		failed := later(func() error {
			_, err := l.open(2, c.connect, plex.WithConnections(given), plex.WithConnectTimeout(time.Second))
			return err
		})
		call := c.next()
		assert.ErrorIs(t, <-failed, context.DeadlineExceeded)
		assertOnTime(t, start, time.Second)
		assert.Error(t, call.Ctx.Err())

		time.Sleep(time.Hour)
		late, _ := l.Pair()
		answer := make(chan error, 1)
		call.Do(func() (*fakenet.Conn, error) {
			answer <- plex.Attach(call.Handle, late)
			return nil, nil
		})
		assert.Error(t, <-answer)
		assert.Equal(t, 1, late.Closes())
		synctest.Wait()
		connecting := c.Counts().Dialing
		assert.Zero(t, connecting)
	})
}

// assertOnTime checks that a connect timeout was kept. One that ignores its ctx is waited for a little longer.
func assertOnTime(t *testing.T, start time.Time, timeout time.Duration) {
	t.Helper()
	assert.GreaterOrEqual(t, time.Since(start), timeout)
	assert.LessOrEqual(t, time.Since(start), timeout+time.Second)
}

// TestConnectThatHangsInItsHandshake: what it attached is closed when its time is up, which unblocks it.
func TestConnectThatHangsInItsHandshake(t *testing.T) {
	for _, op := range []string{"read", "write", "neither"} {
		t.Run(op, func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				c, peer := l.Pair()
				peer.Allow(0)
				ended := make(chan error, 1)
				start := time.Now()
				err := refused(t, l, attaching(c, func(ctx context.Context, handle net.Conn) error {
					var err error
					switch op {
					case "read":
						_, err = handle.Read(make([]byte, 1))
					case "write":
						_, err = handle.Write([]byte("login"))
					case "neither":
						<-peer.ConnClosed()
						err = ctx.Err()
					}
					ended <- err
					return err
				}), plex.WithConnectTimeout(time.Second))
				assert.ErrorIs(t, err, context.DeadlineExceeded)
				assert.Error(t, <-ended)
				assertOnTime(t, start, time.Second)
				assert.Equal(t, 1, c.Closes())
			})
		})
	}
}

// TestConnectThatNeverReturns costs New its timeout and nothing else; the connections that the others brought are
// closed.
func TestConnectThatNeverReturns(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		given, _ := l.Pair()
		l.HandedBack(given)
		release := make(chan struct{})
		t.Cleanup(func() { close(release) })
		var calls atomic.Int64
		start := time.Now()
		_, err := l.open(4, func(_ context.Context, handle net.Conn) error {
			if calls.Add(1) == 2 {
				<-release
				return nil
			}
			c, _ := l.Pair()
			return plex.Attach(handle, c)
		}, plex.WithConnections(given))
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assertOnTime(t, start, 10*time.Second)
	})
}

// TestConnectThatSucceedsTooLate returns nil for a connection that it attached in time.
func TestConnectThatSucceedsTooLate(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c, _ := l.Pair()
		over := make(chan struct{})
		err := refused(t, l, attaching(c, func(context.Context, net.Conn) error {
			defer close(over)
			time.Sleep(time.Minute)
			return nil
		}))
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, 1, c.Closes())
		<-over
	})
}

// TestConnectTransportThatCannotBeInterrupted: its Read goes on when a deadline passes, so it has to be closed for the
// handle to become inert.
func TestConnectTransportThatCannotBeInterrupted(t *testing.T) {
	for _, mode := range []fakenet.Deadlines{fakenet.DeadlinesRefused, fakenet.DeadlinesIgnored} {
		for _, busy := range []bool{false, true} {
			t.Run(fmt.Sprintf("mode=%d busy=%v", mode, busy), func(t *testing.T) {
				bubble(t, func(t *testing.T, l *ledger) {
					c, peer := l.Pair()
					c.TreatDeadlines(mode)
					left := make(chan error, 1)
					connect := attaching(c, func(_ context.Context, handle net.Conn) error {
						if busy {
							go func() {
								_, err := handle.Read(make([]byte, 1))
								left <- err
							}()
							synctest.Wait()
						}
						return nil
					})
					if busy {
						start := time.Now()
						assert.Error(t, refused(t, l, connect))
						assert.Error(t, <-left)
						assert.LessOrEqual(t, time.Since(start), time.Second, "no need to wait for the connect timeout")
						return
					}
					m := l.mustOpen(1, connect)
					requireExchange(t, m, peer)
					requireKept(t, m, 1)
				})
			})
		}
	}
}

// ---------------------------------------------------------------------------------------------------------------
// Several

// TestConnectHoldsTheCapacity counts, inside Connect, the connections open and being connected.
func TestConnectHoldsTheCapacity(t *testing.T) {
	for _, given := range []int{0, 3} {
		t.Run(fmt.Sprintf("%d given", given), func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) {
				const capacity = 8
				conns, _ := l.Pairs(given)
				c := newConnector(l)
				opened := later(func() *plex.Multiplexer {
					return l.mustOpen(capacity, c.connect, plex.WithConnections(conns...))
				})
				for range capacity - given {
					call := c.next()
					time.Sleep(time.Second)
					conn, _ := l.Pair()
					call.Succeed(conn)
				}
				m := <-opened
				counts := c.Counts()
				assert.Equal(t, capacity-given, counts.Total)
				assert.Zero(t, counts.Dialing)
				assert.LessOrEqual(t, counts.PeakInUse, capacity-given)
				requireKept(t, m, capacity)
				stats := m.Stats()
				assert.Equal(t, capacity, stats.Capacity)
				assert.EqualValues(t, capacity-given, stats.Connected)
			})
		})
	}
}

// TestConnectOneOfSeveralFails: New's minimum is all or nothing.
func TestConnectOneOfSeveralFails(t *testing.T) {
	for _, how := range []string{"error", "panic", "Goexit"} {
		for fails := 1; fails <= 4; fails++ {
			t.Run(fmt.Sprintf("%s/%d of 4", how, fails), func(t *testing.T) {
				bubble(t, func(t *testing.T, l *ledger) {
					c := newConnector(l)
					failed := later(func() error { return refused(t, l, c.connect, plex.WithMaxCapacity(5), plex.WithMinConnections(5)) })
					for i := 1; i <= fails; i++ {
						call := c.next()
						switch {
						case i < fails:
							conn, _ := l.Pair()
							call.Succeed(conn)
						case how == "error":
							call.Fail(errLogin)
						case how == "panic":
							call.Panic(errLogin)
						case how == "Goexit":
							call.Do(func() (*fakenet.Conn, error) { runtime.Goexit(); return nil, nil })
						}
						synctest.Wait()
					}
					start := time.Now()
					err := <-failed
					assert.Zero(t, time.Since(start), "nobody waits for the others")
					if how != "Goexit" {
						assert.ErrorIs(t, err, errLogin)
					}
					synctest.Wait()
					connecting := c.Counts().Dialing
					assert.Zero(t, connecting, "those under way were told to stop")
				})
			})
		}
	}
}

// TestConnectFailuresAreWorthReading: New's error names the connect's.
func TestConnectFailuresAreWorthReading(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		err := refused(t, l, func(context.Context, net.Conn) error { return errLogin })
		assert.Contains(t, err.Error(), errLogin.Error())
		assert.True(t, strings.HasPrefix(err.Error(), "plex: "), err.Error())
	})
}

// ---------------------------------------------------------------------------------------------------------------
// The adapters

func TestDialersThatAreNil(t *testing.T) {
	var noDialer *net.Dialer
	for name, connect := range map[string]plex.Connect{
		"DialContext":          plex.DialContext(nil, "tcp", "127.0.0.1:1"),
		"DialContext typed":    plex.DialContext(noDialer, "tcp", "127.0.0.1:1"),
		"DialFunc":             plex.DialFunc(nil),
		"DialAddr":             plex.DialAddr(nil),
		"a Connect of nothing": nil,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := plex.New(t.Context(), plex.WithMinConnections(1), plex.WithConnector(connect))
			require.Error(t, err)
			assert.Contains(t, err.Error(), "WithConnector")
		})
	}
}

func TestDialFuncGetsTheConnectsContext(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c, peer := l.Pair()
		m := l.mustOpen(1, plex.DialFunc(func(ctx context.Context) (net.Conn, error) {
			deadline, ok := ctx.Deadline()
			assert.True(t, ok)
			assert.Equal(t, time.Minute, time.Until(deadline))
			return c, nil
		}), plex.WithConnectTimeout(time.Minute))
		requireExchange(t, m, peer)
	})
}

// TestDialFuncThatComesTooLate ignores its ctx, and its connection is closed.
func TestDialAddrIsToldWhatItReplaces(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		var told []net.Addr
		m := l.mustOpen(1, plex.DialAddr(func(_ context.Context, addr net.Addr) (net.Conn, error) {
			told = append(told, addr)
			c, _ := l.Pair()
			return c, nil
		}))
		w := writerOf(t, m)
		first := w.RemoteAddr()
		require.Equal(t, []net.Addr{nil}, told)
		require.NoError(t, w.Kill())
		synctest.Wait()
		require.Equal(t, []net.Addr{nil, first}, told)
	})
}

func TestDialFuncThatComesTooLate(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c, peer := l.Pair()
		err := refused(t, l, plex.DialFunc(func(context.Context) (net.Conn, error) {
			time.Sleep(time.Minute)
			return c, nil
		}))
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		<-peer.ConnClosed()
	})
}

func TestDialContextPassesItsArgumentsOn(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c, peer := l.Pair()
		m := l.mustOpen(1, plex.DialContext(argumentsDialer(func(ctx context.Context, network, address string) (net.Conn, error) {
			assert.Equal(t, "network", network)
			assert.Equal(t, "address:of=it", address)
			_, ok := ctx.Deadline()
			assert.True(t, ok)
			return c, nil
		}), "network", "address:of=it"))
		requireExchange(t, m, peer)
	})
}

type argumentsDialer func(ctx context.Context, network, address string) (net.Conn, error)

func (d argumentsDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return d(ctx, network, address)
}

// TestDialersOverRealSockets has the adapters connect to an echo server.
func TestDialersOverRealSockets(t *testing.T) {
	for _, tc := range []struct {
		name   string
		listen func(t *testing.T) net.Listener
		dial   func(t *testing.T, addr net.Addr) plex.Connect
	}{
		{"Dial tcp", listenTCP, func(_ *testing.T, addr net.Addr) plex.Connect {
			return plex.Dial("tcp", addr.String())
		}},
		{"Dial tcp4 by name", listenTCP, func(_ *testing.T, addr net.Addr) plex.Connect {
			return plex.Dial("tcp4", fmt.Sprintf("localhost:%d", addr.(*net.TCPAddr).Port))
		}},
		{"Dial unix", listenUnix, func(_ *testing.T, addr net.Addr) plex.Connect {
			return plex.Dial("unix", addr.String())
		}},
		{"DialContext with a net.Dialer", listenTCP, func(_ *testing.T, addr net.Addr) plex.Connect {
			return plex.DialContext(&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}}, "tcp", addr.String())
		}},
		{"DialContext with a tls.Dialer", listenTLS, func(t *testing.T, addr net.Addr) plex.Connect {
			_, config := tlsConfigs(t)
			return plex.DialContext(&tls.Dialer{Config: config}, "tcp", addr.String())
		}},
		{"DialFunc", listenTCP, func(_ *testing.T, addr net.Addr) plex.Connect {
			return plex.DialFunc(func(context.Context) (net.Conn, error) { return net.Dial("tcp", addr.String()) })
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLedger(t)
			listener := tc.listen(t)
			var accepted atomic.Int64
			var server sync.WaitGroup
			server.Go(func() {
				for {
					c, err := listener.Accept()
					if err != nil {
						return
					}
					accepted.Add(1)
					server.Go(func() {
						echo(c)
						_ = c.Close()
					})
				}
			})
			t.Cleanup(func() {
				assert.NoError(t, listener.Close())
				server.Wait()
			})
			m := l.mustOpen(3, tc.dial(t, listener.Addr()))
			assert.Equal(t, listener.Addr().String(), m.Addr().String())
			requireKept(t, m, 3)
			for range 5 {
				// There is no telling which connection a lease is on, and the echo comes back over the same: write over
				// all and read from all.
				var leases []io.Closer
				for range 3 {
					w := writerOf(t, m)
					_, err := w.Write([]byte("echo"))
					require.NoError(t, err)
					leases = append(leases, w)
				}
				for range 3 {
					r := leaseReader(t, m) // plex may be looking at it
					assert.Equal(t, "echo", readN(t, r, 4))
					leases = append(leases, r)
				}
				requireClosed(t, leases...)
			}
			assert.EqualValues(t, 3, accepted.Load())
		})
	}
}

func listenTCP(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return l
}

func listenUnix(t *testing.T) net.Listener {
	t.Helper()
	dir, err := os.MkdirTemp("", "plex")
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	require.NoError(t, err)
	return l
}

func listenTLS(t *testing.T) net.Listener {
	t.Helper()
	config, _ := tlsConfigs(t)
	return tls.NewListener(listenTCP(t), config)
}

// TestDialRefused: New says what the system said, and to which address.
func TestDialRefused(t *testing.T) {
	l := newLedger(t)
	listener := listenTCP(t)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	for name, connect := range map[string]plex.Connect{
		"Dial":        plex.Dial("tcp", address),
		"DialContext": plex.DialContext(&net.Dialer{}, "tcp", address),
	} {
		_, err := l.open(2, connect)
		assert.ErrorIs(t, err, syscall.ECONNREFUSED, name)
		assert.Contains(t, err.Error(), address, name)
	}
	_, err := l.open(1, plex.Dial("no such network", address))
	var unknown net.UnknownNetworkError
	assert.ErrorAs(t, err, &unknown)
}

func TestAHandshakeThatWaitsForTheTransportEndsWithTheConnectTimeout(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		conn, peer := l.Pair()
		took := make(chan time.Duration, 1)
		m := l.mux(plex.WithConnector(func(ctx context.Context, handle net.Conn) error {
			if err := plex.Attach(handle, conn); err != nil {
				return err
			}
			began := time.Now()
			_, err := handle.Read(make([]byte, 1)) // no deadline, and the peer says nothing
			took <- time.Since(began)
			return err
		}), plex.WithConnectTimeout(3*time.Second), plex.WithBackoff(func(int) time.Duration { return time.Hour }))

		_, err := m.Writer(t.Context(), 5*time.Second)
		require.ErrorIs(t, err, plex.ErrTimeout)
		require.ErrorIs(t, err, context.DeadlineExceeded, "what the connect died of")
		require.Equal(t, 3*time.Second, <-took)
		requireClosedOnce(t, peer.Conn())
		require.Equal(t, []int{0, 0}, []int{m.Stats().Open, m.Stats().Connecting}, "its slot is free")
	})
}

// A connect to a Unix socket whose backlog is full fails at once. The service is there, so New goes on
// trying; not for ever, if nobody accepts.
func TestNewRidesOutAFullBacklog(t *testing.T) {
	full := &net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", syscall.EAGAIN)}
	t.Run("others are accepted later", func(t *testing.T) {
		bubble(t, func(t *testing.T, l *ledger) {
			s := newService(l)
			s.set(func(s *service) { s.refusal = full })
			time.AfterFunc(3*time.Second, s.comeUp)
			m := s.pool(4)
			require.Equal(t, 4, m.Stats().Open)
			require.Less(t, m.Stats().ConnectFailed, uint64(20), "at the pace of the service")
		})
	})
	t.Run("nobody accepts", func(t *testing.T) {
		bubble(t, func(t *testing.T, l *ledger) {
			start := time.Now()
			err := refused(t, l, func(context.Context, net.Conn) error { return full },
				plex.WithMinConnections(2), plex.WithConnectTimeout(5*time.Second))
			require.ErrorIs(t, err, syscall.EAGAIN)
			require.WithinRange(t, time.Now(), start.Add(5*time.Second), start.Add(7*time.Second))
		})
	})
}
