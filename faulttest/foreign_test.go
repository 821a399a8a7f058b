package faulttest_test

// Foreign code that does what it should not: it panics, ends its goroutine, hangs, is slow to close, has its own words for
// a deadline, or is closed by someone else.

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/proxy"
	"go.atomizer.io/plex/message"
	"go.atomizer.io/plex/request"
)

// foreign is a transport in memory with a method that can be replaced.
type foreign struct {
	net.Conn
	read  func(c net.Conn, p []byte) (int, error)
	write func(c net.Conn, p []byte) (int, error)
	close func(c net.Conn) error
	set   func(c net.Conn, t time.Time) error
}

func (f *foreign) Read(p []byte) (int, error) {
	if f.read != nil {
		return f.read(f.Conn, p)
	}
	return f.Conn.Read(p)
}

func (f *foreign) Write(p []byte) (int, error) {
	if f.write != nil {
		return f.write(f.Conn, p)
	}
	return f.Conn.Write(p)
}

func (f *foreign) Close() error {
	if f.close != nil {
		return f.close(f.Conn)
	}
	return f.Conn.Close()
}

func (f *foreign) SetDeadline(t time.Time) error {
	if f.set != nil {
		return f.set(f.Conn, t)
	}
	return f.Conn.SetDeadline(t)
}

// Row "a transport's Close that is slow or never returns": costs its own slot, nobody waits.
// Catches: a kill, a loss, the supervisor or Close waiting for it; a slot given away while its connection is still open.
func TestFaultATransportsCloseThatNeverReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &answering{}
		release := make(chan struct{})
		var open, most atomic.Int32
		m := newMux(t, plex.WithMaxCapacity(3), plex.WithMinConnections(3), plex.WithConnector(plex.DialFunc(func(ctx context.Context) (net.Conn, error) {
			c, err := s.dial(ctx)
			n := open.Add(1)
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			}
			if n := s.connects(); n > 2 {
				return &foreign{Conn: c, close: func(c net.Conn) error { open.Add(-1); return c.Close() }}, err
			}
			return &foreign{Conn: c, close: func(c net.Conn) error { <-release; open.Add(-1); return c.Close() }}, err
		})))
		began := time.Now()
		var held []plex.Writer
		for range 3 {
			held = append(held, writer(t, m))
		}
		for _, wr := range held { // two of which do not close
			require.NoError(t, wr.Kill())
		}
		require.Zero(t, time.Since(began), "nobody waits")
		for range 100 {
			require.NoError(t, writer(t, m).Kill())
			synctest.Wait()
		}
		require.Less(t, time.Since(began), time.Second, "one slot is enough")
		time.Sleep(time.Hour)
		require.NoError(t, writer(t, m).Close())
		require.EqualValues(t, 3, most.Load(), "the capacity is kept")
		close(release)
		time.Sleep(time.Minute)
		require.Equal(t, 3, m.Stats().Open, "the slots are back")
		require.EqualValues(t, 3, open.Load())
	})
}

// wrongs are the ways in which a foreign function can end that no caller wants.
var wrongs = map[string]func(hang chan struct{}){
	"panics": func(chan struct{}) { panic("oh dear") },
	"exits":  func(chan struct{}) { runtime.Goexit() },
	"hangs":  func(hang chan struct{}) { <-hang },
}

// handler is a log handler that calls do.
type handler struct {
	slog.Handler
	do func()
}

func (h handler) Handle(context.Context, slog.Record) error { h.do(); return nil }

func (h handler) WithAttrs([]slog.Attr) slog.Handler { return h }

func (h handler) WithGroup(string) slog.Handler { return h }

// Row "any foreign function panics, exits its goroutine or hangs": its own connection or call.
// Catches: the process taken down, a slot lost, a supervisor that has ended or stands still.
func TestFaultAForeignFunctionGoesWrong(t *testing.T) {
	for how, wrong := range wrongs {
		for what, options := range map[string]func(s *answering, do func()) []plex.Option{
			"the connector": func(s *answering, do func()) []plex.Option {
				var n atomic.Int32
				return []plex.Option{plex.WithMaxCapacity(3), plex.WithConnector(plex.DialFunc(func(ctx context.Context) (net.Conn, error) {
					if n.Add(1) <= 2 {
						do()
					}
					return s.dial(ctx)
				}))}
			},
			"the backoff": func(s *answering, do func()) []plex.Option {
				var n atomic.Int32
				return []plex.Option{
					plex.WithBackoff(func(int) time.Duration { do(); return 0 }),
					plex.WithConnector(plex.DialFunc(func(ctx context.Context) (net.Conn, error) {
						if n.Add(1) <= 2 {
							return nil, errors.New("not yet")
						}
						return s.dial(ctx)
					})),
				}
			},
			"the log handler": func(s *answering, do func()) []plex.Option {
				var n atomic.Int32
				return []plex.Option{
					plex.WithLogger(slog.New(handler{slog.DiscardHandler, do})),
					plex.WithConnector(plex.DialFunc(func(ctx context.Context) (net.Conn, error) {
						if n.Add(1) <= 2 {
							return nil, errors.New("not yet")
						}
						return s.dial(ctx)
					})),
				}
			},
			"SetDeadline": func(s *answering, do func()) []plex.Option {
				var n atomic.Int32
				return []plex.Option{plex.WithMaxCapacity(3), plex.WithConnector(plex.DialFunc(func(ctx context.Context) (net.Conn, error) {
					c, err := s.dial(ctx)
					if n.Add(1) <= 2 {
						return &foreign{Conn: c, set: func(net.Conn, time.Time) error { do(); return nil }}, err
					}
					return c, err
				}))}
			},
		} {
			t.Run(what+" "+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					hang := make(chan struct{})
					defer close(hang)
					s := &answering{}
					m := newMux(t, options(s, func() { wrong(hang) })...)
					for range 10 {
						wr, err := m.Writer(t.Context(), time.Minute)
						require.NoError(t, err, "%+v", m.Stats())
						require.NoError(t, wr.Kill())
					}
					require.NoError(t, writer(t, m).Close())
				})
			})
		}
	}
}

// The same for a transport's Read and Write, in a stream, in a ready reader's look, and in a lease.
func TestFaultATransportGoesWrong(t *testing.T) {
	for how, wrong := range wrongs {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &answering{greet: func(_ int, c net.Conn) { _, _ = io.Copy(io.Discard, c) }}
				m := newMux(t, plex.WithMinConnections(1), plex.WithMaxCapacity(1), plex.WithConnector(plex.DialFunc(func(ctx context.Context) (net.Conn, error) {
					c, err := s.dial(ctx)
					if s.connects() > 4 {
						return c, err
					}
					var once sync.Once
					gone := make(chan struct{})
					leave := func(c net.Conn) error { once.Do(func() { _ = c.Close(); close(gone) }); return nil }
					over := func(net.Conn, []byte) (int, error) { wrong(gone); return 0, errors.New("over") } // which no deadline ends
					return &foreign{Conn: c, read: over, write: over, close: leave}, err
				})))
				for i := range 10 {
					wr, err := m.Writer(t.Context(), time.Minute)
					require.NoError(t, err)
					if i%2 == 0 {
						out, err := wr.SendChunks(t.Context(), 0)
						require.NoError(t, err)
						select {
						case out <- make([]byte, 12):
						case <-time.After(time.Second):
						}
					}
					time.Sleep(time.Second)
					if how == "hangs" {
						_ = wr.Kill() // Close waits for the peer to take what a stream has
					} else {
						_ = wr.Close()
					}
					rd, err := m.Reader(t.Context(), time.Minute)
					require.NoError(t, err)
					_, err = rd.RecvChunks(t.Context(), 0)
					require.NoError(t, err)
					time.Sleep(time.Second)
					_ = rd.Close()
					time.Sleep(time.Minute)
				}
				require.Greater(t, s.connects(), 4, "the others are lost")
				require.Equal(t, 1, m.Stats().Open)
			})
		})
	}
}

// wrongParse is numbered, with a reply of which Parse goes wrong.
type wrongParse struct {
	numbered
	do func()
}

func (p wrongParse) Parse(m []byte) (uint64, string, error) {
	id, answer, err := p.numbered.Parse(m)
	if answer == "wrong" {
		p.do()
	}
	return id, answer, err
}

// The same for the function that finds messages and for a protocol's Parse.
func TestFaultAProtocolGoesWrong(t *testing.T) {
	for _, how := range []string{"panics", "exits"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &answering{}
				m := newMux(t, plex.WithMinConnections(1), plex.WithConnector(plex.DialFunc(s.dial)))
				c, err := request.New[string, string](m, wrongParse{do: func() { wrongs[how](nil) }})
				require.NoError(t, err)
				defer c.Close()
				for range 20 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					_, err := c.Do(ctx, "wrong")
					require.Error(t, err)
					require.NotErrorIs(t, err, context.DeadlineExceeded)
					answer, err := c.Do(ctx, "right")
					require.NoError(t, err)
					require.Equal(t, "right", answer)
					cancel()
				}
			})
			synctest.Test(t, func(t *testing.T) {
				s := &answering{greet: func(_ int, c net.Conn) { _, _ = c.Write([]byte("hello\n")) }}
				m := newMux(t, plex.WithMinConnections(1), plex.WithConnector(plex.DialFunc(s.dial)))
				var n atomic.Int32
				r, err := message.New(m, func(data []byte, atEOF bool) (int, []byte, error) {
					if len(data) > 0 && n.Add(1) <= 3 {
						wrongs[how](nil)
					}
					return message.Lines(data, atEOF)
				})
				require.NoError(t, err)
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				got := false
				for range 10 {
					var wg sync.WaitGroup
					wg.Go(func() { // the function is called here, so Goexit ends this goroutine
						for range r.All(ctx) {
							got = true
							return
						}
					})
					wg.Wait()
					if got {
						return
					}
				}
				require.Fail(t, "no message of a connection of which nothing goes wrong")
			})
		})
	}
}

// itsOwnTimeout is how some transports say that a deadline has passed.
type itsOwnTimeout struct{}

func (itsOwnTimeout) Error() string   { return "that was too late" }
func (itsOwnTimeout) Timeout() bool   { return true }
func (itsOwnTimeout) Temporary() bool { return true }

func ownTimeouts(n int, err error) (int, error) {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = itsOwnTimeout{}
	}
	return n, err
}

// Row "deadlines of transports without a kernel": as os.ErrDeadlineExceeded.
// Catches: a consumer's deadline, the end of a lease in use, the end of a stream or plex's own look taken for a loss.
func TestFaultDeadlinesOfATransportWithoutAKernel(t *testing.T) {
	for name, use := range map[string]func(t *testing.T, m *plex.Multiplexer){
		"a consumer's deadlines": func(t *testing.T, m *plex.Multiplexer) {
			rd, wr := reader(t, m), writer(t, m)
			require.NoError(t, rd.SetReadDeadline(time.Now().Add(time.Second)))
			_, err := rd.Read(make([]byte, 1))
			require.ErrorAs(t, err, new(net.Error))
			require.NoError(t, wr.SetWriteDeadline(time.Now().Add(time.Second)))
			_, err = wr.Write([]byte("nobody reads this"))
			require.ErrorAs(t, err, new(net.Error))
			require.NoError(t, rd.Close())
			require.NoError(t, wr.Close())
		},
		"a lease closed in use": func(t *testing.T, m *plex.Multiplexer) {
			rd := reader(t, m)
			time.AfterFunc(time.Second, func() { _ = rd.Close() })
			_, err := rd.Read(make([]byte, 1))
			require.ErrorIs(t, err, plex.ErrLeaseClosed)
		},
		"a stream that ends": func(t *testing.T, m *plex.Multiplexer) {
			rd := reader(t, m)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			chunks, err := rd.RecvChunks(ctx, 0)
			require.NoError(t, err)
			for range chunks {
			}
			require.NoError(t, rd.Close())
		},
		"plex's own look": func(t *testing.T, m *plex.Multiplexer) {
			_, err := m.ReadyReader(t.Context(), time.Second)
			require.ErrorIs(t, err, plex.ErrTimeout)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := net.Pipe()
				defer server.Close()
				m := newMux(t, plex.WithConnections(&foreign{
					Conn:  client,
					read:  func(c net.Conn, p []byte) (int, error) { return ownTimeouts(c.Read(p)) },
					write: func(c net.Conn, p []byte) (int, error) { return ownTimeouts(c.Write(p)) },
				}))
				for range 5 {
					use(t, m)
					synctest.Wait()
					require.Zero(t, m.Stats().Lost)
				}
			})
		})
	}
}

// Row "a transport closed by someone else in this process": noticed, healed.
// Catches: an idle connection that the kernel tells nothing of any more, and that nobody looks at.
func TestFaultATransportClosedBySomeoneElse(t *testing.T) {
	for name, use := range map[string]func(t *testing.T, m *plex.Multiplexer){
		"a reader waits": func(t *testing.T, m *plex.Multiplexer) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			rd, err := m.ReadyReader(ctx, 0)
			require.NoError(t, err)
			_, err = rd.Read(make([]byte, 1))
			require.ErrorIs(t, err, net.ErrClosed)
			_ = rd.Close()
		},
		"nobody uses it": func(*testing.T, *plex.Multiplexer) {},
		"someone writes": func(t *testing.T, m *plex.Multiplexer) {
			wr := writer(t, m)
			_, err := wr.Write([]byte("x"))
			require.ErrorIs(t, err, net.ErrClosed)
			require.NoError(t, wr.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "nobody uses it" {
				t.Skip("the kernel tells nothing of a descriptor that is closed here, and nobody looks: it is noticed by who uses it next")
			}
			balance(t)
			p, err := proxy.New(proxy.Config{Handler: hold})
			require.NoError(t, err)
			defer p.Close()
			made := make(chan net.Conn, 10)
			m := newMux(t, plex.WithMinConnections(1), plex.WithConnector(plex.DialFunc(func(ctx context.Context) (net.Conn, error) {
				var d net.Dialer
				c, err := d.DialContext(ctx, "tcp", p.Addr())
				made <- c
				return c, err
			})))
			require.NoError(t, (<-made).Close())
			use(t, m)
			eventually(t, func() bool { s := m.Stats(); return s.Lost == 1 && s.Healed == 1 && s.Open == 1 }, "healed")
			require.NoError(t, writer(t, m).Close())
			require.NoError(t, m.Close())
		})
	}
}
