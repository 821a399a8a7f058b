package request_test

// Turns: identifiers, the bound on requests in flight, and the callers that wait for either.

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex/request"
)

// echo answers every request with its own text, in order, in a goroutine. ids returns the
// identifiers so far.
func echo(c *fakeConn) (ids func() []uint64) {
	seen := make(chan []uint64, 1)
	seen <- nil

	go func() {
		for a, ok := c.next(); ok; a, ok = c.next() {
			seen <- append(<-seen, a.id)
			c.reply(a.id, a.text)
		}
	}()

	return func() []uint64 {
		all := <-seen
		seen <- all

		return all
	}
}

func TestIdentifiersAreUsedInTurn(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		ids := echo(conns[0])
		c := w.client(request.WithIDs(2))

		for range 7 {
			requireReply(t, asking(t.Context(), c, "x"), "x")
		}

		require.Equal(t, []uint64{0, 1, 2, 0, 1, 2, 0}, ids())
	})
}

func TestIdentifiersRestForAsLongAsTheyCan(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client(request.WithIDs(3))
		var all []<-chan outcome

		for i := range 4 {
			all = append(all, asking(t.Context(), c, fmt.Sprint(i)))
			require.EqualValues(t, i, conns[0].take(fmt.Sprint(i)))
		}

		// They are used again in the order in which they became free.
		for i, id := range []uint64{2, 0, 3, 1} {
			conns[0].reply(id, "done")
			requireReply(t, all[id], "done")
			all[id] = asking(t.Context(), c, fmt.Sprint("again ", i))
			require.Equal(t, id, conns[0].take(fmt.Sprint("again ", i)))
		}

		for id, ch := range all {
			conns[0].reply(uint64(id), "done")
			requireReply(t, ch, "done")
		}
	})
}

func TestIdentifiersGivenBackKeepTheirOrderWhenThereAreMany(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client(request.WithIDs(99))
		flying := map[uint64]<-chan outcome{}
		start := func() uint64 {
			ch := asking(t.Context(), c, "x")
			id := conns[0].take("x")
			flying[id] = ch

			return id
		}
		land := func(id uint64) {
			conns[0].reply(id, "done")
			requireReply(t, flying[id], "done")
		}

		for range 100 {
			start()
		}

		for id := range uint64(64) {
			land(id)
		}

		for id := range uint64(10) {
			require.Equal(t, id, start())
		}

		for id := uint64(64); id < 80; id++ {
			land(id)
		}

		for id := uint64(10); id < 80; id++ {
			require.Equal(t, id, start())
		}

		for id := range uint64(100) {
			land(id)
		}
	})
}

func TestALateReplyGivesItsIdentifierToWhoWaits(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client(request.WithIDs(0))
		ctx, cancel := context.WithCancel(t.Context())
		given := asking(ctx, c, "given up")
		id := conns[0].take("given up")
		cancel()
		requireError(t, given, true, context.Canceled)
		next := asking(t.Context(), c, "next")
		requirePending(t, next)
		conns[0].reply(id, "late")
		conns[0].reply(conns[0].take("next"), "in time")
		requireReply(t, next, "in time")
	})
}

func TestALargerSpaceOfIdentifiersSkipsThoseInFlight(t *testing.T) {
	const last = 1 << 16 // one more than what is kept in order

	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client(request.WithIDs(last))
		var long []<-chan outcome

		for i := range 3 {
			long = append(long, asking(t.Context(), c, fmt.Sprint("long ", i)))
			require.EqualValues(t, i, conns[0].take(fmt.Sprint("long ", i)))
		}

		conns[0].reply(1, "done")
		requireReply(t, long[1], "done")

		ids := echo(conns[0])
		done := make(chan error)

		for range 64 {
			go func() {
				var err error
				for range (last + 3) / 64 {
					_, e := c.Do(t.Context(), "x")
					err = errors.Join(err, e)
				}
				done <- err
			}()
		}

		for range 64 {
			require.NoError(t, <-done)
		}

		seen := ids()
		at := len(seen) - ((last+3)/64*64 - (last - 2)) // of the first one after the wrap
		require.EqualValues(t, last, maximum(seen))
		require.ElementsMatch(t, []uint64{1, 3}, seen[at:at+2], "0 and 2 are in flight")

		conns[0].reply(0, "done")
		conns[0].reply(2, "done")
		requireReply(t, long[0], "done")
		requireReply(t, long[2], "done")
	})
}

func maximum(ids []uint64) (most uint64) {
	for _, id := range ids {
		most = max(most, id)
	}

	return most
}

func TestFewIdentifiersStayReservedUntilTheLateReply(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client(request.WithIDs(1))
		ctx, cancel := context.WithCancel(t.Context())
		given := asking(ctx, c, "given up")
		id := conns[0].take("given up")
		cancel()
		requireError(t, given, true, context.Canceled)
		require.Equal(t, 1, c.Stats().Abandoned)

		ids := echo(conns[0])
		for range 3 {
			requireReply(t, asking(t.Context(), c, "x"), "x")
		}
		require.Equal(t, []uint64{1 - id, 1 - id, 1 - id}, ids())

		conns[0].reply(id, "late")
		time.Sleep(time.Second)
		require.EqualValues(t, 1, c.Stats().Late)
		require.Zero(t, c.Stats().Abandoned)

		for range 2 {
			requireReply(t, asking(t.Context(), c, "x"), "x")
		}
		require.Contains(t, ids(), id)
	})
}

func TestManyIdentifiersAreNotReserved(t *testing.T) {
	for _, test := range []struct {
		max      uint64
		reserved int
	}{{1<<32 - 1, 1}, {1 << 32, 0}} {
		t.Run(fmt.Sprint(test.max), func(t *testing.T) {
			bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
				c := w.client(request.WithIDs(test.max))
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				requireError(t, asking(ctx, c, "given up"), true, context.DeadlineExceeded)
				require.Equal(t, test.reserved, c.Stats().Abandoned)
				conns[0].reply(conns[0].take("given up"), "late")
				time.Sleep(time.Second)
				require.EqualValues(t, 1, c.Stats().Late)
				require.Zero(t, c.Stats().Abandoned)
			})
		})
	}
}

func TestDoWaitsForAFreeIdentifierAndSaysWhoHasThem(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client(request.WithIDs(2))
		ctx, cancel := context.WithCancel(t.Context())
		var given []<-chan outcome
		for _, conn := range conns {
			given = append(given, asking(ctx, c, "given up"))
			synctest.Wait() // so that the writers go back in this order
			conn.take("given up")
		}
		cancel()
		for _, ch := range given {
			requireError(t, ch, true, context.Canceled)
		}
		flying := asking(t.Context(), c, "flying")
		id := conns[0].take("flying")

		patient := asking(t.Context(), c, "patient")
		requirePending(t, patient)
		ctx, cancel = context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		_, err := c.Do(ctx, "impatient")
		requireIs(t, err, false, context.DeadlineExceeded)
		require.EqualError(t, err, "request: not sent: no identifier free after 1m30s: context deadline exceeded "+
			"(in flight 1, given up with their replies still to come 2, waiting 1)")

		var wait *request.WaitError
		require.ErrorAs(t, err, &wait)
		require.Equal(t, &request.WaitError{
			Waited: 90 * time.Second, InFlight: 1, Abandoned: 2, IDs: 2, Waiting: 1, Err: context.DeadlineExceeded,
		}, wait)

		// When the connection of a request given up ends, its identifier becomes free.
		conns[1].fin()
		conns[0].reply(conns[0].take("patient"), "at last")
		requireReply(t, patient, "at last")
		conns[0].reply(id, "landed")
		requireReply(t, flying, "landed")
		require.Equal(t, 1, c.Stats().Abandoned)
	})
}

func TestTheBoundOnRequestsInFlightIsKeptAndServedInOrder(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client(request.WithInFlight(2))
		var all []<-chan outcome

		for i := range 6 {
			all = append(all, asking(t.Context(), c, fmt.Sprint(i)))
			synctest.Wait() // so that they come in this order
		}

		require.Equal(t, 2, c.Stats().InFlight)
		require.Equal(t, 4, c.Stats().Waiting)

		for i := range 6 {
			id := conns[0].take(fmt.Sprint(i))
			synctest.Wait()
			require.LessOrEqual(t, c.Stats().InFlight, 2)
			conns[0].reply(id, "reply")
			requireReply(t, all[i], "reply")
		}
	})
}

func TestAWaiterThatGivesUpTakesNoTurnWithIt(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client(request.WithInFlight(1))
		first := asking(t.Context(), c, "first")
		id := conns[0].take("first")
		ctx, cancel := context.WithCancel(t.Context())
		gone := asking(ctx, c, "gone")
		synctest.Wait()
		last := asking(t.Context(), c, "last")
		synctest.Wait()
		cancel()

		err := ended(t, gone).err
		requireIs(t, err, false, context.Canceled)
		require.ErrorContains(t, err, "request: not sent: no turn (at most 1 in flight) after 0s: context canceled "+
			"(in flight 1, given up with their replies still to come 0, waiting 1)")
		requirePending(t, last)
		conns[0].reply(id, "reply")
		requireReply(t, first, "reply")
		conns[0].reply(conns[0].take("last"), "reply")
		requireReply(t, last, "reply")
	})
}

func TestEveryWayARequestEndsGivesItsTurnToTheNext(t *testing.T) {
	errText := errors.New("not a text")

	for _, test := range []struct {
		name string
		end  func(c *fakeConn, cancel context.CancelFunc)
		text string
	}{
		{name: "its reply", text: "x", end: func(c *fakeConn, _ context.CancelFunc) { c.reply(c.take("x"), "y") }},
		{name: "its context", text: "x", end: func(_ *fakeConn, cancel context.CancelFunc) { cancel() }},
		{name: "its connection's end", text: "x", end: func(c *fakeConn, _ context.CancelFunc) { c.fin() }},
		{name: "nonsense over its connection", text: "x", end: func(c *fakeConn, _ context.CancelFunc) {
			c.send(frame('?', 0, ""))
		}},
		{name: "an encoding error", text: "bad", end: func(*fakeConn, context.CancelFunc) {}},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, 2, func(t *testing.T, w *world, conns []*fakeConn) {
				encode := make(chan struct{})
				c := w.speaking(wireProtocol{appending: func(text string) error {
					if text == "bad" {
						<-encode

						return errText
					}

					return nil
				}}, request.WithInFlight(1))
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				first := asking(ctx, c, test.text)
				synctest.Wait()
				next := asking(t.Context(), c, "next")
				requirePending(t, next)

				close(encode)
				test.end(conns[0], cancel)
				<-first
				time.Sleep(time.Minute)
				require.Equal(t, request.Stats{InFlight: 1}.InFlight, c.Stats().InFlight)
				require.Zero(t, c.Stats().Waiting)
				answer(conns, "next")
				requireReply(t, next, "reply")
			})
		})
	}
}

func TestIdentifiersAreFromTheirRange(t *testing.T) {
	const max64 = 1<<64 - 1
	for _, r := range [][2]uint64{{1, 3}, {7, 7}, {1000, 1002}, {1 << 40, 1<<40 + 2}, {max64 - 2, max64}} {
		for _, random := range []bool{false, true} {
			bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
				options := []request.Option{request.WithIDRange(r[0], r[1])}
				if random {
					options = append(options, request.WithRandomIDs())
				}
				ids := echo(conns[0])
				c := w.client(options...)
				var want []uint64
				n := r[1] - r[0] + 1
				for i := range uint64(100) {
					requireReply(t, asking(t.Context(), c, "x"), "x")
					want = append(want, r[0]+i%n)
				}
				if !random {
					require.Equal(t, want, ids())

					return
				}
				require.Subset(t, want, ids())
				require.Subset(t, ids(), want, "each is drawn now and then")
				if n > 1 {
					require.NotEqual(t, want, ids())
				}

				// What nobody can have asked.
				conns[0].reply(r[0]-1, "")
				synctest.Wait()
				require.EqualValues(t, 1, c.Stats().Unknown)
			})
		}
	}
}

// As many requests as there are identifiers are in flight, again and again.
func TestRandomIdentifiersAreNeverInUse(t *testing.T) {
	for _, r := range [][2]uint64{{0, 9}, {100, 200}, {5, 1<<16 + 4}, {5, 1<<16 + 5}, {1, 1<<32 + 1}, {0, 1<<64 - 1}} {
		t.Run(fmt.Sprint(r), func(t *testing.T) {
			bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
				c := w.client(request.WithRandomIDs(), request.WithIDRange(r[0], r[1]))
				flying := map[uint64]<-chan outcome{}
				n := int(min(r[1]-r[0], 299)) + 1
				drawn := map[uint64]int{}
				previous := uint64(0)
				follows := 0
				for range 3000 {
					if len(flying) == n {
						for id, ch := range flying { // any
							conns[0].reply(id, "done")
							requireReply(t, ch, "done")
							delete(flying, id)

							break
						}
					}
					ch := asking(t.Context(), c, "x")
					id := conns[0].take("x")
					require.NotContains(t, flying, id)
					require.GreaterOrEqual(t, id, r[0])
					require.LessOrEqual(t, id, r[1])
					flying[id] = ch
					drawn[id]++
					if id == previous+1 {
						follows++
					}
					previous = id
				}
				require.Less(t, follows, 1500, "they are in no order")
				require.Greater(t, len(drawn), min(n, 3000)-1)
				for id, ch := range flying {
					conns[0].reply(id, "done")
					requireReply(t, ch, "done")
				}
			})
		})
	}
}

func TestARandomIdentifierThatIsReservedIsNotDrawn(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client(request.WithRandomIDs(), request.WithIDs(4))
		ctx, cancel := context.WithCancel(t.Context())
		given := asking(ctx, c, "given up")
		id := conns[0].take("given up")
		cancel()
		requireError(t, given, true, context.Canceled)
		ids := echo(conns[0])
		for range 200 {
			requireReply(t, asking(t.Context(), c, "x"), "x")
		}
		require.NotContains(t, ids(), id)
		conns[0].reply(id, "late")
		synctest.Wait()
		for range 200 {
			requireReply(t, asking(t.Context(), c, "x"), "x")
		}
		require.Contains(t, ids(), id)
	})
}

// answer replies to a request on whichever connection got it, and drops the requests before it.
func answer(conns []*fakeConn, text string) {
	for _, c := range conns {
		for c.unread() > 0 {
			if a, ok := c.next(); ok && a.text == text {
				c.reply(a.id, "reply")
			}
		}
	}
}
