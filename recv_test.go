package plex_test

// Streams of what arrives: every byte once, in order, whatever their consumers cancel.

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
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

// text is n bytes that tell their places: a lost, doubled or misplaced one shows.
func text(n int) string {
	b := make([]byte, n)
	oracle(b, 7, 0)

	return string(b)
}

func TestStreamDeliversWhatArrivesAndEndsCleanlyAtTheEOF(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		for _, size := range []int{0, 1, 100} {
			m, c, p := l.single()
			r := readerOf(t, m)
			in := receiving(t, t.Context(), r, k, size)
			want := text(20_000)

			sent := later(func() error {
				for rest := want; rest != ""; {
					n := min(len(rest), 1+rand.IntN(700))
					p.Send(rest[:n])
					rest = rest[n:]

					time.Sleep(time.Duration(rand.IntN(2)))
				}

				p.CloseWrite()

				return nil
			})

			require.Equal(t, want, in.rest())
			require.NoError(t, <-sent)
			require.NoError(t, r.Err())
			synctest.Wait()
			requireClosedOnce(t, c)
			requireClosed(t, r)
			require.NoError(t, r.Err())
			requireLost(t, m, 1)
		}
	})
}

func TestStreamDeliversAByteAsSoonAsItArrives(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, _, p := l.single()
		r := readerOf(t, m)
		in := receiving(t, t.Context(), r, k, 50)

		for range 3 {
			p.Send("x")
			synctest.Wait()

			got, came, _ := in.poll()
			require.True(t, came)
			require.Equal(t, "x", string(got))
		}

		requireClosed(t, r)
		require.Empty(t, in.rest())
		requireKept(t, m, 1)
	})
}

func TestRecvChunksAreNoLargerThanAskedFor(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, _, p := l.single()

		for size, most := range map[int]int{1: 1, 10: 10, 0: 64 << 10} {
			r := readerOf(t, m)
			in := receiving(t, t.Context(), r, inChunks, size)
			total := 3*most + 5
			p.Send(text(total))

			largest := 0
			for got := 0; got < total; {
				chunk, open := in.next()
				require.True(t, open)
				require.NotEmpty(t, chunk)

				largest = max(largest, len(chunk))
				got += len(chunk)
			}

			require.Equal(t, most, largest, "size %d", size)
			requireClosed(t, r)
		}

		requireKept(t, m, 1)
	})
}

func TestStreamRefusesBadArguments(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, _, p := l.single()
		r := readerOf(t, m)

		_, err := receive(t.Context(), r, k, -1)
		require.ErrorContains(t, err, "plex: ")
		require.ErrorContains(t, err, "-1")

		_, err = receive(nilContext, r, k, 1)
		require.ErrorContains(t, err, "nil context")

		p.Send("x")
		require.Equal(t, "x", readN(t, r, 1), "no stream was started")
		requireClosed(t, r)
		requireKept(t, m, 1)
	})
}

// ---------------------------------------------------------------------------------------------------------------
// The ctx's end

var errCause = errors.New("the cause of the cancel")

func TestStreamEndsWithItsContextAndTheLeaseReadsOn(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, c, p := l.single()
		r := readerOf(t, m)
		ctx, cancel := context.WithCancelCause(t.Context())
		in := receiving(t, ctx, r, k, 10)

		synctest.Wait() // the stream's Read is blocked

		_, came, open := in.poll()
		require.True(t, open && !came)

		began := time.Now()

		cancel(errCause)
		require.Empty(t, in.rest())
		require.Zero(t, time.Since(began))
		require.ErrorIs(t, r.Err(), context.Canceled)
		require.ErrorIs(t, r.Err(), errCause)

		left, _ := c.DeadlinesLeft()
		require.Zero(t, left, "deadline left behind by the interrupt")

		p.Send("ab")
		require.Equal(t, "ab", readN(t, r, 2))

		in = receiving(t, t.Context(), r, k, 10)
		require.NoError(t, r.Err(), "that was the stream before")
		p.Send("cd")
		require.Equal(t, "cd", in.take(2))
		requireClosed(t, r)
		require.Empty(t, in.rest())
		require.NoError(t, r.Err())
		requireKept(t, m, 1)
	})
}

func TestStreamOfAnEndedContextTakesNothing(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, _, p := l.single()
		r := readerOf(t, m)

		p.Send("data")

		ctx, cancel := context.WithCancel(t.Context())
		cancel()

		in, err := receive(ctx, r, k, 2)
		got := ""

		if err == nil { // then the stream has to end on its own
			got = in.rest()
			err = r.Err()
		}

		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, "data", got+readN(t, r, 4-len(got)))
		requireClosed(t, r)
		requireKept(t, m, 1)
	})
}

func TestWhatTheChannelHoldsAfterTheContextsEndCanStillBeTaken(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, _, p := l.single()
		r := readerOf(t, m)
		ctx, cancel := context.WithCancel(t.Context())
		in := receiving(t, ctx, r, k, 4)
		want := text(40)

		for i := range want { // a chunk per byte
			p.Send(want[i : i+1])
			synctest.Wait()
		}

		cancel()
		synctest.Wait()

		got := in.rest()
		require.Len(t, got, 4, "what the channel held")
		got += readN(t, r, 6) // what the stream had in hand goes first
		requireClosed(t, r)

		r = readerOf(t, m)
		got += readN(t, r, 30)
		require.Equal(t, want, got)
		requireClosed(t, r)
		requireKept(t, m, 1)
	})
}

func TestReadAfterTheContextsEndTakesBackWhatTheChannelHolds(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, _, p := l.single()
		r := readerOf(t, m)
		ctx, cancel := context.WithCancel(t.Context())
		in := receiving(t, ctx, r, k, 4)
		want := text(40)

		for i := range want {
			p.Send(want[i : i+1])
			synctest.Wait()
		}

		got := in.take(2)

		cancel()
		synctest.Wait()

		got += in.take(1) // one more of what it holds
		got += readN(t, r, 5)
		require.Empty(t, in.rest(), "taken back")

		again := receiving(t, t.Context(), r, k, 100)
		got += again.take(32)
		require.Equal(t, want, got)
		requireClosed(t, r)
		requireKept(t, m, 1)
	})
}

func TestStreamAfterTheContextsEndTakesBackWhatTheChannelHolds(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, _, p := l.single()
		r := readerOf(t, m)
		want := text(120)
		got := ""

		for i := range want {
			p.Send(want[i : i+1])
		}

		for len(got) < 60 { // streams that are cut off one after the other
			ctx, cancel := context.WithCancel(t.Context())
			in := receiving(t, ctx, r, []streamKind{perByte, inChunks}[rand.IntN(2)], 1+rand.IntN(9))
			got += in.take(1 + rand.IntN(6))

			synctest.Wait()
			cancel()
			synctest.Wait()
		}

		requireClosed(t, r)

		r = readerOf(t, m)
		in := receiving(t, t.Context(), r, k, 3)
		got += in.take(len(want) - len(got))
		require.Equal(t, want, got)
		requireClosed(t, r)
		requireKept(t, m, 1)
	})
}

// The interrupt is a deadline of plex's own. The one that the consumer has set must survive it.
func TestConsumersDeadlineSurvivesTheEndOfAStream(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, c, p := l.single()
		r := readerOf(t, m)
		limit := time.Now().Add(time.Hour)

		require.NoError(t, r.SetReadDeadline(limit))

		ctx, cancel := context.WithCancel(t.Context())
		in := receiving(t, ctx, r, k, 4)

		synctest.Wait()
		cancel()
		require.Empty(t, in.rest())

		left, _ := c.DeadlinesLeft()
		require.True(t, limit.Equal(left), "the deadline is %v, not %v", left, limit)
		p.Send("x")
		require.Equal(t, "x", readN(t, r, 1))

		_, err := r.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.True(t, limit.Equal(time.Now()))
		requireClosed(t, r)
		requireKept(t, m, 1)
		requireReaderIdle(t, m)
	})
}

func TestDeadlineOfAnEarlierLeaseDoesNotComeBackAfterAStream(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, c, _ := l.single()
		r := readerOf(t, m)

		require.NoError(t, r.SetReadDeadline(time.Now().Add(time.Second)))
		requireClosed(t, r)

		r = readerOf(t, m)
		ctx, cancel := context.WithCancel(t.Context())
		in := receiving(t, ctx, r, k, 4)

		synctest.Wait()
		cancel()
		require.Empty(t, in.rest())

		left, _ := c.DeadlinesLeft()
		require.Zero(t, left)
		requireClosed(t, r)
		requireKept(t, m, 1)
	})
}

// The interrupt, not yet noticed by the stream's Read, must not be undone; nor must the deadline be forgotten.
func TestDeadlineSetWhileAStreamIsInterruptedHoldsAfterIt(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		for _, limit := range []time.Time{{}, time.Now().Add(time.Hour)} {
			m, c, _ := l.single()
			ask := fakenet.NewGate()
			c.Hooks.Read = ask.PassIO
			r := readerOf(t, m)
			ctx, cancel := context.WithCancel(t.Context())

			ask.Arm()

			in := receiving(t, ctx, r, k, 4)

			<-ask.Entered
			cancel()
			synctest.Wait()
			require.NoError(t, r.SetReadDeadline(limit))
			synctest.Wait()
			close(ask.Leave)
			synctest.Wait()

			_, came, open := in.poll()
			require.False(t, came || open, "the stream goes on")
			require.ErrorIs(t, r.Err(), context.Canceled)

			left, _ := c.DeadlinesLeft()
			require.True(t, limit.Equal(left), "the deadline is %v, not %v", left, limit)

			time.Sleep(time.Minute) // longer than plex has patience with a connection that ignores deadlines
			requireClosed(t, r)
			requireKept(t, m, 1)
		}
	})
}

func TestChannelIsClosedOnlyWhenTheStreamIsOver(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, c, _ := l.single()
		resume := fakenet.NewGate()
		c.Hooks.SetReadDeadline = func(deadline time.Time) {
			if deadline.IsZero() {
				resume.Pass()
			}
		}
		r := readerOf(t, m)
		ctx, cancel := context.WithCancel(t.Context())
		in := receiving(t, ctx, r, k, 4)

		synctest.Wait()
		resume.Arm()
		cancel()
		<-resume.Entered // the deadline of the interrupt is about to be taken back

		_, _, open := in.poll()
		require.True(t, open, "the channel is closed, and a Read would still find the stream")
		close(resume.Leave)
		require.Empty(t, in.rest())
		requireClosed(t, r)
		requireKept(t, m, 1)
	})
}

func TestStreamIsOverWhenItsChannelIsClosed(t *testing.T) {
	for _, k := range []streamKind{perByte, inChunks} {
		t.Run(string(k), func(t *testing.T) {
			l := newLedger(t)
			m, _, _ := l.single()
			r := readerOf(t, m)

			for i := range 2000 {
				ctx, cancel := context.WithCancel(t.Context())
				in := receiving(t, ctx, r, k, 4)

				if i%2 == 0 {
					runtime.Gosched()
				}

				cancel()
				in.rest()
				require.ErrorIs(t, r.Err(), context.Canceled)
				require.NoError(t, r.SetReadDeadline(past))

				_, err := r.Read(make([]byte, 1))
				require.ErrorIs(t, err, os.ErrDeadlineExceeded, "round %d", i)
				require.NoError(t, r.SetReadDeadline(time.Time{}))
			}

			requireClosed(t, r)
			requireKept(t, m, 1)
		})
	}
}

func TestDeadlineOfTheConsumerEndsAStreamAndIsNoFault(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, _, p := l.single()
		r := readerOf(t, m)
		in := receiving(t, t.Context(), r, k, 4)

		p.Send("ab")
		synctest.Wait()

		began := time.Now()
		require.NoError(t, r.SetReadDeadline(began.Add(time.Second)), "during the stream")
		require.Equal(t, "ab", in.rest())
		require.Equal(t, time.Second, time.Since(began))
		require.ErrorIs(t, r.Err(), os.ErrDeadlineExceeded)
		require.NoError(t, r.SetReadDeadline(time.Time{}))
		p.Send("cd")
		require.Equal(t, "cd", readN(t, r, 2))
		requireClosed(t, r)
		requireKept(t, m, 1)
	})
}

// The ctx's watcher interrupts by a deadline; when it is caught doing so by the end of the lease, the next lease must
// not find that deadline.
func TestInterruptCaughtByTheEndOfTheLeaseDoesNotReachTheNext(t *testing.T) {
	for _, k := range []streamKind{perByte, inChunks} {
		t.Run(string(k), func(t *testing.T) {
			l := newLedger(t)
			c, p := l.Pair()
			g := fakenet.NewGate()
			c.Hooks.SetReadDeadline = g.PassDeadline

			m := l.mux(plex.WithConnections(c))
			r := readerOf(t, m)
			ctx, cancel := context.WithCancel(t.Context())
			in := receiving(t, ctx, r, k, 1)

			p.Send("a")
			require.Equal(t, "a", in.take(1))
			g.Arm()
			cancel()
			<-g.Entered
			p.Send("b") // the stream's Read returns, though the interrupt is not yet set

			closed := later(r.Close)

			within(20*time.Millisecond, func() bool { return len(closed) > 0 })
			close(g.Leave)
			require.NoError(t, <-closed)

			next := readerOf(t, m)
			require.Equal(t, "b", in.rest()+readN(t, next, 1))
			p.Send("c")
			require.Equal(t, "c", readN(t, next, 1))
			requireClosed(t, next)
			requireKept(t, m, 1)
		})
	}
}

func TestCancelRacingReaderCloseNeverPoisonsTheNextLease(t *testing.T) {
	const rounds = 3000

	l := newLedger(t)
	m, c, p := l.single()

	for i := range rounds {
		r, err := m.Reader(t.Context(), 0)
		require.NoError(t, err)

		ctx, cancel := context.WithCancel(t.Context())
		k := []streamKind{perByte, inChunks}[i%2]
		in := receiving(t, ctx, r, k, 1)

		if i%3 == 0 {
			p.Send("x")
		}

		for range rand.IntN(50) {
			runtime.Gosched()
		}

		gone := later(func() struct{} { cancel(); return struct{}{} })

		require.NoError(t, r.Close())

		next := readerOf(t, m)
		left, _ := c.DeadlinesLeft()
		require.Zero(t, left, "round %d", i)

		if i%3 == 0 { // the x was never taken
			require.Equal(t, "x", readN(t, next, 1), "round %d", i)
		}

		<-gone
		p.Send("y")
		require.Equal(t, "y", readN(t, next, 1), "round %d", i)
		requireClosed(t, next)
		require.Empty(t, in.rest())
	}

	requireKept(t, m, 1)
}

func TestStreamOnAConnectionWithoutDeadlinesEndsWithItsContext(t *testing.T) {
	for name, mode := range map[string]fakenet.Deadlines{"refuses deadlines": fakenet.DeadlinesRefused, "ignores deadlines": fakenet.DeadlinesIgnored} {
		t.Run(name, func(t *testing.T) {
			forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
				m, c, p := l.single()

				c.TreatDeadlines(mode)

				r := readerOf(t, m)
				ctx, cancel := context.WithCancel(t.Context())
				in := receiving(t, ctx, r, k, 4)

				p.Send("ab")
				require.Equal(t, "ab", in.take(2))
				synctest.Wait()

				began := time.Now()

				cancel()
				require.Empty(t, in.rest())
				require.LessOrEqual(t, time.Since(began), time.Second)
				require.ErrorIs(t, r.Err(), context.Canceled)
				requireClosedOnce(t, c)
				requireClosed(t, r)
				requireLost(t, m, 1)
			})
		})
	}
}

// Nothing is blocked in the connection, so nothing has to be closed.
func TestStreamWithoutDeadlinesThatWaitsForItsConsumerLosesNothing(t *testing.T) {
	for name, end := range map[string]func(r plex.Reader, cancel func()) error{
		"the ctx ends":     func(_ plex.Reader, cancel func()) error { cancel(); synctest.Wait(); return nil },
		"the lease closes": func(r plex.Reader, _ func()) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
				m, c, p := l.single()

				c.TreatDeadlines(fakenet.DeadlinesRefused)

				r := readerOf(t, m)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()

				in := receiving(t, ctx, r, k, 2)
				want := text(40)

				for i := range want {
					p.Send(want[i : i+1])
					synctest.Wait()
				}

				got := in.take(1)
				synctest.Wait()
				require.NoError(t, end(r, cancel))
				requireClosed(t, r)
				require.Zero(t, c.Closes())

				r = readerOf(t, m)
				require.Equal(t, want, got+readN(t, r, len(want)-len(got)))
				requireClosed(t, r)
				requireKept(t, m, 1)
			})
		})
	}
}

// ---------------------------------------------------------------------------------------------------------------
// The lease's end

func TestWhatAStreamReadAheadGoesToTheNextLease(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		for _, next := range []string{"Read", "Recv", "RecvChunks", "small Reads"} {
			for _, taken := range []int{0, 1, 7} {
				m, _, p := l.single()
				r := readerOf(t, m)
				in := receiving(t, t.Context(), r, k, 5)
				want := text(30)

				for i := 0; i < len(want); i += 3 {
					p.Send(want[i : i+3])
					synctest.Wait()
				}

				got := in.take(taken)

				requireClosed(t, r)
				require.Empty(t, in.rest(), "Close takes back what was not taken")
				require.NoError(t, r.Err())

				r = readerOf(t, m)
				p.Send("later")

				missing := len(want) + 5 - len(got)

				switch next {
				case "Read":
					got += readN(t, r, missing)
				case "Recv":
					got += receiving(t, t.Context(), r, perByte, 0).take(missing)
				case "RecvChunks":
					got += receiving(t, t.Context(), r, inChunks, 4).take(missing)
				default:
					for range missing {
						got += readN(t, r, 1)
					}
				}

				require.Equal(t, want+"later", got, "%s after %d", next, taken)
				requireClosed(t, r)
				requireKept(t, m, 1)
			}
		}
	})
}

func TestWhatWasPushedBackTwiceKeepsItsOrder(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, _, p := l.single()
		want := text(200)

		for i := 0; i < len(want); i += 2 {
			p.Send(want[i : i+2])
		}

		got := ""

		for i := 0; len(got) < 150; i++ { // each lease takes little and reads ahead much
			r := readerOf(t, m)
			in := receiving(t, t.Context(), r, k, 1+i%5)
			got += in.take(1)
			synctest.Wait()
			requireClosed(t, r)
			require.Empty(t, in.rest())
		}

		r := readerOf(t, m)
		got += readN(t, r, len(want)-len(got))
		require.Equal(t, want, got)
		requireClosed(t, r)
		requireKept(t, m, 1)
	})
}

func TestChunkBelongsToItsReceiver(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		for _, size := range []int{8, 64, 1000} {
			m, _, p := l.single()
			r := readerOf(t, m)
			in := receiving(t, t.Context(), r, inChunks, size)
			want := text(400)

			for i := 0; i < len(want); i += 40 {
				p.Send(want[i : i+40])
				synctest.Wait()
			}

			var chunks [][]byte

			got := ""
			spoil := func(chunk []byte) {
				got += string(chunk)
				for i := range chunk {
					chunk[i] = 0xff
				}

				chunks = append(chunks, append(chunk, "\xff\xff\xff\xff\xff\xff\xff\xff"...))
			}

			for range 2 {
				chunk, _ := in.next()
				spoil(chunk)
				synctest.Wait()
			}

			requireClosed(t, r) // the rest goes back

			r = readerOf(t, m)
			in = receiving(t, t.Context(), r, inChunks, 3)

			for range 3 {
				chunk, _ := in.next()
				spoil(chunk)
				synctest.Wait()
			}

			requireClosed(t, r)

			r = readerOf(t, m)
			got += readN(t, r, len(want)-len(got))
			require.Equal(t, want, got)

			for _, chunk := range chunks {
				require.Equal(t, strings.Repeat("\xff", len(chunk)), string(chunk), "nobody else writes to it either")
			}

			requireClosed(t, r)
			requireKept(t, m, 1)
		}
	})
}

func TestByteTakenWhileTheLeaseClosesGoesToOneOnly(t *testing.T) {
	const size = 200

	for _, k := range []streamKind{perByte, inChunks} {
		t.Run(string(k), func(t *testing.T) {
			l := newLedger(t)
			m, _, p := l.single()

			for i := range 400 {
				r, err := m.Reader(t.Context(), 0)
				require.NoError(t, err)

				in := receiving(t, t.Context(), r, k, 1+rand.IntN(size))

				for b := range size {
					p.Send(string([]byte{byte(b)}))
				}

				got := later(in.rest)

				for range rand.IntN(30) {
					runtime.Gosched()
				}

				requireClosed(t, r)

				next := readerOf(t, m)
				consumer := <-got
				lease := readN(t, next, size-len(consumer))

				requireAscending(t, consumer)
				requireAscending(t, lease)

				var seen [size]int

				for _, b := range []byte(consumer + lease) {
					seen[b]++
				}

				for b, n := range seen {
					require.Equal(t, 1, n, "round %d: byte %d", i, b)
				}

				requireClosed(t, next)
			}

			requireKept(t, m, 1)
		})
	}
}

func requireAscending(t testing.TB, s string) {
	t.Helper()

	for i := 1; i < len(s); i++ {
		require.Less(t, s[i-1], s[i], "out of order")
	}
}

func TestStreamThatNobodyTakesFromEndsWithItsLease(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, _, p := l.single()
		r := readerOf(t, m)

		_ = receiving(t, t.Context(), r, k, 1)

		p.Send(text(5000))
		synctest.Wait()
		requireClosed(t, r)

		r = readerOf(t, m)
		require.Equal(t, text(5000), readN(t, r, 5000))
		requireClosed(t, r)
		requireKept(t, m, 1)
	})
}

// ---------------------------------------------------------------------------------------------------------------
// The connection's end

func TestDataAndEOFReadAheadAreDeliveredToLaterLeases(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		for _, taken := range []int{0, 2} {
			m, c, p := l.single()
			r := readerOf(t, m)
			in := receiving(t, t.Context(), r, k, 16)

			for _, s := range []string{"a", "b", "c"} {
				p.Send(s)
				synctest.Wait()
			}

			p.CloseWrite()
			synctest.Wait()

			want := "abc"[taken:]

			require.Equal(t, "abc"[:taken], in.take(taken))
			requireLost(t, m, 1)
			requireNoWriter(t, m)
			requireClosed(t, r)
			require.Empty(t, in.rest())

			for ; want != ""; want = want[1:] { // a byte per lease
				r = readerOf(t, m)
				require.Equal(t, want[:1], readN(t, r, 1))
				requireClosed(t, r)
			}

			// The end itself may be told to one lease more.
			if r, err := m.Reader(t.Context(), -1); err == nil {
				_, err := r.Read(make([]byte, 1))
				require.Equal(t, io.EOF, err)
				requireClosed(t, r)
			}

			requireNoReader(t, m)
			requireClosedOnce(t, c)
			requireLost(t, m, 1)
		}
	})
}

func TestDataAndEOFReadAheadAreReadByOneLeaseThenItsEOF(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, _, p := l.single()
		r := readerOf(t, m)

		_ = receiving(t, t.Context(), r, k, 16)

		p.Send("abcdef")
		synctest.Wait()
		p.CloseWrite()
		synctest.Wait()
		requireClosed(t, r)

		r = readerOf(t, m)
		require.Equal(t, "abc", readN(t, r, 3))

		in := receiving(t, t.Context(), r, k, 16)
		require.Equal(t, "def", in.rest())
		require.NoError(t, r.Err())

		_, err := r.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
		requireClosed(t, r)
		requireNoReader(t, m)
		requireLost(t, m, 1)
	})
}

// The connection itself is closed by then, and must not be asked for anything more.
func TestRemainsAtTheEOFSurviveAllThatEndsALeaseOrStream(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, r plex.Reader, cancel func()){
		"Close":          func(*testing.T, plex.Reader, func()) {},
		"the ctx":        func(_ *testing.T, _ plex.Reader, cancel func()) { cancel(); synctest.Wait() },
		"the ctx, Close": func(_ *testing.T, _ plex.Reader, cancel func()) { cancel() },
		"a deadline": func(t *testing.T, r plex.Reader, _ func()) {
			require.NoError(t, r.SetReadDeadline(time.Now().Add(time.Second)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
				m, c, p := l.single()
				r := readerOf(t, m)
				want := text(40)

				_ = receiving(t, t.Context(), r, perByte, 50) // takes all into its channel

				p.Send(want)
				synctest.Wait()
				p.CloseWrite()
				synctest.Wait()
				requireClosedOnce(t, c)
				requireClosed(t, r)

				got := ""

				for len(got) < 20 {
					r = readerOf(t, m)
					ctx, cancel := context.WithCancel(t.Context())
					in := receiving(t, ctx, r, k, 1)
					got += in.take(1)

					synctest.Wait() // the stream waits for its consumer
					end(t, r, cancel)
					requireClosed(t, r)
					cancel()
				}

				r = readerOf(t, m)
				got += readN(t, r, len(want)-len(got))
				require.Equal(t, want, got)

				_, err := r.Read(make([]byte, 1))
				require.Equal(t, io.EOF, err)
				requireClosed(t, r)
				requireLost(t, m, 1)
			})
		})
	}
}

// The stream was closed by its lease before it had come to the EOF.
func TestEOFBehindWhatWasPushedBackIsSeenByTheNextLease(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, c, p := l.single()
		r := readerOf(t, m)

		_ = receiving(t, t.Context(), r, k, 1)

		for i := range 20 { // more than the channel holds, so the stream waits with the rest in hand
			p.Send(text(20)[i : i+1])
			synctest.Wait()
		}

		p.CloseWrite()
		synctest.Wait()
		requireClosed(t, r)

		r = readerOf(t, m)
		require.Equal(t, text(20), readN(t, r, 20))

		_, err := r.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
		requireClosed(t, r)
		synctest.Wait()
		requireClosedOnce(t, c)
		requireLost(t, m, 1)
	})
}

func TestResetInAStreamEndsItAfterWhatHadArrived(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, c, p := l.single()
		r, w := readerOf(t, m), writerOf(t, m)
		in := receiving(t, t.Context(), r, k, 16)

		p.Send("ab")
		require.Equal(t, "a", in.take(1)[:1])
		p.Send("cd")
		p.Reset(syscall.ECONNRESET, true)
		synctest.Wait() // it has read all and met the reset, nothing has been taken since

		require.Contains(t, []string{"bcd", "cd"}, in.rest()) // a chunk was "ab"
		require.ErrorIs(t, r.Err(), syscall.ECONNRESET)
		require.ErrorIs(t, w.Err(), syscall.ECONNRESET)
		requireClosedOnce(t, c)

		_, err := r.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		_, err = receive(t.Context(), r, k, 1)
		require.ErrorIs(t, err, syscall.ECONNRESET)
		requireClosed(t, r, w)
		require.ErrorIs(t, r.Err(), syscall.ECONNRESET, "also after Close")
		requireLost(t, m, 1)
	})
}

func TestErrAfterACleanStreamStillTellsWhatTheConnectionDiedOf(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, _, p := l.single()
		r, w := readerOf(t, m), writerOf(t, m)
		out := sending(t, t.Context(), w, k, 4)

		out.send("x")
		out.end()
		synctest.Wait()
		require.NoError(t, w.Err())
		p.Reset(syscall.ECONNRESET, false)

		_, err := r.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		require.ErrorIs(t, w.Err(), syscall.ECONNRESET, "the writer's last stream ended well before")
		requireClosed(t, r, w)
	})
}

func TestStreamOfAHalfWhoseConnectionTheOtherKilledEnds(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, c, _ := l.single()
		r, w := readerOf(t, m), writerOf(t, m)
		in := receiving(t, t.Context(), r, k, 4)

		synctest.Wait()
		require.NoError(t, w.Kill())
		require.Empty(t, in.rest())
		require.ErrorIs(t, r.Err(), plex.ErrKilled)
		requireClosed(t, r)
		requireClosedOnce(t, c)
		requireLost(t, m, 1)
	})
}

func TestKillEndsItsOwnStream(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		for _, full := range []bool{false, true} {
			m, c, p := l.single()
			r := readerOf(t, m)
			in := receiving(t, t.Context(), r, k, 1)

			if full {
				for range 40 {
					p.Send("x")
					synctest.Wait()
				}
			}

			synctest.Wait()
			require.NoError(t, r.Kill())
			in.rest()
			synctest.Wait()
			requireClosedOnce(t, c)
			requireNoReader(t, m)
			requireLost(t, m, 1)
		}
	})
}

func TestMultiplexerCloseEndsEveryStreamAndItsGoroutine(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		conns, peers := l.Pairs(4)
		m := l.mux(plex.WithConnections(conns...))

		var (
			readers []plex.Reader
			ins     []inflow
		)

		for i := range conns {
			r := readerOf(t, m)
			readers = append(readers, r)
			ins = append(ins, receiving(t, t.Context(), r, []streamKind{perByte, inChunks}[i%2], 1))
		}

		for _, p := range peers[:2] { // two of them wait for their consumers, two for data
			for range 40 {
				p.Send("x")
				synctest.Wait()
			}
		}

		require.NoError(t, m.Close())

		for i, r := range readers {
			ins[i].rest()
			require.ErrorIs(t, r.Err(), plex.ErrClosed)
			requireClosed(t, r)
		}
	})
}

func TestStreamEndsWithTheContextOfTheMultiplexer(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		ctx, cancel := context.WithCancel(t.Context())
		c, _ := l.Pair()

		m, err := plex.New(ctx, plex.WithConnections(c))
		require.NoError(t, err)
		l.closeAtEnd(m)

		r := readerOf(t, m)
		in := receiving(t, t.Context(), r, k, 1)

		synctest.Wait()
		cancel()
		require.Empty(t, in.rest())
		require.ErrorIs(t, r.Err(), plex.ErrClosed)
		requireClosed(t, r)
	})
}

// ---------------------------------------------------------------------------------------------------------------
// Datagrams

func TestChunkIsOneDatagramAndAnEmptyOneIsNoEnd(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := l.Datagrams()
		m := l.mux(plex.WithConnections(c))
		r := readerOf(t, m)
		in := receiving(t, t.Context(), r, inChunks, 5)

		c.Deliver("first", "", "3", "longer than 5", "")

		for _, want := range []string{"first", "", "3", "longe", ""} {
			chunk, open := in.next()
			require.True(t, open)
			require.NotNil(t, chunk)
			require.Equal(t, want, string(chunk))
		}

		requireClosed(t, r)
		requireKept(t, m, 1)
	})
}

func TestDatagramsThatWerePushedBackStayWhole(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := l.Datagrams()
		m := l.mux(plex.WithConnections(c))
		r := readerOf(t, m)
		in := receiving(t, t.Context(), r, inChunks, 0)

		all := []string{"0", "one", "", "three", "four", "", "six", "seven", "eight", "nine", "ten"}
		c.Deliver(all...)
		synctest.Wait()

		got, _ := in.next()
		require.Equal(t, all[0], string(got))
		requireClosed(t, r)

		r = readerOf(t, m)

		for _, want := range all[1:5] {
			buf := make([]byte, 100)
			n, err := r.Read(buf)
			require.NoError(t, err)
			require.Equal(t, want, string(buf[:n]))
		}

		in = receiving(t, t.Context(), r, inChunks, 0)

		for _, want := range all[5:8] {
			got, open := in.next()
			require.True(t, open)
			require.Equal(t, want, string(got))
		}

		requireClosed(t, r)

		r = readerOf(t, m)
		buf := make([]byte, 3)
		n, err := r.Read(buf) // what does not fit is gone, as with any datagram
		require.NoError(t, err)
		require.Equal(t, "eig", string(buf[:n]))
		require.Equal(t, "nine", readN(t, r, 4))
		require.Equal(t, "ten", readN(t, r, 3))
		requireClosed(t, r)
		requireKept(t, m, 1)
	})
}

func TestBytesOfDatagramsStreamAndAnEmptyOneIsNoEnd(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		c := l.Datagrams()
		m := l.mux(plex.WithConnections(c))
		r := readerOf(t, m)
		in := receiving(t, t.Context(), r, perByte, 2)

		c.Deliver("ab", "", "cd", "efghij")
		require.Equal(t, "abcde", in.take(5))
		synctest.Wait()
		requireClosed(t, r)

		r = readerOf(t, m)
		got := ""

		for range "fghij" { // the rest, in however many pieces it was held
			if got != "fghij" {
				buf := make([]byte, 10)
				n, err := r.Read(buf)
				require.NoError(t, err)

				got += string(buf[:n])
			}
		}

		require.Equal(t, "fghij", got)
		requireClosed(t, r)
		requireKept(t, m, 1)
	})
}

func TestRefusedDatagramInAStreamIsNoFaultOfTheConnection(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		c := l.Datagrams()
		m := l.mux(plex.WithConnections(c))
		r := readerOf(t, m)
		in := receiving(t, t.Context(), r, k, 16)

		c.Deliver("ab")
		require.Equal(t, "ab", in.take(2))
		c.FailRead(syscall.ECONNREFUSED)
		synctest.Wait()
		c.Deliver("cd")
		synctest.Wait()

		if _, came, open := in.poll(); !came && !open { // the stream may end, or go on
			require.ErrorIs(t, r.Err(), syscall.ECONNREFUSED)
			require.Equal(t, "cd", readN(t, r, 2))
		}

		requireClosed(t, r)
		requireKept(t, m, 1)
	})
}

func TestCloseTakesBackWhatAStreamThatAnErrorEndedHasLeft(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		c := l.Datagrams()
		m := l.mux(plex.WithConnections(c))
		r := readerOf(t, m)
		in := receiving(t, t.Context(), r, k, 16)

		c.Deliver("ab")
		synctest.Wait()
		c.FailRead(syscall.ECONNREFUSED)
		synctest.Wait()
		requireClosed(t, r)
		require.Empty(t, in.rest(), "a closed lease delivers nothing more")

		r = readerOf(t, m)
		require.Equal(t, "ab", readN(t, r, 2))
		requireClosed(t, r)
		requireKept(t, m, 1)
	})
}

// ---------------------------------------------------------------------------------------------------------------
// The oracle

// feed is a connection whose peer sends words of the oracle. Its offset is how far the consumers have come: it has no
// lock on purpose, since only the lease's holder touches it, and the race detector shall see when that is not so.
type feed struct {
	local  net.Addr
	peer   io.Writer
	stream int
	offset int64
}

// take books p as delivered.
func (f *feed) take(p []byte) error {
	err := checkOracle(p, f.stream, f.offset)
	f.offset += int64(len(p))

	return err
}

// feeders has consumers take the bytes of all feeds by random Reads, Recvs and RecvChunks that end at random moments,
// and checks that each byte comes once and in order.
type feeders struct {
	m         *plex.Multiplexer
	feeds     []*feed
	bytes     int64         // each feed sends so many
	unit      time.Duration // pauses and cancels are a few of these apart
	consumers int
	taken     atomic.Int64 // bytes, of all feeds
	ops       atomic.Int64
}

func (w *feeders) done() bool { return w.taken.Load() >= w.bytes*int64(len(w.feeds)) }

// moment is a random short time.
func (w *feeders) moment(rnd *rand.Rand) time.Duration {
	return time.Duration(rnd.Int64N(int64(8 * w.unit)))
}

func (w *feeders) run(t testing.TB, seed uint64, limit time.Duration) {
	t.Logf("seed %d", seed)

	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()

	var wg sync.WaitGroup

	for i, f := range w.feeds {
		rnd := rand.New(rand.NewPCG(seed, uint64(1000+i)))

		wg.Go(func() {
			for sent := int64(0); sent < w.bytes; {
				p := make([]byte, min(w.bytes-sent, 1+rnd.Int64N(60)))
				oracle(p, f.stream, sent)

				if _, err := f.peer.Write(p); err != nil {
					t.Errorf("feed %d: %v", f.stream, err)

					return
				}

				if sent += int64(len(p)); rnd.IntN(4) == 0 {
					time.Sleep(w.moment(rnd) / 4)
				}
			}
		})
	}

	for i := range w.consumers {
		rnd := rand.New(rand.NewPCG(seed, uint64(i)))

		wg.Go(func() {
			for !w.done() && !t.Failed() {
				if err := w.lease(ctx, rnd); err != nil {
					t.Errorf("seed %d: %v", seed, err)
				}
			}
		})
	}

	wg.Wait()

	for _, f := range w.feeds {
		assert.Equal(t, w.bytes, f.offset, "seed %d: bytes of feed %d that were delivered", seed, f.stream)
	}
}

// lease does a few random things with one lease.
func (w *feeders) lease(ctx context.Context, rnd *rand.Rand) (err error) {
	r, err := w.m.Reader(ctx, 0)
	if err != nil {
		return err
	}

	defer func() { err = errors.Join(err, r.Close()) }()

	var f *feed

	for _, g := range w.feeds {
		if g.local.String() == r.LocalAddr().String() {
			f = g
		}
	}

	take := func(p []byte) error {
		w.taken.Add(int64(len(p)))

		return f.take(p)
	}

	for range 1 + rnd.IntN(4) {
		w.ops.Add(1)

		switch rnd.IntN(4) {
		case 0:
			err = w.read(r, rnd, take)
		case 1:
			var last bool
			if last, err = w.stream(ctx, r, rnd, perByte, take); last {
				return err
			}
		default:
			var last bool
			if last, err = w.stream(ctx, r, rnd, inChunks, take); last {
				return err
			}
		}

		if err != nil {
			return err
		}
	}

	return nil
}

// read is a Read with a deadline soon.
func (w *feeders) read(r plex.Reader, rnd *rand.Rand, take func([]byte) error) error {
	if err := r.SetReadDeadline(time.Now().Add(w.moment(rnd))); err != nil {
		return err
	}

	p := make([]byte, 1+rnd.IntN(100))
	n, err := r.Read(p)

	for errors.Is(err, plex.ErrStreaming) { // a stream that was told to end and is not yet out
		time.Sleep(w.unit / 8)
		n, err = r.Read(p)
	}

	if wrong := take(p[:n]); wrong != nil {
		return wrong
	}

	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}

	return r.SetReadDeadline(time.Time{})
}

// stream is a stream whose ctx ends soon. The consumer takes some and then cancels, or goes on until the channel is
// closed, or leaves it to the lease's end, which has to be the next thing if last is true.
func (w *feeders) stream(ctx context.Context, r plex.Reader, rnd *rand.Rand, k streamKind, take func([]byte) error) (last bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, w.moment(rnd))
	defer cancel()

	in, err := receive(ctx, r, k, rnd.IntN(40))

	for errors.Is(err, plex.ErrStreaming) {
		time.Sleep(w.unit / 8)

		in, err = receive(ctx, r, k, rnd.IntN(40))
	}

	switch {
	case err != nil && ctx.Err() != nil:
		return false, nil // it had ended already
	case err != nil:
		return false, err
	}

	for range rnd.IntN(200) {
		p, open := in.next()
		if !open {
			return false, nil
		}

		if err := take(p); err != nil {
			return false, err
		}
	}

	switch rnd.IntN(4) {
	case 0:
		return true, nil
	case 1: // what the channel holds goes back to this lease
		cancel()

		return false, nil
	case 2: // some is taken after the cancel
		cancel()

		for range rnd.IntN(5) {
			p, open := in.next()
			if !open {
				return false, nil
			}

			if err := take(p); err != nil {
				return false, err
			}
		}

		return false, nil
	default:
		cancel()

		for p, open := in.next(); open; p, open = in.next() {
			if err := take(p); err != nil {
				return false, err
			}
		}

		return false, nil
	}
}

// seeds are those of the environment variable PLEX_SEED if it is set, else n random ones.
func seeds(t testing.TB, n int) []uint64 {
	t.Helper()

	if s := os.Getenv("PLEX_SEED"); s != "" {
		var seed uint64

		for _, d := range s {
			seed = seed*10 + uint64(d-'0')
		}

		return []uint64{seed}
	}

	all := make([]uint64, n)
	for i := range all {
		all[i] = rand.Uint64()
	}

	return all
}

func TestNothingThatIsCancelledCostsAByte(t *testing.T) {
	for _, seed := range seeds(t, 40) {
		bubble(t, func(t *testing.T, l *ledger) {
			rnd := rand.New(rand.NewPCG(seed, 0))
			conns, peers := l.Pairs(1 + rnd.IntN(3))
			w := &feeders{
				m: l.mux(plex.WithConnections(conns...)), bytes: 3000, unit: time.Microsecond, consumers: 1 + rnd.IntN(5),
			}

			for i, c := range conns {
				w.feeds = append(w.feeds, &feed{local: c.LocalAddr(), peer: peers[i], stream: 1 + i})
			}

			w.run(t, seed, time.Hour)
			requireKept(t, w.m, len(conns))
		})
	}
}

func TestNothingThatIsCancelledCostsAByteInRealTime(t *testing.T) {
	for _, seed := range seeds(t, 3) {
		l := newLedger(t)
		conns, peers := l.Pairs(2)
		w := &feeders{
			m: l.mux(plex.WithConnections(conns...)), bytes: 60_000, unit: 10 * time.Microsecond, consumers: 4,
		}

		for i, c := range conns {
			w.feeds = append(w.feeds, &feed{local: c.LocalAddr(), peer: peers[i], stream: 1 + i})
		}

		w.run(t, seed, time.Minute)
		requireKept(t, w.m, len(conns))
	}
}

func TestNothingThatIsCancelledCostsAByteOverTCPAndTLS(t *testing.T) {
	for _, tr := range streams() {
		if tr.name != "tcp" && tr.name != "tls" {
			continue
		}

		t.Run(tr.name, func(t *testing.T) {
			l := newLedger(t)
			links := openLinks(t, l, tr, 2)
			w := &feeders{
				m: l.mux(plex.WithConnections(links.clients()...)), bytes: 100_000, unit: 30 * time.Microsecond, consumers: 4,
			}

			for i, k := range links {
				w.feeds = append(w.feeds, &feed{local: k.client.LocalAddr(), peer: k.server, stream: 1 + i})
			}

			w.run(t, seeds(t, 1)[0], time.Minute)
			requireKept(t, w.m, len(links))
		})
	}
}

// The same to the very end: the peers close when they have sent all, and every byte before the EOF is delivered.
func TestEveryByteBeforeTheEOFIsDelivered(t *testing.T) {
	for _, seed := range seeds(t, 60) {
		bubble(t, func(t *testing.T, l *ledger) {
			t.Logf("seed %d", seed)

			rnd := rand.New(rand.NewPCG(seed, 0))
			conns, peers := l.Pairs(1 + rnd.IntN(3))
			m := l.mux(plex.WithConnections(conns...))
			feeds := map[net.Addr]*feed{}
			sizes := map[net.Addr]int64{}

			for i, c := range conns {
				size := rnd.Int64N(300)
				p := make([]byte, size)
				oracle(p, 1+i, 0)
				feeds[c.LocalAddr()] = &feed{stream: 1 + i}
				sizes[c.LocalAddr()] = size

				pieces := rnd.IntN(4)

				go func() {
					for ; pieces > 0 && len(p) > 1; pieces-- {
						_, _ = peers[i].Write(p[:len(p)/2])
						p = p[len(p)/2:]

						time.Sleep(time.Microsecond)
					}

					_, _ = peers[i].Write(p)
					peers[i].CloseWrite()
				}()
			}

			for {
				r, err := m.Reader(t.Context(), 0)
				if err != nil {
					require.ErrorIs(t, err, plex.ErrNoConnections)

					break
				}

				f := feeds[r.LocalAddr()]

				if k := []streamKind{"Read", perByte, inChunks}[rnd.IntN(3)]; k == "Read" {
					p := make([]byte, 1+rnd.IntN(50))
					n, err := r.Read(p)
					require.NoError(t, f.take(p[:n]))

					if err != nil {
						require.Equal(t, io.EOF, err)
					}
				} else {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+rnd.IntN(5))*time.Microsecond)
					in := receiving(t, ctx, r, k, rnd.IntN(30))

					for range rnd.IntN(30) {
						p, open := in.next()
						if !open {
							break
						}

						require.NoError(t, f.take(p))
					}

					if rnd.IntN(2) == 0 {
						synctest.Wait()
					}

					cancel()
				}

				requireClosed(t, r)
			}

			for addr, f := range feeds {
				require.Equal(t, sizes[addr], f.offset, "bytes of feed %d that were delivered", f.stream)
			}

			requireLost(t, m, len(conns))
		})
	}
}
