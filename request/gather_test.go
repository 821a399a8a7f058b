package request_test

// Gathering: what is written together, what becomes of a batch that is cut short at any byte, and
// whom a peer that stops reading holds up.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
	"go.atomizer.io/plex/message"
	"go.atomizer.io/plex/request"
)

// goroutine names the goroutine that calls it.
func goroutine() string {
	stack := make([]byte, 64)

	return strings.Join(strings.Fields(string(stack[:runtime.Stack(stack, false)]))[:2], " ")
}

// held has the first Write of a connection wait, before it writes anything, until release is called.
// What callers ask meanwhile is gathered.
func held(c *fakeConn) (release func()) {
	ch := make(chan struct{})
	c.OnWrite(fakenet.Once(func(p []byte, do func([]byte) (int, error)) (int, error) {
		<-ch

		return do(p)
	}))

	return func() { close(ch) }
}

// batch has requests gathered while an earlier one is written. They are in one batch, in this order,
// which is written as soon as release is called.
func batch(t *testing.T, c *client, conn *fakeConn, ctx context.Context, texts ...string) (first <-chan outcome, rest []<-chan outcome, release func()) {
	release = held(conn)
	first = asking(t.Context(), c, "first")
	synctest.Wait()

	for _, text := range texts {
		rest = append(rest, asking(ctx, c, text))
		synctest.Wait()
	}

	return first, rest, release
}

func TestALoneCallerWritesAtOnceInItsOwnGoroutine(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client()
		var writer string
		conns[0].Hooks.Write = func([]byte) { writer = goroutine() }

		for range 3 {
			done := make(chan struct{})
			go func() {
				defer close(done)
				reply, err := c.Do(t.Context(), "text")
				require.NoError(t, err)
				require.Equal(t, "reply", string(reply))
				require.Equal(t, goroutine(), writer)
			}()
			conns[0].reply(conns[0].take("text"), "reply")
			<-done
		}

		require.EqualValues(t, 3, c.Stats().Writes)
	})
}

func TestRequestsThatAreMadeTogetherShareAWrite(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client()
		var texts []string
		for i := range 100 {
			texts = append(texts, fmt.Sprint("text ", i))
		}

		start := time.Now()
		first, rest, release := batch(t, c, conns[0], t.Context(), texts...)
		release()
		conns[0].reply(conns[0].take("first"), "first")
		requireReply(t, first, "first")

		for i, text := range texts { // in this order
			conns[0].reply(conns[0].take(text), text)
			requireReply(t, rest[i], text)
		}

		require.Zero(t, time.Since(start))
		s := c.Stats()
		require.Equal(t, []uint64{2, 101}, []uint64{s.Writes, s.Sent})
		require.Equal(t, 2, conns[0].Calls().Writes)
	})
}

func TestTheWriteBufferBoundsWhatIsWrittenAtOnce(t *testing.T) {
	size := len(frame(kindRequest, 0, "text 0"))

	for _, test := range []struct{ buffer, writes int }{
		{0, 11}, {1, 11}, {size - 1, 11}, {size, 11}, {2*size - 1, 11}, {2 * size, 6}, {3 * size, 5}, {10 * size, 2},
	} {
		t.Run(fmt.Sprint(test.buffer), func(t *testing.T) {
			bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
				c := w.client(request.WithWriteBuffer(test.buffer))
				var texts []string
				for i := range 10 {
					texts = append(texts, fmt.Sprint("text ", i))
				}

				first, rest, release := batch(t, c, conns[0], t.Context(), texts...)
				release()
				echo(conns[0])
				requireReply(t, first, "first")
				for i, text := range texts {
					requireReply(t, rest[i], text)
				}

				require.EqualValues(t, test.writes, c.Stats().Writes)
				largest := conns[0].Written().Largest
				require.LessOrEqual(t, largest, max(test.buffer, size))
			})
		})
	}
}

func TestWithoutAWriteBufferWritesRunAtTheSameTime(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client(request.WithWriteBuffer(0))
		var all []<-chan outcome
		for _, conn := range conns {
			conn.allow(0)
			all = append(all, asking(t.Context(), c, "text"))
		}
		synctest.Wait()
		for i, conn := range conns {
			require.Equal(t, 1, conn.Calls().PeakWrites, "connection %d, without any time gone by", i)
			conn.allow(-1)
			conn.reply(conn.take("text"), "reply")
			echo(conn)
		}
		for _, asked := range all {
			requireReply(t, asked, "reply")
		}

		// With all writers busy, requests wait in line.
		for _, conn := range conns {
			conn.allow(0)
		}
		all = all[:0]
		for range 10 {
			all = append(all, asking(t.Context(), c, "text"))
		}
		synctest.Wait()
		require.Equal(t, 1, w.mux.Stats().Waiting, "one waits for all")
		for _, conn := range conns {
			conn.allow(-1)
		}
		for _, asked := range all {
			requireReply(t, asked, "text")
		}
		require.Zero(t, w.mux.Stats().Waiting)
	})
}

// ends are the ways in which a Write is cut short, and what requests fail with then.
func ends(w *world, c *client, conn *fakeConn) map[string]struct {
	end   func()
	cause error
} {
	return map[string]struct {
		end   func()
		cause error
	}{
		"a reset": {conn.reset, syscall.ECONNRESET},
		"a FIN":   {conn.fin, nil}, // io.EOF, or that of the Write which it interrupts
		"a kill": {func() {
			for i := range w.all() {
				if w.all()[i] == conn {
					conn.send(frame('?', 0, "nonsense"))
				}
			}
		}, errKind},
		"Close of the client":      {func() { _ = c.Close() }, request.ErrClosed},
		"Close of the multiplexer": {func() { _ = w.mux.Close() }, plex.ErrClosed},
		"the write timeout":        {func() { time.Sleep(10 * time.Second) }, os.ErrDeadlineExceeded},
	}
}

// After a Write that was cut short at any byte, each request of the batch says exactly whether
// something of it may have been sent.
func TestAShortWriteAtEveryByteOfABatch(t *testing.T) {
	texts := []string{"a", "bcd", "", "efghij"}
	var begins []int
	total := 0
	for _, text := range texts {
		begins = append(begins, total)
		total += len(frame(kindRequest, 0, text))
	}

	for _, name := range []string{
		"a reset", "a FIN", "a kill", "Close of the client", "Close of the multiplexer", "the write timeout",
	} {
		t.Run(name, func(t *testing.T) {
			for n := range total {
				bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
					c := w.client(request.WithIDs(100))
					first, rest, release := batch(t, c, conns[0], t.Context(), texts...)
					conns[0].allow(len(frame(kindRequest, 0, "first")) + n)
					release()
					synctest.Wait()
					written := conns[0].Written().Bytes
					require.Equal(t, len(frame(kindRequest, 0, "first")), written, "one Write is whole, the other goes on")

					end := ends(w, c, conns[0])[name]
					end.end()
					for i, asked := range append(rest, first) {
						err := (<-asked).err
						var e *request.Error
						require.ErrorAs(t, err, &e)
						if end.cause != nil {
							require.ErrorIs(t, err, end.cause, "request %d after %d bytes", i, n)
						}
						sent := i == len(rest) || begins[i] < n
						require.Equal(t, sent, e.MaybeSent, "request %d after %d bytes: %v", i, n, err)
					}
					time.Sleep(time.Second)
					s := c.Stats()
					require.Zero(t, s.InFlight+s.Abandoned)
				})
			}
		})
	}
}

// The transport returns early, without an end of the connection. What was cut in two costs the
// connection; if nothing was written, the connection goes on.
func TestATransportThatWritesLessThanItShould(t *testing.T) {
	texts := []string{"a", "b"}
	size := len(frame(kindRequest, 0, "a"))

	for n := range 2 * size {
		bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
			c := w.client()
			_, rest, release := batch(t, c, conns[0], t.Context(), texts...)
			release()
			conns[0].OnWrite(fakenet.Once(fakenet.Short(n)))
			for i, asked := range rest {
				err := (<-asked).err
				var e *request.Error
				require.ErrorAs(t, err, &e)
				require.Equal(t, i*size < n, e.MaybeSent, "request %d after %d bytes: %v", i, n, err)
			}
			time.Sleep(time.Second)
			require.Equal(t, n == 0, w.mux.Stats().Open == 1)
		})
	}
}

// What is reused after a Write that has failed is used once.
func TestGatheringGoesOnAfterAFailure(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client(request.WithWriteBuffer(20))
		conns[0].OnWrite(fakenet.Short(0))
		for range 3 {
			requireError(t, asking(t.Context(), c, "text"), false, io.ErrShortWrite)
		}
		texts := []string{"a", "b", "c", "d"} // each in a batch of its own
		first, rest, release := batch(t, c, conns[0], t.Context(), texts...)
		release()
		echo(conns[0])
		requireReply(t, first, "first")
		for i, text := range texts {
			requireReply(t, rest[i], text)
		}
	})
}

// The context of a caller ends, and its Write fails, but not because of that. Then there is nothing
// to be written by somebody else, and the lead goes on.
func TestGatheringGoesOnAfterAFailureWhoseCallerHasGone(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client()
		ctx, cancel := context.WithCancel(t.Context())
		release := make(chan struct{})
		conns[0].OnWrite(fakenet.Once(func([]byte, func([]byte) (int, error)) (int, error) {
			<-release
			cancel()
			return 0, io.ErrShortWrite
		}))
		first := asking(ctx, c, "first")
		synctest.Wait()
		second := asking(t.Context(), c, "second") // is gathered meanwhile
		synctest.Wait()
		close(release)
		require.Error(t, ended(t, first).err)
		echo(conns[0])
		requireReply(t, second, "second")
	})
}

func TestAReplyThatComesWhileTheBatchIsWrittenWins(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client()
		first, rest, release := batch(t, c, conns[0], t.Context(), "a", "b", "c")
		conns[0].allow(len(frame(kindRequest, 0, "first")) + len(frame(kindRequest, 0, "a")) + 1)
		release()
		conns[0].reply(conns[0].take("first"), "first")
		requireReply(t, first, "first")
		conns[0].reply(conns[0].take("a"), "one")
		requireReply(t, rest[0], "one")
		requirePending(t, rest[1])
		conns[0].reset()
		requireError(t, rest[1], true, syscall.ECONNRESET)
		requireError(t, rest[2], false, syscall.ECONNRESET)
	})
}

// The context of one caller ends while the batch is stalled, at any byte. It is told that its
// request may have been sent. All the others get their replies, and the connection is kept.
func TestAContextThatEndsWhileTheBatchIsWrittenCutsNothing(t *testing.T) {
	texts := []string{"a", "b", "c"}
	size := len(frame(kindRequest, 0, "a"))

	for n := range 3 * size {
		for gone := range texts {
			bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
				c := w.client(request.WithIDs(100))
				release := held(conns[0])
				first := asking(t.Context(), c, "first")
				synctest.Wait()
				var rest []<-chan outcome
				ctx, cancel := context.WithCancel(t.Context())
				for i, text := range texts {
					mine := t.Context()
					if i == gone {
						mine = ctx
					}
					rest = append(rest, asking(mine, c, text))
					synctest.Wait()
				}
				conns[0].allow(len(frame(kindRequest, 0, "first")) + n)
				release()
				time.Sleep(time.Second)
				cancel()
				requireIs(t, ended(t, rest[gone]).err, true, context.Canceled)

				conns[0].allow(-1)
				echo(conns[0])
				requireReply(t, first, "first")
				for i, asked := range rest {
					if i != gone {
						requireReply(t, asked, texts[i])
					}
				}
				time.Sleep(time.Second)
				s := c.Stats()
				require.Equal(t, []uint64{3, 1, 1}, []uint64{s.Replies, s.Canceled, s.Late}, "replies, canceled, late")
				require.Zero(t, s.Abandoned)
				require.Zero(t, w.mux.Stats().Lost)
			})
		}
	}
}

func TestARequestWhoseContextEndsBeforeItsBatchIsTakenIsCutOut(t *testing.T) {
	texts := []string{"a", "bc", "def"}

	for gone := range 8 { // as a set
		bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
			c := w.client(request.WithIDs(3)) // so each that is cut out gives its identifier back
			release := held(conns[0])
			first := asking(t.Context(), c, "first")
			synctest.Wait()
			ctx, cancel := context.WithCancel(t.Context())
			var rest []<-chan outcome
			for i, text := range texts {
				mine := t.Context()
				if gone>>i&1 == 1 {
					mine = ctx
				}
				rest = append(rest, asking(mine, c, text))
				synctest.Wait()
			}
			cancel()
			for i := range texts {
				if gone>>i&1 == 1 {
					requireIs(t, ended(t, rest[i]).err, false, context.Canceled)
				}
			}
			release()
			conns[0].reply(conns[0].take("first"), "first")
			requireReply(t, first, "first")
			for i, text := range texts {
				if gone>>i&1 == 0 {
					conns[0].reply(conns[0].take(text), "reply")
					requireReply(t, rest[i], "reply")
				}
			}
			require.Zero(t, conns[0].unread())
			require.Zero(t, c.Stats().Abandoned)
		})
	}
}

// Requests of many sizes are gathered, and some are cut out, in any order. What the peer gets is the
// others, whole and in order.
func TestGatheringAndCuttingOutAtRandom(t *testing.T) {
	for seed := range uint64(20) {
		bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
			rng := rand.New(rand.NewPCG(seed, 1))
			c := w.client(request.WithWriteBuffer(rng.IntN(1000)))
			release := held(conns[0])
			first := asking(t.Context(), c, "first")
			synctest.Wait()
			type one struct {
				text   string
				asked  <-chan outcome
				cancel context.CancelFunc
			}
			var queue []one
			for i := range 200 {
				ctx, cancel := context.WithCancel(t.Context())
				text := fmt.Sprint(i, strings.Repeat("x", rng.IntN(200)))
				queue = append(queue, one{text, asking(ctx, c, text), cancel})
				synctest.Wait()
				for len(queue) > 0 && rng.IntN(2) == 0 {
					k := rng.IntN(len(queue))
					queue[k].cancel()
					requireError(t, queue[k].asked, false, context.Canceled)
					queue = append(queue[:k], queue[k+1:]...)
				}
			}
			release()
			conns[0].reply(conns[0].take("first"), "first")
			requireReply(t, first, "first")
			for _, o := range queue {
				conns[0].reply(conns[0].take(o.text), "reply")
				requireReply(t, o.asked, "reply")
				o.cancel()
			}
			require.EqualValues(t, len(queue)+1, c.Stats().Sent)
		})
	}
}

func TestAPeerThatStallsHoldsUpOthersForAMillisecond(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client()
		conns[0].allow(5)
		stalled := asking(t.Context(), c, "stalled")
		synctest.Wait()
		start := time.Now()
		others := []<-chan outcome{asking(t.Context(), c, "other"), asking(t.Context(), c, "other")}
		synctest.Wait()
		require.Zero(t, conns[1].unread())
		conns[1].take("other")
		require.Equal(t, time.Millisecond, time.Since(start))
		id := conns[1].take("other")
		conns[1].reply(id, "reply")
		conns[1].reply(id-1, "reply")
		for _, asked := range others {
			requireReply(t, asked, "reply")
		}
		require.EqualValues(t, 1, c.Stats().Writes, "of two requests; the other one goes on")

		// Whoever comes later writes at once.
		start = time.Now()
		later := asking(t.Context(), c, "later")
		conns[1].reply(conns[1].take("later"), "reply")
		requireReply(t, later, "reply")
		require.Zero(t, time.Since(start))

		requirePending(t, stalled)
		conns[0].allow(-1)
		conns[0].reply(conns[0].take("stalled"), "at last")
		requireReply(t, stalled, "at last")
		require.Zero(t, w.mux.Stats().Lost)
	})
}

// All connections but one stall, one after the other.
func TestEachStalledConnectionCostsAMillisecond(t *testing.T) {
	bubble(t, 5, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client()
		echo(conns[4])
		var all []<-chan outcome
		start := time.Now()
		for _, conn := range conns[:4] {
			conn.allow(5)
			all = append(all, asking(t.Context(), c, "stalled"))
			time.Sleep(time.Millisecond)
			synctest.Wait()
		}
		requireReply(t, asking(t.Context(), c, "other"), "other")
		require.LessOrEqual(t, time.Since(start), 5*time.Millisecond)
		for _, conn := range conns[:4] {
			conn.allow(-1)
			echo(conn)
		}
		for _, asked := range all {
			requireReply(t, asked, "stalled")
		}
	})
}

// The caller writes for itself, and the peer does not read. When its context ends it returns, and the
// rest of the batch, which has others' requests, is still written.
func TestTheContextFreesACallerInWhoseGoroutineAWriteIsStalled(t *testing.T) {
	for _, wait := range []time.Duration{0, time.Microsecond, time.Millisecond, time.Second} {
		t.Run(fmt.Sprint("after ", wait), func(t *testing.T) {
			bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
				c := w.client()
				conns[0].allow(5)
				ctx, cancel := context.WithCancel(t.Context())
				asked := asking(ctx, c, "request")
				synctest.Wait()
				time.Sleep(wait)
				start := time.Now()
				cancel()
				requireError(t, asked, true, context.Canceled)
				require.LessOrEqual(t, time.Since(start), time.Millisecond)
				time.Sleep(time.Second)
				other := asking(t.Context(), c, "other")
				requirePending(t, other)

				conns[0].allow(-1)
				late := conns[0].take("request")
				conns[0].reply(late, "late")
				conns[0].reply(conns[0].take("other"), "reply")
				requireReply(t, other, "reply")
				require.EqualValues(t, 1, c.Stats().Late)
				require.Zero(t, w.mux.Stats().Lost)
				_, deadline := conns[0].DeadlinesLeft()
				require.Zero(t, deadline)
			})
		})
	}
}

// If a transport refuses deadlines, nothing but a kill frees the caller.
func TestTheContextFreesACallerWhoseTransportRefusesDeadlines(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		conns[0].TreatDeadlines(fakenet.DeadlinesRefused)
		c := w.client()
		conns[0].allow(5)
		ctx, cancel := context.WithCancel(t.Context())
		asked := asking(ctx, c, "request")
		time.Sleep(time.Second)
		cancel()
		requireError(t, asked, true, context.Canceled)
		time.Sleep(time.Second)
		require.Zero(t, w.mux.Stats().Open)
	})
}

// What was interrupted for its caller is bounded like any other Write, and ends with the client.
func TestARestThatIsNotTakenEither(t *testing.T) {
	for name, end := range map[string]func(c *client){
		"the write timeout":   func(*client) { time.Sleep(10 * time.Second) },
		"Close of the client": func(c *client) { _ = c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
				c := w.client(request.WithIDs(9))
				conns[0].allow(5)
				ctx, cancel := context.WithCancel(t.Context())
				asked := asking(ctx, c, "request")
				time.Sleep(time.Second)
				cancel()
				requireError(t, asked, true, context.Canceled)
				end(c)
				time.Sleep(time.Second)
				require.Zero(t, w.mux.Stats().Open)
				require.Zero(t, c.Stats().Abandoned)
			})
		})
	}
}

func TestAWriteThatThePeerDoesNotTakeCostsItsConnection(t *testing.T) {
	for _, d := range []time.Duration{0, 50 * time.Millisecond, time.Minute, time.Microsecond} {
		t.Run(fmt.Sprint(d), func(t *testing.T) {
			bubble(t, 2, func(t *testing.T, w *world, conns []*fakeConn) {
				options, limit := []request.Option{request.WithWriteTimeout(d)}, d
				if d == 0 {
					options, limit = nil, 10*time.Second
				}
				c := w.client(options...)
				conns[0].allow(5)
				start := time.Now()
				asked := asking(t.Context(), c, "request")
				synctest.Wait()
				requireError(t, asked, true, os.ErrDeadlineExceeded)
				require.GreaterOrEqual(t, time.Since(start), limit)
				require.Less(t, time.Since(start), limit+20*time.Millisecond)
				time.Sleep(time.Second)
				require.Equal(t, []int{1, 0}, []int{conns[0].Closes(), conns[1].Closes()})

				next := asking(t.Context(), c, "next")
				conns[1].reply(conns[1].take("next"), "reply")
				requireReply(t, next, "reply")
			})
		})
	}
}

// A Write that goes on is not taken for the one before it.
func TestManyWritesInARowAreNotTakenForOneThatLasts(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client(request.WithWriteTimeout(2 * time.Millisecond))
		conns[0].Hooks.Write = func([]byte) { time.Sleep(900 * time.Microsecond) }
		echo(conns[0])
		for range 100 {
			requireReply(t, asking(t.Context(), c, "text"), "text")
		}
		require.Zero(t, w.mux.Stats().Lost)
	})
}

// selfMade returns memory of its own.
type selfMade struct {
	wireProtocol
	frames map[string][]byte
}

func (p selfMade) Append(_ []byte, _ uint64, text string) ([]byte, error) { return p.frames[text], nil }

func TestLargeFramesAreWrittenFromWhereTheyAre(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		p := selfMade{frames: map[string][]byte{}}
		for i, size := range []int{10, 20_000, 10, 20_000, 60_000} {
			name := string(rune('a' + i))
			p.frames[name] = frame(kindRequest, uint64(i), name+strings.Repeat("x", size))
		}
		p.frames["first"] = frame(kindRequest, 100, "first")
		c, err := request.New(w.mux, p)
		require.NoError(t, err)
		var writes [][]byte
		conns[0].Hooks.Write = func(b []byte) { writes = append(writes, b) }
		var out []byte
		conns[0].OnWrite(nil)
		first, rest, release := batch(t, c, conns[0], t.Context(), "a", "b", "c", "d", "e")
		release()
		synctest.Wait()
		require.Len(t, writes, 6)
		for i, name := range []string{"first", "a", "b", "c", "d", "e"} { // in this order
			require.Equal(t, p.frames[name], writes[i])
			require.Equal(t, len(writes[i]) > 8<<10, &p.frames[name][0] == &writes[i][0], "%s is not copied", name)
			out = append(out, p.frames[name]...)
		}
		require.Equal(t, string(out), conns[0].peer.Unread())
		require.NoError(t, c.Close())
		for _, asked := range append(rest, first) {
			requireError(t, asked, true, request.ErrClosed)
		}
	})
}

// The memory that a large frame was encoded into is used again only after it was written, also if
// its caller has gone.
func TestAFrameIsWholeAlthoughItsCallerHasGone(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client()
		large := func(i int) string { return strings.Repeat(fmt.Sprint(i), 20_000) }
		warm := asking(t.Context(), c, large(0)) // so that there is memory to be used again
		conns[0].reply(conns[0].take(large(0)), "reply")
		requireReply(t, warm, "reply")

		ctx, cancel := context.WithCancel(t.Context())
		conns[0].allow(100)
		first := asking(ctx, c, large(1))
		time.Sleep(time.Second)
		cancel()
		requireError(t, first, true, context.Canceled)
		second := asking(t.Context(), c, large(2))
		requirePending(t, second)
		conns[0].allow(-1)
		conns[0].take(large(1))
		conns[0].reply(conns[0].take(large(2)), "reply")
		requireReply(t, second, "reply")
	})
}

// overDatagrams runs f in a bubble with one datagram connection.
func overDatagrams(t *testing.T, f func(t *testing.T, d *fakenet.Datagrams, c *client, m *plex.Multiplexer)) {
	synctest.Test(t, func(t *testing.T) {
		d := fakenet.NewDatagrams()
		m, err := plex.New(t.Context(), plex.WithConnections(d))
		require.NoError(t, err)
		c, err := request.New(m, wireProtocol{})
		require.NoError(t, err)
		f(t, d, c, m)
		require.NoError(t, c.Close())
		balanced(t, c.Stats())
		require.NoError(t, m.Close())
	})
}

func TestDatagramsAreNeverGathered(t *testing.T) {
	overDatagrams(t, func(t *testing.T, d *fakenet.Datagrams, c *client, _ *plex.Multiplexer) {
		d.Allow(0)
		var all []<-chan outcome
		var packets []string
		for i := range uint64(10) {
			text := strings.Repeat("x", int(i)*200)
			all = append(all, asking(t.Context(), c, text))
			packets = append(packets, string(frame(kindRequest, i, text)))
			synctest.Wait()
		}
		d.Allow(-1)
		synctest.Wait()
		require.Equal(t, packets, d.Packets())
		require.EqualValues(t, 10, c.Stats().Writes)
		for i, asked := range all {
			d.Deliver(string(frame(kindReply, uint64(i), "reply")))
			requireReply(t, asked, "reply")
		}
	})
}

// A datagram that cannot be sent fails its own request, and no other.
func TestADatagramThatIsTooLargeFailsAlone(t *testing.T) {
	overDatagrams(t, func(t *testing.T, d *fakenet.Datagrams, c *client, m *plex.Multiplexer) {
		d.Allow(0)
		first := asking(t.Context(), c, "first")
		synctest.Wait()
		texts := []string{"a", "too large", "b"}
		var rest []<-chan outcome
		for _, text := range texts {
			rest = append(rest, asking(t.Context(), c, text))
			synctest.Wait()
		}
		d.OnWrite(func(p []byte, _ func([]byte) (int, error)) (int, error) {
			if bytes.Contains(p, []byte("too large")) {
				return 0, &net.OpError{Op: "write", Err: os.NewSyscallError("write", syscall.EMSGSIZE)}
			}
			return len(p), nil
		})
		d.Allow(-1)
		synctest.Wait()
		requireError(t, rest[1], false, syscall.EMSGSIZE)
		for i, asked := range []<-chan outcome{first, rest[0], nil, rest[2]} {
			if asked != nil {
				d.Deliver(string(frame(kindReply, uint64(i), "reply")))
				requireReply(t, asked, "reply")
			}
		}
		require.Equal(t, 1, m.Stats().Open)
	})
}

// A refusal is told to the Write of a request, and is about those before it. Those behind it are
// written all the same.
func TestARefusalInTheMiddleOfABatchOfDatagrams(t *testing.T) {
	overDatagrams(t, func(t *testing.T, d *fakenet.Datagrams, c *client, m *plex.Multiplexer) {
		d.Allow(0)
		first := asking(t.Context(), c, "first")
		synctest.Wait()
		var rest []<-chan outcome
		for _, text := range []string{"a", "refused", "b"} {
			rest = append(rest, asking(t.Context(), c, text))
			synctest.Wait()
		}
		d.OnWrite(func(p []byte, _ func([]byte) (int, error)) (int, error) {
			if bytes.Contains(p, []byte("refused")) {
				return 0, &net.OpError{Op: "write", Err: os.NewSyscallError("write", syscall.ECONNREFUSED)}
			}
			return len(p), nil
		})
		d.Allow(-1)
		requireError(t, first, true, syscall.ECONNREFUSED)
		requireError(t, rest[0], true, syscall.ECONNREFUSED)
		requireError(t, rest[1], false, syscall.ECONNREFUSED)
		requirePending(t, rest[2])
		d.Deliver(string(frame(kindReply, 3, "reply")))
		requireReply(t, rest[2], "reply")
		require.Equal(t, 1, m.Stats().Open)
	})
}

func TestEachCallerHasItsOwnAcquireTimeout(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client(request.WithAcquireTimeout(time.Second))
		lease, err := w.mux.Writer(t.Context(), 0)
		require.NoError(t, err)
		start := time.Now()
		took := make(chan time.Duration, 4)
		for i := range 4 {
			go func() {
				time.Sleep(time.Duration(i) * 300 * time.Millisecond)
				_, err := c.Do(t.Context(), "request")
				requireIs(t, err, false, plex.ErrTimeout)
				took <- time.Since(start)
			}()
		}
		for i := range 4 {
			require.Equal(t, time.Second+time.Duration(i)*300*time.Millisecond, <-took)
		}
		synctest.Wait()
		require.Zero(t, w.mux.Stats().Waiting, "nobody waits for nobody")
		require.NoError(t, lease.Close())

		asked := asking(t.Context(), c, "text")
		conns[0].reply(conns[0].take("text"), "reply")
		requireReply(t, asked, "reply")
	})
}

func TestWhoGivesUpWaitingForAConnectionLearnsWhyThereIsNone(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client()
		lease, err := w.mux.Writer(t.Context(), 0)
		require.NoError(t, err)
		for range 2 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err = c.Do(ctx, "request")
			cancel()
			requireIs(t, err, false, context.DeadlineExceeded)
			var acquire *plex.AcquireError
			require.ErrorAs(t, err, &acquire)
			require.InDelta(t, time.Second, acquire.Waited, float64(time.Millisecond))
			synctest.Wait()
			require.Zero(t, w.mux.Stats().Waiting)
		}

		// He gives up, and the next one comes at the same moment.
		ctx, cancel := context.WithCancel(t.Context())
		gone := asking(ctx, c, "gone")
		synctest.Wait()
		cancel()
		next := asking(t.Context(), c, "next")
		requireError(t, gone, false, context.Canceled)
		requirePending(t, next)
		require.NoError(t, lease.Close())
		conns[0].reply(conns[0].take("next"), "reply")
		requireReply(t, next, "reply")
	})
}

func TestWithoutConnectionsAllThatIsGatheredFails(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client()
		lease, err := w.mux.Writer(t.Context(), 0)
		require.NoError(t, err)
		var all []<-chan outcome
		for range 5 {
			all = append(all, asking(t.Context(), c, "request"))
			synctest.Wait()
		}
		require.NoError(t, lease.Kill())
		for _, asked := range all {
			requireError(t, asked, false, plex.ErrNoConnections)
		}
	})
}

// A transport ends the goroutine that writes: that of a caller, or the client's own. Whoever was
// gathered behind it is served by another.
func TestAWriteThatEndsItsGoroutine(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client()
		proceed := make(chan struct{})
		exits := func(p []byte, _ func([]byte) (int, error)) (int, error) {
			<-proceed
			runtime.Goexit()
			return 0, nil
		}
		conns[0].OnWrite(exits)
		conns[1].OnWrite(exits)
		echo(conns[2])
		exited := make(chan struct{})
		go func() {
			defer close(exited)
			_, _ = c.Do(t.Context(), "first")
		}()
		synctest.Wait()
		second := asking(t.Context(), c, "second")
		synctest.Wait()
		proceed <- struct{}{} // the caller's goroutine ends, and another writes the second request
		<-exited
		synctest.Wait()
		third := asking(t.Context(), c, "third")
		synctest.Wait()
		proceed <- struct{}{}
		requireReply(t, third, "third")
		err := (<-second).err
		var e *request.Error
		require.ErrorAs(t, err, &e)
		require.True(t, e.MaybeSent, "nobody knows: %v", err)
		time.Sleep(time.Second)
		require.Equal(t, 1, w.mux.Stats().Open)
		require.Zero(t, c.Stats().InFlight)
	})
}

func TestAnErrorOfTheWriteIsToldToThoseOfWhomNothingWasSent(t *testing.T) {
	errWrite := errors.New("write")
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client()
		_, rest, release := batch(t, c, conns[0], t.Context(), "a", "b")
		release()
		conns[0].OnWrite(func(p []byte, do func([]byte) (int, error)) (int, error) {
			n, _ := do(p[:len(p)/2])
			return n, errWrite
		})
		requireError(t, rest[0], true, errWrite)
		requireError(t, rest[1], false, errWrite)
	})
}

// borrowing is a protocol whose replies do not refer to their messages.
type borrowing struct {
	wireProtocol
	lent *[][]byte
}

func (p borrowing) ParseBorrowed(m []byte) (uint64, []byte, error) {
	*p.lent = append(*p.lent, m)
	id, text, err := p.Parse(m)

	return id, bytes.Clone(text), err
}

func TestABorrowerGetsMessagesThatAreNotCopied(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		var pushed [][]byte
		p := borrowing{lent: new([][]byte)}
		c, err := request.New(w.mux, p, request.WithReceivers(1),
			request.WithUnsolicited(func(m message.Message) { pushed = append(pushed, m.Data) }))
		require.NoError(t, err)
		for i := range 3 {
			text := fmt.Sprint("reply ", i)
			asked := asking(t.Context(), c, "text")
			conns[0].send(frame(kindPush, 0, text), frame(kindReply, conns[0].take("text"), text))
			requireReply(t, asked, text)
		}
		require.Len(t, *p.lent, 6)
		for i, m := range pushed { // they belong to the function
			require.Equal(t, fmt.Sprint("reply ", i), string(m[9:]))
			require.NotSame(t, &(*p.lent)[2*i][0], &m[0])
		}
		require.NoError(t, c.Close())
	})
}
