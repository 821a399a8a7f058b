package streams

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/check"
	"go.atomizer.io/plex/message"
	"go.atomizer.io/plex/request"
)

// No deadline of anybody's, a consumer's, a ctx's, the end of a lease or plex's own look, costs a stream.
// Catches: a timeout of the library's own taken for the end of the connection.
func TestNoDeadlineCostsAStream(t *testing.T) {
	for name, use := range map[string]func(t *testing.T, m *plex.Multiplexer){
		"a read deadline that passes": func(t *testing.T, m *plex.Multiplexer) {
			r := reader(t, m)
			require.NoError(t, r.SetReadDeadline(time.Now().Add(5*time.Millisecond)))
			_, err := r.Read(make([]byte, 1))
			require.True(t, timedOut(err), "%v", err)
			require.NoError(t, r.Close())
		},
		"a read deadline that has passed": func(t *testing.T, m *plex.Multiplexer) {
			r := reader(t, m)
			require.NoError(t, r.SetReadDeadline(time.Now().Add(-time.Second)))
			_, err := r.Read(make([]byte, 1))
			require.True(t, timedOut(err), "%v", err)
			require.NoError(t, r.Close())
		},
		"a write deadline that has passed": func(t *testing.T, m *plex.Multiplexer) {
			w := writer(t, m)
			require.NoError(t, w.SetWriteDeadline(time.Now().Add(-time.Second)))
			n, err := w.Write([]byte("x")) // which a library may write all the same
			require.True(t, n == 1 || timedOut(err), "%d, %v", n, err)
			require.NoError(t, w.Close())
		},
		"a lease closed in use": func(t *testing.T, m *plex.Multiplexer) {
			r := reader(t, m)
			time.AfterFunc(5*time.Millisecond, func() { _ = r.Close() })
			_, err := r.Read(make([]byte, 1))
			require.ErrorIs(t, err, plex.ErrLeaseClosed)
			eventually(t, func() bool { return m.Stats().LeasedReaders == 0 }, "the lease has ended")
		},
		"a stream of chunks whose ctx ends": func(t *testing.T, m *plex.Multiplexer) {
			r := reader(t, m)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
			defer cancel()
			chunks, err := r.RecvChunks(ctx, 0)
			require.NoError(t, err)
			for range chunks {
			}
			require.NoError(t, r.Close())
		},
		"a stream of bytes that is closed": func(t *testing.T, m *plex.Multiplexer) {
			r := reader(t, m)
			_, err := r.Recv(t.Context(), 0)
			require.NoError(t, err)
			require.NoError(t, r.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, l library) {
				m := serve(t, l, echo).pool(plex.WithMinConnections(1))
				for range 5 {
					use(t, m)
					w := writer(t, m)
					_, err := io.WriteString(w, "echo")
					require.NoError(t, err)
					require.NoError(t, w.Close())
					r, got, p := reader(t, m), "", make([]byte, 1)
					for !strings.HasSuffix(got, "echo") {
						_, err = io.ReadFull(r, p)
						require.NoError(t, err)
						got += string(p)
					}
					require.Equal(t, "echo", strings.TrimPrefix(got, "x")) // smux may write it, and say that it has not
					require.NoError(t, r.Close())
				}
				s := m.Stats()
				require.Equal(t, [2]uint64{0, 1}, [2]uint64{s.Lost, s.Connected}, "lost and connected")
			})
		})
	}
}

func timedOut(err error) bool {
	timeout, ok := err.(net.Error)
	return ok && timeout.Timeout()
}

// Ready readers find what arrives, though no kernel tells of it, and looking costs no stream.
// Catches: a stream that is looked at no more after a timeout, or is lost by it.
func TestReadyReadersOfStreams(t *testing.T) {
	each(t, func(t *testing.T, l library) {
		say := make(chan string)
		s := serve(t, l, func(c net.Conn) {
			for text := range say {
				if _, err := io.WriteString(c, text); err != nil {
					return
				}
			}
			_, _ = io.Copy(io.Discard, c)
		})
		m := s.pool(plex.WithMinConnections(3))
		for i := range 20 {
			_, err := m.ReadyReader(t.Context(), 2*time.Millisecond)
			require.ErrorIs(t, err, plex.ErrTimeout)
			w := writer(t, m) // a library may open a stream only by its first byte
			_, err = io.WriteString(w, "x")
			require.NoError(t, err)
			require.NoError(t, w.Close())
			text := fmt.Sprintf("number %d", i)
			if i == 0 {
				for range 2 {
					w := writer(t, m)
					_, err := io.WriteString(w, "x")
					require.NoError(t, err)
					defer w.Close()
				}
			}
			say <- text
			r, err := m.ReadyReader(t.Context(), patience)
			require.NoError(t, err)
			p := make([]byte, len(text))
			_, err = io.ReadFull(r, p)
			require.NoError(t, err)
			require.Equal(t, text, string(p))
			require.NoError(t, r.Close())
		}
		close(say)
		st := m.Stats()
		require.Equal(t, [2]uint64{0, 3}, [2]uint64{st.Lost, st.Connected}, "lost and connected")
	})
}

// Requests over streams, whose callers give up at random moments: every reply is the right one and no stream is lost.
func TestRequestsOverStreams(t *testing.T) {
	each(t, func(t *testing.T, l library) {
		m := serve(t, l, echo).pool(plex.WithMinConnections(4))
		c, err := request.New[string, string](m, numbered{})
		require.NoError(t, err)
		defer c.Close()
		var callers sync.WaitGroup
		var replies atomic.Int64
		for caller := range 16 {
			callers.Go(func() {
				rng := rand.New(rand.NewPCG(1, uint64(caller)))
				for i := range 200 {
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					if rng.IntN(4) == 0 {
						time.AfterFunc(time.Duration(rng.IntN(300))*time.Microsecond, cancel)
					}
					question := fmt.Sprintf("question %d of caller %d", i, caller)
					reply, err := c.Do(ctx, question)
					if err == nil {
						replies.Add(1)
						if reply != question {
							t.Errorf("%q is the reply to %q", reply, question)
						}
					} else if ctx.Err() == nil {
						t.Errorf("%q: %v", question, err)
					}
					cancel()
				}
			})
		}
		callers.Wait()
		require.Greater(t, replies.Load(), int64(16*100))
		require.Zero(t, m.Stats().Lost)
	})
}

// When a session dies, all streams of the pool do. They are replaced by those of another session.
func TestTheSessionDies(t *testing.T) {
	each(t, func(t *testing.T, l library) {
		s := serve(t, l, echo)
		m := s.pool(plex.WithMinConnections(6), plex.WithBackoff(func(int) time.Duration { return time.Millisecond }))
		c, err := request.New[string, string](m, numbered{})
		require.NoError(t, err)
		defer c.Close()
		var callers sync.WaitGroup
		var stop atomic.Bool
		var replies atomic.Int64
		for caller := range 8 {
			callers.Go(func() {
				for i := 0; !stop.Load(); i++ {
					question := fmt.Sprintf("question %d of caller %d", i, caller)
					if reply, err := c.Do(t.Context(), question); err == nil {
						replies.Add(1)
						if reply != question {
							t.Errorf("%q is the reply to %q", reply, question)
						}
					} else {
						time.Sleep(time.Millisecond)
					}
				}
			})
		}
		defer callers.Wait()
		defer stop.Store(true)
		for range 5 {
			before := replies.Load()
			eventually(t, func() bool { return replies.Load() > before+100 }, "replies")
			lost := m.Stats().Lost
			s.kill()
			eventually(t, func() bool { return m.Stats().Lost >= lost+6 }, "all of them are lost")
			// One that is lost is open until its transport is closed.
			eventually(t, func() bool { s := m.Stats(); return s.Open == 6 && s.Healed == s.Lost }, "they are replaced")
		}
		before := replies.Load()
		eventually(t, func() bool { return replies.Load() > before+100 }, "replies")
		stop.Store(true)
		callers.Wait()
		require.NoError(t, check.LiveWriters(t.Context(), m, 6, patience))
	})
}

// What was written arrives, whatever ends the stream in good order, also if the server has greeted and nobody has read
// that. A stream's Close sends what was written first, so that is so for the multiplexer's Close, too.
func TestTheEndOfAStreamLosesNothing(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, m *plex.Multiplexer){
		"Shutdown": func(t *testing.T, m *plex.Multiplexer) { require.NoError(t, m.Shutdown(t.Context())) },
		"Close":    func(t *testing.T, m *plex.Multiplexer) { require.NoError(t, m.Close()) },
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, l library) {
				const each, writers = 2000, 4
				var got atomic.Int64
				s := serve(t, l, func(c net.Conn) {
					_, _ = io.WriteString(c, "220 what can I do for you\n")
					_ = lines(c, func(string) { got.Add(1) })
				})
				m := s.pool(plex.WithMinConnections(3))
				var all sync.WaitGroup
				for n := range writers {
					all.Go(func() {
						for i := range each {
							if err := message.Send(t.Context(), m, patience, fmt.Appendf(nil, "line %d of %d\n", i, n)); err != nil {
								t.Error(err)
							}
						}
					})
				}
				all.Wait()
				end(t, m)
				eventually(t, func() bool { return got.Load() == each*writers }, "every line arrives")
				require.Zero(t, m.Stats().Lost)
			})
		})
	}
}

// Streams that become too old all the time: every line that was written arrives.
func TestStreamsThatBecomeTooOldLoseNothing(t *testing.T) {
	each(t, func(t *testing.T, l library) {
		var got atomic.Int64
		s := serve(t, l, func(c net.Conn) {
			_, _ = io.WriteString(c, "220 what can I do for you\n")
			_ = lines(c, func(string) { got.Add(1) })
		})
		m := s.pool(plex.WithMinConnections(3), plex.WithMaxCapacity(4), plex.WithMaxLifetime(20*time.Millisecond))
		sent := int64(0)
		for m.Stats().Expired < 30 {
			require.NoError(t, message.Send(t.Context(), m, patience, []byte("one more line\n")))
			sent++
		}
		require.NoError(t, m.Shutdown(t.Context()))
		eventually(t, func() bool { return got.Load() == sent }, "every line arrives")
		require.Zero(t, m.Stats().Lost)
	})
}
