package plex_test

// Streams of what is sent: written at once and in order, and what cannot be written is counted.

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
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

// requireUnsent checks that err counts n bytes that were not written because of cause.
func requireUnsent(t testing.TB, err error, n int, cause error) {
	t.Helper()

	var unsent *plex.UnsentError

	require.ErrorAs(t, err, &unsent)
	require.EqualValues(t, n, unsent.Unsent, "unsent: %v", err)
	require.ErrorIs(t, err, cause)
	require.ErrorIs(t, unsent.Err, cause)
}

func TestSentBytesArriveInOrderAndTheClosedChannelEndsTheStream(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		for _, size := range []int{0, 1, 100} {
			m, _, p := l.single()
			w := writerOf(t, m)
			out := sending(t, t.Context(), w, k, size)
			want := text(20_000)

			for rest := want; rest != ""; {
				n := min(len(rest), 1+rand.IntN(700))
				out.send(rest[:n])
				rest = rest[n:]
			}

			out.end()
			require.Equal(t, want, p.ReadN(len(want)))
			synctest.Wait()
			require.NoError(t, w.Err())
			require.False(t, isClosed(w.Done()))

			_, err := w.Write([]byte("by Write"))
			require.NoError(t, err)
			require.Equal(t, "by Write", p.Unread())
			requireClosed(t, w)
			require.NoError(t, w.Err())
			requireKept(t, m, 1)
		}
	})
}

func TestSentByteIsOnTheWireWithoutFurtherAdo(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		for _, size := range []int{0, 1, 1000} {
			m, _, p := l.single()
			w := writerOf(t, m)
			out := sending(t, t.Context(), w, k, size)

			for range 3 {
				out.send("x")
				synctest.Wait()
				require.Equal(t, "x", p.Unread())
				p.ReadN(1)
			}

			requireClosed(t, w)
			requireKept(t, m, 1)
			out.end()
		}
	})
}

func TestSendStreamRefusesBadArguments(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, _, p := l.single()
		w := writerOf(t, m)

		_, err := transmit(t.Context(), w, k, -1)
		require.ErrorContains(t, err, "plex: ")
		require.ErrorContains(t, err, "-1")

		_, err = transmit(nilContext, w, k, 1)
		require.ErrorContains(t, err, "nil context")

		ctx, cancel := context.WithCancel(t.Context())
		cancel()

		if out, err := transmit(ctx, w, k, 1); err == nil { // then the stream has to end on its own
			out.end()
			synctest.Wait()
			require.ErrorIs(t, w.Err(), context.Canceled)
		} else {
			require.ErrorIs(t, err, context.Canceled)
		}

		_, err = w.Write([]byte("x"))
		require.NoError(t, err, "no stream was started")
		require.Equal(t, "x", p.Unread())
		requireClosed(t, w)
		requireKept(t, m, 1)
	})
}

func TestManySmallSendsBecomeFewWrites(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, c, p := l.single()
		w := writerOf(t, m)
		writes := 0
		c.Hooks.Write = func([]byte) {
			writes++

			time.Sleep(time.Microsecond) // the sender comes as far as it can
		}

		out := sending(t, t.Context(), w, k, 1000)
		want := text(5000)

		for i := range want {
			out.send(want[i : i+1])
		}

		out.end()
		require.Equal(t, want, p.ReadN(len(want)))
		require.LessOrEqual(t, writes, 1250, "writes for 5000 sends") // chunks wait in a shorter channel than bytes
		requireClosed(t, w)
		requireKept(t, m, 1)
	})
}

func TestChunksAreGatheredUpToTheSizeAskedFor(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		for _, size := range []int{10, 100} {
			m, c, p := l.single()
			w := writerOf(t, m)
			want := text(3000)

			p.Allow(0) // so that chunks are there to be gathered

			out := sending(t, t.Context(), w, inChunks, size)
			sent := later(func() error {
				for i := 0; i < len(want); i += 3 {
					out.send(want[i : i+3])
				}

				out.end()

				return nil
			})

			for range 500 {
				p.Allow(rand.IntN(20))
				synctest.Wait()
			}

			p.Allow(-1)
			require.NoError(t, <-sent)
			requireClosed(t, w)
			require.Equal(t, want, p.Unread())
			require.LessOrEqual(t, c.Written().Largest, size)
			require.GreaterOrEqual(t, c.Written().Largest, 6, "something was gathered")
			requireKept(t, m, 1)
		}
	})
}

func TestChunkLargerThanTheSizeAndAnEmptyOneAreSentToo(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, _, p := l.single()
		w := writerOf(t, m)
		out := sending(t, t.Context(), w, inChunks, 4)

		for _, chunk := range []string{"a", "", "larger than four", "b", "bc", "bcd", "bcde", "", "bcdef"} {
			out.send(chunk)
		}

		out.end()
		requireClosed(t, w)
		require.Equal(t, "alarger than fourbbcbcdbcdebcdef", p.Unread())
		requireKept(t, m, 1)
	})
}

// ---------------------------------------------------------------------------------------------------------------
// Close, and what could not be written

func TestWriterCloseFlushesWhatWasAccepted(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, _, p := l.single()
		w := writerOf(t, m)

		p.Allow(0)

		out := sending(t, t.Context(), w, k, 100)
		want := text(31)

		out.send(want[:1])
		synctest.Wait() // in the stream's hands, the rest in the channel
		require.Equal(t, 30, out.offer(want[1:]))

		closed := later(w.Close)

		synctest.Wait()
		requirePending(t, closed, "Close")
		require.ErrorIs(t, w.Close(), plex.ErrLeaseClosed, "a second Close does not wait")
		requireNoWriter(t, m)
		p.Allow(20)
		synctest.Wait()
		requirePending(t, closed, "Close")
		p.Allow(-1)
		require.NoError(t, <-closed)
		require.NoError(t, w.Err())
		require.Equal(t, want, p.Unread())
		requireKept(t, m, 1)

		next := writerOf(t, m)
		_, err := next.Write([]byte("!"))
		require.NoError(t, err)
		require.Equal(t, want+"!", p.Unread())
		requireClosed(t, next)
		out.end()
	})
}

func TestWhatCouldNotBeWrittenIsCountedToTheByte(t *testing.T) {
	type scene struct {
		m      *plex.Multiplexer
		r      plex.Reader
		w      plex.Writer
		p      *fakenet.Peer
		cancel func()
		out    outflow
	}

	afterWait := func(f func()) { f(); synctest.Wait() }

	for name, c := range map[string]struct {
		cause error
		own   bool // the consumer's doing, no fault of the connection
		end   func(s *scene) error
	}{
		"a write deadline in Close": {os.ErrDeadlineExceeded, true, func(s *scene) error {
			_ = s.w.SetWriteDeadline(time.Now().Add(time.Second))

			return s.w.Close()
		}},
		"a write deadline before Close": {os.ErrDeadlineExceeded, true, func(s *scene) error {
			_ = s.w.SetWriteDeadline(time.Now().Add(time.Second))

			time.Sleep(2 * time.Second)

			return s.w.Close()
		}},
		"the ctx": {context.Canceled, true, func(s *scene) error {
			afterWait(s.cancel)

			return s.w.Close()
		}},
		"the ctx, and the channel closed": {context.Canceled, true, func(s *scene) error {
			afterWait(s.cancel)
			afterWait(s.out.end)
			s.out = outflow{}

			return s.w.Close()
		}},
		"Kill in Close": {plex.ErrKilled, false, func(s *scene) error {
			closed := later(s.w.Close)

			synctest.Wait()

			if err := s.w.Kill(); err != nil {
				return err
			}

			return <-closed
		}},
		"a reset": {syscall.ECONNRESET, false, func(s *scene) error {
			afterWait(func() { s.p.Reset(syscall.ECONNRESET, false) })

			return s.w.Close()
		}},
		"a reset in Close": {syscall.ECONNRESET, false, func(s *scene) error {
			closed := later(s.w.Close)

			synctest.Wait()
			s.p.Reset(syscall.ECONNRESET, false)

			return <-closed
		}},
		"the other half's Kill": {plex.ErrKilled, false, func(s *scene) error {
			afterWait(func() { _ = s.r.Kill() })

			return s.w.Close()
		}},
		"the multiplexer's Close": {plex.ErrClosed, false, func(s *scene) error {
			afterWait(func() { _ = s.m.Close() })

			return s.w.Close()
		}},
		"the multiplexer's Close in Close": {plex.ErrClosed, false, func(s *scene) error {
			closed := later(s.w.Close)

			synctest.Wait()

			_ = s.m.Close()

			return <-closed
		}},
	} {
		t.Run("by "+name, func(t *testing.T) {
			forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
				for _, window := range []int{0, 5, 25} {
					m, conn, p := l.single()
					ctx, cancel := context.WithCancel(t.Context())
					s := &scene{m: m, r: readerOf(t, m), w: writerOf(t, m), p: p, cancel: cancel}
					s.out = sending(t, ctx, s.w, k, 100)
					out := s.out
					want := text(131)

					p.Allow(window)

					sent := 0
					for _, n := range []int{10, 30, 20, 71} {
						sent += out.offer(want[sent : sent+n])
						synctest.Wait() // some in the stream's hands, some in the channel
					}

					require.Greater(t, sent, 10)

					err := c.end(s)
					requireUnsent(t, err, sent-window, c.cause)
					requireUnsent(t, s.w.Err(), sent-window, c.cause)
					require.Equal(t, want[:window], p.Unread())
					require.Equal(t, window, conn.Written().Bytes)

					if c.own && !conn.Written().Torn {
						_ = s.r.Close()

						requireKept(t, m, 1)
					} else {
						if c.own {
							require.ErrorIs(t, s.r.Err(), plex.ErrPartialWrite)
						}

						_ = s.r.Close()

						synctest.Wait()
						requireClosedOnce(t, conn)
						require.Zero(t, m.Stats().Open)
					}

					if s.out != (outflow{}) {
						out.end()
					}

					cancel()
				}
			})
		})
	}
}

func TestSenderThatOnlySendsAndClosesEndsThoughTheConnectionDied(t *testing.T) {
	for name, die := range map[string]struct {
		how   func(m *plex.Multiplexer, p *fakenet.Peer, cancel func())
		cause error
	}{
		"reset":                   {func(_ *plex.Multiplexer, p *fakenet.Peer, _ func()) { p.Reset(syscall.ECONNRESET, false) }, syscall.ECONNRESET},
		"closed":                  {func(_ *plex.Multiplexer, p *fakenet.Peer, _ func()) { _ = p.Close() }, syscall.ECONNRESET},
		"ctx ended":               {func(_ *plex.Multiplexer, _ *fakenet.Peer, cancel func()) { cancel() }, context.Canceled},
		"the multiplexer's Close": {func(m *plex.Multiplexer, _ *fakenet.Peer, _ func()) { go m.Close() }, plex.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
				m, conn, p := l.single()
				w := writerOf(t, m)
				ctx, cancel := context.WithCancel(t.Context())

				defer cancel()

				total := 1_000_000
				if name != "reset" {
					total = 100_000
				}

				p.Allow(total / 2)

				out := sending(t, ctx, w, k, 100)
				done := w.Done()
				sender := later(func() error {
					if k == perByte {
						for i := range total {
							out.bytes <- byte(i)
						}
					} else {
						for range total / 10 {
							out.chunks <- []byte("0123456789")
						}
					}

					out.end()

					return nil
				})

				synctest.Wait()
				requirePending(t, sender, "the sender")
				require.False(t, isClosed(done))
				die.how(m, p, cancel)
				require.NoError(t, <-sender)
				synctest.Wait()
				require.Equal(t, name != "ctx ended", isClosed(done), "Done is closed")

				unsent := total - conn.Written().Bytes

				if name == "the multiplexer's Close" { // nobody counts for a multiplexer that is closed
					var err *plex.UnsentError

					require.ErrorAs(t, w.Close(), &err)
					require.ErrorIs(t, err, die.cause)
					require.Positive(t, err.Unsent)
					require.LessOrEqual(t, err.Unsent, int64(unsent))

					return
				}

				requireUnsent(t, w.Err(), unsent, die.cause)
				requireUnsent(t, w.Close(), unsent, die.cause)
				requireUnsent(t, w.Err(), unsent, die.cause)
			})
		})
	}
}

func TestDoneFreesASenderThatSelectsOnIt(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, _, p := l.single()
		w := writerOf(t, m)
		out := sending(t, t.Context(), w, k, 4)

		p.Allow(100)

		sender := later(func() int {
			for n := 0; ; {
				k := out.sendUntil(w.Done(), "0123456789")
				if n += k; k < 10 {
					return n
				}
			}
		})

		synctest.Wait()
		p.Reset(syscall.ECONNRESET, false)

		n := <-sender
		requireUnsent(t, w.Close(), n-100, syscall.ECONNRESET)
		requireLost(t, m, 1)
	})
}

func TestUnsentBytesOfAnEarlierStreamAreStillToldByClose(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, _, p := l.single()
		w := writerOf(t, m)

		p.Allow(0)

		for range 2 { // twice 5 bytes
			ctx, cancel := context.WithCancel(t.Context())
			out := sending(t, ctx, w, k, 10)

			out.send("lost!")
			synctest.Wait()
			cancel()
			synctest.Wait()
			out.end()
			synctest.Wait()
		}

		requireUnsent(t, w.Err(), 10, context.Canceled)
		p.Allow(-1)

		out := sending(t, t.Context(), w, k, 10)
		out.send("whole")
		out.end()
		synctest.Wait()
		require.Equal(t, "whole", p.Unread())
		requireUnsent(t, w.Close(), 10, context.Canceled)
		requireUnsent(t, w.Err(), 10, context.Canceled)
		requireKept(t, m, 1)

		w = writerOf(t, m)
		require.NoError(t, w.Err(), "the next lease has nothing to do with it")
		requireClosed(t, w)
		require.NoError(t, w.Err())
	})
}

func TestWhatIsSentAfterTheContextsEndIsCounted(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, _, p := l.single()
		w := writerOf(t, m)
		ctx, cancel := context.WithCancel(t.Context())
		out := sending(t, ctx, w, k, 4)

		out.send("ab")
		synctest.Wait() // written, the stream waits for its sender
		cancel()
		synctest.Wait()
		out.send("late and lost")
		out.end()
		requireUnsent(t, w.Close(), 13, context.Canceled)
		require.Equal(t, "ab", p.Unread())
		requireKept(t, m, 1)
	})
}

func TestNextStreamDoesNotWaitForTheSenderOfTheLast(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, _, p := l.single()
		w := writerOf(t, m)
		ctx, cancel := context.WithCancel(t.Context())
		abandoned := sending(t, ctx, w, k, 4)

		cancel()
		synctest.Wait()

		out := sending(t, t.Context(), w, k, 4) // the other channel is still open
		out.send("ab")
		abandoned.send("lost")
		out.end()
		requireClosed(t, w)
		require.Equal(t, "ab", p.Unread())
		requireKept(t, m, 1)
		abandoned.end()
	})
}

// An ended stream that still empties its channel has no say any more.
func TestContextOfAnEndedStreamInterruptsNobody(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		for _, nextLease := range []bool{false, true} {
			m, _, p := l.single()
			w := writerOf(t, m)

			p.Allow(0)

			ctx, cancel := context.WithCancel(t.Context())
			out := sending(t, ctx, w, k, 4)

			out.send("x")
			require.NoError(t, w.SetWriteDeadline(past))
			synctest.Wait()
			require.ErrorIs(t, w.Err(), os.ErrDeadlineExceeded)
			require.NoError(t, w.SetWriteDeadline(time.Time{}))

			if nextLease {
				requireUnsent(t, w.Close(), 1, os.ErrDeadlineExceeded)

				w = writerOf(t, m)
			}

			write := writing(w, "data")

			synctest.Wait()
			cancel()
			synctest.Wait()
			requirePending(t, write, "the Write")
			p.Allow(-1)
			require.Equal(t, outcome{4, nil}, <-write)

			_ = w.Close()

			requireKept(t, m, 1)
			out.end()
		}
	})
}

func TestNothingIsWrittenBehindAWriteThatWasCutShort(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, c, p := l.single()
		w := writerOf(t, m)

		require.NoError(t, w.SetWriteDeadline(time.Now().Add(time.Hour)))
		p.Allow(0)

		out := sending(t, t.Context(), w, inChunks, 8)

		out.send("x")
		synctest.Wait() // blocked in its Write
		out.send("abc")
		out.send("longer than eight")
		out.send("d")
		c.OnWrite(fakenet.Once(func(p []byte, do func([]byte) (int, error)) (int, error) { // and would write again after it
			n, err := do(p[:1])

			return n, errors.Join(err, os.ErrDeadlineExceeded)
		}))
		p.Allow(-1)
		synctest.Wait()
		out.end()
		require.Equal(t, "xa", p.Unread())
		requireUnsent(t, w.Close(), 2+17+1, os.ErrDeadlineExceeded)
		require.Equal(t, "xa", p.Unread())
		requireLost(t, m, 1)
	})
}

func TestSendStreamEndsWithItsContextAndTheLeaseWritesOn(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, c, p := l.single()
		w := writerOf(t, m)
		limit := time.Now().Add(time.Hour)

		require.NoError(t, w.SetWriteDeadline(limit))

		ctx, cancel := context.WithCancelCause(t.Context())
		out := sending(t, ctx, w, k, 4)

		out.send("ab")
		synctest.Wait()
		cancel(errCause)
		synctest.Wait()
		require.ErrorIs(t, w.Err(), context.Canceled)
		require.ErrorIs(t, w.Err(), errCause)
		require.False(t, isClosed(w.Done()), "the lease can send more")

		_, left := c.DeadlinesLeft()
		require.True(t, limit.Equal(left), "the consumer's deadline is %v, not %v", left, limit)

		_, err := w.Write([]byte("cd"))
		require.NoError(t, err)
		require.NoError(t, w.Close(), "nothing was left unsent")
		require.Equal(t, "abcd", p.Unread())

		_, left = c.DeadlinesLeft()
		require.Zero(t, left)
		requireKept(t, m, 1)
		out.end()
	})
}

func TestInterruptedSendStreamWithNothingTornKeepsTheConnection(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, _, p := l.single()
		w := writerOf(t, m)

		p.Allow(0)

		ctx, cancel := context.WithCancel(t.Context())
		out := sending(t, ctx, w, k, 0)

		out.send("x")
		synctest.Wait()
		cancel()
		synctest.Wait()
		p.Allow(-1)

		_, err := w.Write([]byte("y"))
		require.NoError(t, err)
		requireUnsent(t, w.Close(), 1, context.Canceled)
		require.Equal(t, "y", p.Unread())
		requireKept(t, m, 1)
		out.end()
	})
}

// What a consumer's deadline cuts is the consumer's doing; what is left behind must not be on the next lease.
func TestFlushCutByADeadlineLeavesNoneBehind(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, c, p := l.single()
		w := writerOf(t, m)

		p.Allow(0)

		out := sending(t, t.Context(), w, k, 4)
		out.send("abc")

		began := time.Now()
		require.NoError(t, w.SetWriteDeadline(began.Add(time.Minute)))
		requireUnsent(t, w.Close(), 3, os.ErrDeadlineExceeded)
		require.Equal(t, time.Minute, time.Since(began))

		_, left := c.DeadlinesLeft()
		require.Zero(t, left)
		p.Allow(-1)

		next := writerOf(t, m)
		_, err := next.Write([]byte("next"))
		require.NoError(t, err)
		requireClosed(t, next)
		require.Equal(t, "next", p.Unread())
		requireKept(t, m, 1)
		out.end()
	})
}

// A sender's stream in progress, as Close finds it: ended by its sender, or never to be.
func TestKillAbandonsAFlushThatBlocksInClose(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		for _, ended := range []bool{true, false} {
			m, c, p := l.single()
			r, w := readerOf(t, m), writerOf(t, m)

			p.Allow(0)

			out := sending(t, t.Context(), w, k, 4)
			out.send("abc")

			if ended {
				out.end()
			}

			closed := later(w.Close)

			synctest.Wait()
			requirePending(t, closed, "Close")
			require.NoError(t, w.Kill())
			requireUnsent(t, <-closed, 3, plex.ErrKilled)
			require.ErrorIs(t, w.Kill(), plex.ErrLeaseClosed)
			require.ErrorIs(t, w.Close(), plex.ErrLeaseClosed)
			requireClosedOnce(t, c)

			_, err := r.Read(make([]byte, 1))
			require.ErrorIs(t, err, plex.ErrKilled)
			requireClosed(t, r)
			requireLost(t, m, 1)
			require.EqualValues(t, 1, m.Stats().Killed)

			if !ended {
				out.end()
			}
		}
	})
}

func TestKillDoesNotFlush(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, c, p := l.single()
		w := writerOf(t, m)

		p.Allow(0)

		out := sending(t, t.Context(), w, k, 4)
		out.send("abc")
		synctest.Wait()
		require.NoError(t, w.Kill())
		requireUnsent(t, w.Err(), 3, plex.ErrKilled)
		requireClosedOnce(t, c)
		requireLost(t, m, 1)
		out.end()
	})
}

// ---------------------------------------------------------------------------------------------------------------
// Senders that do not close their channel

func TestSenderThatNeverClosesItsChannelKeepsNobody(t *testing.T) {
	for name, end := range map[string]func(m *plex.Multiplexer, w plex.Writer, p *fakenet.Peer){
		"lease closed":       func(_ *plex.Multiplexer, w plex.Writer, _ *fakenet.Peer) { _ = w.Close() },
		"lease killed":       func(_ *plex.Multiplexer, w plex.Writer, _ *fakenet.Peer) { _ = w.Kill() },
		"multiplexer closed": func(m *plex.Multiplexer, w plex.Writer, _ *fakenet.Peer) { _ = m.Close(); _ = w.Close() },
		"connection dead": func(_ *plex.Multiplexer, w plex.Writer, p *fakenet.Peer) {
			p.Reset(syscall.ECONNRESET, false)
			synctest.Wait()

			_ = w.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
				m, _, p := l.single()
				w := writerOf(t, m)
				before := plexGoroutines()
				out := sending(t, t.Context(), w, k, 4)

				out.send("ab")
				synctest.Wait()

				began := time.Now()

				end(m, w, p)
				require.Less(t, time.Since(began), time.Second)
				time.Sleep(10 * time.Second)
				require.True(t, within(time.Second, func() bool { return plexGoroutines() <= before }), "a goroutine is left")
				require.NoError(t, m.Close())
			})
		})
	}
}

func TestSenderIsHelpedToItsEndThoughTheLeaseIsClosed(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		for _, pause := range []time.Duration{0, 50 * time.Millisecond} {
			m, _, p := l.single()
			w := writerOf(t, m)
			out := sending(t, t.Context(), w, k, 0)
			sender := later(func() error {
				for range 100 {
					out.send("x")
					time.Sleep(pause)
				}

				out.end()

				return nil
			})

			time.Sleep(3*pause + time.Nanosecond)
			requireClosed(t, w)

			next := writerOf(t, m)
			got := p.Unread()

			require.NoError(t, <-sender)
			require.Equal(t, got, p.Unread(), "nothing of it reaches the connection any more")
			require.Equal(t, strings.Repeat("x", len(got)), got)
			requireClosed(t, next)
			requireKept(t, m, 1)
		}
	})
}

// A sender like a heartbeat that looks at nothing: it must not keep the multiplexer's Close from returning.
func TestSenderThatNeverFallsSilentDoesNotKeepTheMultiplexerFromClosing(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, _, _ := l.single()
		w := writerOf(t, m)
		out := sending(t, t.Context(), w, k, 0)
		stop := make(chan struct{})
		sender := later(func() int {
			for {
				n := out.sendUntil(stop, "x")

				time.Sleep(50 * time.Millisecond)

				if n == 0 {
					return 0
				}
			}
		})

		time.Sleep(time.Second)
		requireClosed(t, w)

		closed := later(m.Close)

		time.Sleep(time.Minute)

		err, over := error(nil), false
		select {
		case err = <-closed:
			over = true
		default:
		}

		close(stop)
		<-sender
		require.True(t, over, "Close has not returned within a minute")
		require.NoError(t, err)
	})
}

func TestSenderRacingCloseNeverReachesTheNextLease(t *testing.T) {
	// In a bubble, because a sender that is starved for real is a silent one.
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, _, p := l.single()
		data := strings.Repeat("abcdefghij", 20)

		for i := range 300 {
			w, err := m.Writer(t.Context(), 0)
			require.NoError(t, err)

			out := sending(t, t.Context(), w, k, rand.IntN(20))
			sender := later(func() error {
				for i := 0; i < len(data); i += 10 {
					out.send(data[i : i+10])
				}

				out.end()

				return nil
			})

			for range rand.IntN(30) {
				runtime.Gosched()
			}

			requireClosed(t, w)

			next := writerOf(t, m)

			for range 3 {
				_, err = next.Write([]byte("!"))
				require.NoError(t, err)
				runtime.Gosched()
			}

			<-sender
			requireClosed(t, next)

			got := p.Unread()
			p.ReadN(len(got))
			require.True(t, strings.HasSuffix(got, "!!!"), "round %d: %q", i, got)
			require.Equal(t, data[:len(got)-3], strings.TrimSuffix(got, "!!!"), "round %d", i)
		}

		requireKept(t, m, 1)
	})
}

// ---------------------------------------------------------------------------------------------------------------
// Connections without deadlines

func TestSendStreamOnAConnectionWithoutDeadlinesEndsWithItsContext(t *testing.T) {
	for name, mode := range map[string]fakenet.Deadlines{"refuses deadlines": fakenet.DeadlinesRefused, "ignores deadlines": fakenet.DeadlinesIgnored} {
		t.Run(name, func(t *testing.T) {
			forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
				m, c, p := l.single()

				c.TreatDeadlines(mode)
				p.Allow(0)

				w := writerOf(t, m)
				ctx, cancel := context.WithCancel(t.Context())
				out := sending(t, ctx, w, k, 4)

				out.send("ab")
				synctest.Wait()
				cancel()
				time.Sleep(time.Second + 1)
				synctest.Wait()
				requireClosedOnce(t, c)
				require.True(t, isClosed(w.Done()))

				var unsent *plex.UnsentError

				require.ErrorAs(t, w.Close(), &unsent)
				require.EqualValues(t, 2, unsent.Unsent)
				requireLost(t, m, 1)
				out.end()
			})
		})
	}
}

func TestSendStreamWithoutDeadlinesThatWaitsForItsSenderKeepsItsConnection(t *testing.T) {
	for _, how := range []string{"the ctx ends", "the lease closes"} {
		t.Run(how, func(t *testing.T) {
			forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
				m, c, p := l.single()

				c.TreatDeadlines(fakenet.DeadlinesRefused)

				w := writerOf(t, m)
				ctx, cancel := context.WithCancel(t.Context())

				defer cancel()

				out := sending(t, ctx, w, k, 4)
				out.send("ab")
				synctest.Wait()

				if how == "the ctx ends" {
					cancel()
					synctest.Wait()
				}

				requireClosed(t, w)
				require.Equal(t, "ab", p.Unread())
				requireKept(t, m, 1)
				out.end()
			})
		})
	}
}

// ---------------------------------------------------------------------------------------------------------------
// Datagrams

func TestSentChunkIsOneDatagram(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := l.Datagrams()
		m := l.mux(plex.WithConnections(c))
		w := writerOf(t, m)
		out := sending(t, t.Context(), w, inChunks, 4)
		all := []string{"first", "", "3", "a longer one", "5", "", "", "8"}

		for _, packet := range all {
			out.send(packet)
		}

		out.end()
		requireClosed(t, w)
		require.Equal(t, all, c.Packets())
		requireKept(t, m, 1)
	})
}

func TestUnsentDatagramsAreCountedAndNothingIsTorn(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := l.Datagrams()
		m := l.mux(plex.WithConnections(c))
		w := writerOf(t, m)

		c.Allow(0)

		out := sending(t, t.Context(), w, inChunks, 4)
		out.send("four")
		out.send("three")
		require.NoError(t, w.SetWriteDeadline(time.Now().Add(time.Second)))
		requireUnsent(t, w.Close(), 9, os.ErrDeadlineExceeded)
		requireKept(t, m, 1)
		out.end()
	})
}

// ---------------------------------------------------------------------------------------------------------------
// The account

// Each connection's bytes are those of its own oracle stream from the beginning: whatever the consumers cut off, what
// was written next follows what was written before; and what a lease's streams accepted and did not write is counted.
func TestEverySentByteArrivesOrIsCounted(t *testing.T) {
	for _, seed := range seeds(t, 60) {
		bubble(t, func(t *testing.T, l *ledger) {
			t.Logf("seed %d", seed)

			rnd := rand.New(rand.NewPCG(seed, 0))
			s := &senders{}

			var (
				opts  []plex.Option
				peers sync.WaitGroup
			)

			stop := make(chan struct{})

			for i := range 1 + rnd.IntN(3) {
				c, p := l.Pair()
				s.conns = append(s.conns, c)
				s.peers = append(s.peers, p)
				s.turns = append(s.turns, make(chan struct{}, 1))
				opts = append(opts, plex.WithConnections(c))
				rnd := rand.New(rand.NewPCG(seed, uint64(1000+i)))

				peers.Go(func() { // gives credit, and sometimes none for a while
					for !isClosed(stop) {
						switch rnd.IntN(4) {
						case 0:
							p.Allow(rnd.IntN(30))
						default:
							p.Allow(-1)
						}

						time.Sleep(time.Duration(rnd.IntN(6)) * time.Microsecond)
					}
				})
			}

			s.m = l.mux(opts...)

			var wg sync.WaitGroup

			for i := range 1 + rnd.IntN(4) {
				rnd := rand.New(rand.NewPCG(seed, uint64(i)))

				wg.Go(func() {
					for range 60 {
						if err := s.lease(t.Context(), rnd); errors.Is(err, plex.ErrNoConnections) {
							return
						} else if err != nil {
							t.Errorf("seed %d: %v", seed, err)

							return
						}
					}
				})
			}

			wg.Wait()
			close(stop)
			peers.Wait()

			lost := 0

			for i, c := range s.conns {
				got := s.peers[i].Unread()
				assert.Len(t, got, c.Written().Bytes)
				assert.NoError(t, checkOracle([]byte(got), i, 0), "seed %d", seed)

				if c.Written().Torn {
					lost++
				}

				assert.Equal(t, c.Written().Torn, c.Closes() == 1, "seed %d: torn, and closed for it", seed)
			}

			assert.EqualValues(t, lost, s.m.Stats().Lost)
		})
	}
}

// senders is what TestEverySentByteArrivesOrIsCounted works with.
type senders struct {
	m     *plex.Multiplexer
	conns []*fakenet.Conn
	peers []*fakenet.Peer
	turns []chan struct{}
}

func (s *senders) moment(rnd *rand.Rand) time.Duration {
	return time.Duration(rnd.IntN(8000)) * time.Nanosecond
}

// lease does a few random things with one lease.
func (s *senders) lease(ctx context.Context, rnd *rand.Rand) error {
	w, err := s.m.Writer(ctx, 0)
	if err != nil {
		return err
	}

	stream := 0

	for i, c := range s.conns {
		if c.RemoteAddr() == w.RemoteAddr() {
			stream = i
		}
	}

	c := s.conns[stream]
	// The next lease of it writes nothing before this one's account is closed.
	s.turns[stream] <- struct{}{}
	defer func() { <-s.turns[stream] }()

	// next is n bytes that go on where the connection's stream is now.
	next := func(n int) []byte {
		p := make([]byte, n)
		oracle(p, stream, int64(c.Written().Bytes))

		return p
	}

	accepted := 0 // by the channels, and not written

	for range 1 + rnd.IntN(3) {
		if rnd.IntN(3) == 0 {
			_ = w.SetWriteDeadline(time.Now().Add(s.moment(rnd)))
		} else {
			_ = w.SetWriteDeadline(time.Time{})
		}

		if rnd.IntN(3) == 0 {
			_, err := w.Write(next(1 + rnd.IntN(40)))
			if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				return errors.Join(err, w.Close())
			}

			continue
		}

		before := c.Written().Bytes
		ctx, cancel := context.WithCancel(ctx)

		if rnd.IntN(2) == 0 {
			ctx, cancel = context.WithTimeout(ctx, s.moment(rnd))
		}

		out, err := transmit(ctx, w, []streamKind{perByte, inChunks}[rnd.IntN(2)], rnd.IntN(30))
		if err != nil {
			cancel()

			if errors.Is(err, context.DeadlineExceeded) {
				continue
			}

			return errors.Join(err, w.Close())
		}

		p := string(next(rnd.IntN(150)))
		for rest := p; rest != ""; {
			n := min(len(rest), 1+rnd.IntN(20))
			out.send(rest[:n])
			rest = rest[n:]
		}

		accepted += len(p)

		if rnd.IntN(3) == 0 { // the lease's Close finds it running
			err := w.Close()
			accepted -= c.Written().Bytes - before

			cancel()
			out.end()

			return requireCounted(err, accepted)
		}

		out.end()

		for _, err := w.Write(nil); errors.Is(err, plex.ErrStreaming); _, err = w.Write(nil) {
			time.Sleep(time.Microsecond)
		}

		cancel()

		accepted -= c.Written().Bytes - before
	}

	return requireCounted(w.Close(), accepted)
}

// requireCounted returns an error unless err is about n bytes.
func requireCounted(err error, n int) error {
	var unsent *plex.UnsentError

	switch {
	case err == nil && n == 0:
		return nil
	case errors.As(err, &unsent) && unsent.Unsent == int64(n):
		return nil
	}

	return errors.Join(errors.New("not the bytes that are missing"), err, &plex.UnsentError{Unsent: int64(n), Err: errors.New("expected")})
}
