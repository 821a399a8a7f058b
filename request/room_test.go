package request_test

// How many requests may be unanswered on one connection, and which connection an error names.

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
	"go.atomizer.io/plex/request"
)

// requireConn checks which connection an error names: the one of c, or none if c is nil.
func requireConn(t testing.TB, err error, c *fakeConn) {
	t.Helper()

	var e *request.Error
	require.ErrorAs(t, err, &e)
	if c == nil {
		require.Zero(t, e.Conn, "of: %v", err)

		return
	}

	require.NotZero(t, e.Conn, "of: %v", err)
	require.Equal(t, c.RemoteAddr(), e.Conn.RemoteAddr(), "of: %v", err)
}

func TestAnErrorNamesItsConnection(t *testing.T) {
	for name, fail := range map[string]func(w *world, c *client, conn *fakeConn, cancel context.CancelFunc){
		"its context":              func(_ *world, _ *client, _ *fakeConn, cancel context.CancelFunc) { cancel() },
		"a reset":                  func(_ *world, _ *client, conn *fakeConn, _ context.CancelFunc) { conn.reset() },
		"nonsense":                 func(_ *world, _ *client, conn *fakeConn, _ context.CancelFunc) { conn.send(frame('?', 0, "")) },
		"Close of the client":      func(_ *world, c *client, _ *fakeConn, _ context.CancelFunc) { _ = c.Close() },
		"Close of the multiplexer": func(w *world, _ *client, _ *fakeConn, _ context.CancelFunc) { _ = w.mux.Close() },
	} {
		for _, few := range []bool{false, true} {
			t.Run(fmt.Sprint(name, few), func(t *testing.T) {
				bubble(t, 2, func(t *testing.T, w *world, conns []*fakeConn) {
					var options []request.Option
					if few {
						options = append(options, request.WithIDs(100))
					}
					c := w.client(options...)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					whole := asking(ctx, c, "whole")
					conns[0].take("whole")
					conns[1].allow(3)
					part := asking(ctx, c, "part")
					synctest.Wait()

					fail(w, c, conns[1], cancel)
					requireConn(t, (<-part).err, conns[1])
					if name == "a reset" || name == "nonsense" {
						requirePending(t, whole)
						conns[0].fin()
					}
					requireConn(t, (<-whole).err, conns[0])
				})
			})
		}
	}
}

func TestAnErrorNamesNoConnectionThatItWasNotGivenTo(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client()
		release := held(conns[0])
		first := asking(t.Context(), c, "first")
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		waits := asking(ctx, c, "waits")
		synctest.Wait()
		cancel()
		err := (<-waits).err
		requireIs(t, err, false, context.Canceled)
		requireConn(t, err, nil)
		release()
		conns[0].reply(conns[0].take("first"), "first")
		requireReply(t, first, "first")

		// A call is used again: what one request has left does not show in the next one.
		conns[0].allow(0)
		unsent := asking(t.Context(), c, "unsent")
		synctest.Wait()
		conns[0].reset()
		err = (<-unsent).err
		require.ErrorContains(t, err, "not sent")
		requireConn(t, err, conns[0])
		_, err = c.Do(t.Context(), "nowhere")
		requireIs(t, err, false, plex.ErrNoConnections)
		requireConn(t, err, nil)
	})
}

func TestTheErrorsOfASessionNameItsConnection(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.ordered()
		s := opened(t, c)
		asked := asks(t.Context(), s, "a")
		conns[0].line()
		conns[0].reset()
		err := (<-asked).err
		requireConn(t, err, conns[0])
	})
}

func TestTheBoundForEachConnectionIsKeptAndAConnectionWithRoomIsChosen(t *testing.T) {
	for bound := 1; bound <= 4; bound++ {
		bubble(t, 2, func(t *testing.T, w *world, conns []*fakeConn) {
			c := w.client(request.WithInFlightPerConn(bound))
			release := held(conns[0])
			flying := map[string]<-chan outcome{}
			for i := range 10 {
				text := fmt.Sprint(i)
				flying[text] = asking(t.Context(), c, text)
				synctest.Wait()
			}
			release()
			synctest.Wait()
			require.Equal(t, 1, w.mux.Stats().Waiting, "for a connection, which is demand")

			inFlight := make([]int, 2)
			taken := make([][]asked, 2)
			look := func() {
				synctest.Wait()
				for i, conn := range conns {
					for conn.unread() > 0 {
						a, _ := conn.next()
						taken[i] = append(taken[i], a)
						inFlight[i]++
					}
					require.LessOrEqual(t, inFlight[i], bound)
				}
			}
			for answered := range 10 {
				look()
				if 10-answered >= 2*bound {
					require.Equal(t, []int{bound, bound}, inFlight, "there is room, and callers wait")
				}
				i := answered % 2
				if inFlight[i] == 0 {
					i = 1 - i
				}
				a := taken[i][0]
				taken[i] = taken[i][1:]
				inFlight[i]--
				conns[1-i].reply(a.id, a.text) // a reply may come over any connection
				requireReply(t, flying[a.text], a.text)
			}
		})
	}
}

func TestAFullConnectionIsNotWaitedForWhileAnotherHasRoom(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client(request.WithInFlightPerConn(1))
		for range 3 {
			asked := asking(t.Context(), c, "x")
			synctest.Wait()
			answer(conns, "x")
			requireReply(t, asked, "reply")
		}
		slow := asking(t.Context(), c, "slow")
		synctest.Wait()
		for range 20 {
			asked := asking(t.Context(), c, "quick")
			synctest.Wait()
			quick(conns)
			requireReply(t, asked, "reply")
		}
		answer(conns, "slow")
		requireReply(t, slow, "reply")
	})
}

// quick answers a request, which must be the last one on a connection.
func quick(conns []*fakeConn) {
	for _, c := range conns {
		for unread := c.peer.Unread(); len(unread) > 0; unread = c.peer.Unread() {
			if string(unread[len(unread)-5:]) != "quick" {
				break
			}
			if a, ok := c.next(); ok && a.text == "quick" {
				c.reply(a.id, "reply")
			}
		}
	}
}

func TestTheWaitForRoomEndsWithTheContextAndItsTimeout(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client(request.WithInFlightPerConn(1), request.WithAcquireTimeout(time.Minute))
		first := asking(t.Context(), c, "first")
		id := conns[0].take("first")
		ctx, cancel := context.WithCancel(t.Context())
		gone := asking(ctx, c, "gone")
		requirePending(t, gone)
		cancel()
		requireIs(t, ended(t, gone).err, false, context.Canceled)
		requireError(t, asking(t.Context(), c, "impatient"), false, plex.ErrTimeout)
		next := asking(t.Context(), c, "next")
		requirePending(t, next)
		conns[0].reply(id, "reply")
		requireReply(t, first, "reply")
		conns[0].reply(conns[0].take("next"), "reply")
		requireReply(t, next, "reply")
	})
}

// The server may still be at work on it.
func TestARequestThatIsGivenUpCountsForTheBoundUntilItsReply(t *testing.T) {
	for _, options := range [][]request.Option{nil, {request.WithIDs(9)}} {
		bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
			c := w.client(append(options, request.WithInFlightPerConn(1))...)
			ctx, cancel := context.WithCancel(t.Context())
			gone := asking(ctx, c, "gone")
			id := conns[0].take("gone")
			cancel()
			requireError(t, gone, true, context.Canceled)
			next := asking(t.Context(), c, "next")
			requirePending(t, next)
			require.Zero(t, conns[0].unread())
			conns[0].reply(id, "late")
			conns[0].reply(conns[0].take("next"), "reply")
			requireReply(t, next, "reply")
			require.EqualValues(t, 1, c.Stats().Late)
			require.Zero(t, c.Stats().Abandoned)
		})
	}
}

func TestOverDatagramsARequestThatIsGivenUpDoesNotCountForTheBound(t *testing.T) {
	for _, options := range [][]request.Option{nil, {request.WithIDs(99)}} {
		synctest.Test(t, func(t *testing.T) {
			d := fakenet.NewDatagrams()
			m, err := plex.New(t.Context(), plex.WithConnections(d))
			require.NoError(t, err)
			defer m.Close()
			c, err := request.New(m, wireProtocol{}, append(options, request.WithInFlightPerConn(2))...)
			require.NoError(t, err)
			defer c.Close()
			for range 10 {
				ctx, cancel := context.WithCancel(t.Context())
				gone, too := asking(ctx, c, "gone"), asking(ctx, c, "too")
				synctest.Wait()
				waits := asking(t.Context(), c, "waits")
				requirePending(t, waits)
				cancel()
				requireError(t, gone, true, context.Canceled)
				requireError(t, too, true, context.Canceled)
				synctest.Wait()
				sent := d.Packets()
				last := []byte(sent[len(sent)-1])
				require.Equal(t, "waits", string(last[11:]))
				reply := append([]byte{}, last...)
				reply[2] = kindReply
				d.Deliver(string(reply))
				requireReply(t, waits, "waits")
			}
		})
	}
}

// Requests, contexts that end, connections that fail and are replaced, with a bound that the server
// checks, as an identifier that is answered twice, or a request that waits for ever, would show.
func TestTheBoundHoldsWhateverHappens(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			bound := 1 + int(seed%5)
			var servers sync.WaitGroup
			var mu sync.Mutex
			set := rand.New(rand.NewPCG(seed, 1))
			serve := func(c *fakeConn) {
				mu.Lock()
				fate, after, random := set.IntN(4), time.Duration(set.IntN(20000))*time.Microsecond, rand.New(rand.NewPCG(seed, set.Uint64()))
				mu.Unlock()
				if fate == 0 {
					time.AfterFunc(after, c.reset)
				}
				servers.Go(func() {
					var busy sync.WaitGroup
					unanswered := 0
					var mine sync.Mutex
					for a, ok := c.next(); ok; a, ok = c.next() {
						mine.Lock()
						if unanswered++; unanswered > bound {
							panic(fmt.Sprint(unanswered, " unanswered, of ", bound))
						}
						takes := time.Duration(random.IntN(6000)) * time.Microsecond
						mine.Unlock()
						busy.Go(func() {
							time.Sleep(takes)
							mine.Lock()
							defer mine.Unlock()
							unanswered--
							c.reply(a.id, a.text)
						})
					}
					busy.Wait()
				})
			}
			healing(t, 3, serve, func(t *testing.T, w *world) {
				options := []request.Option{request.WithInFlightPerConn(bound)}
				if seed%2 == 0 {
					options = append(options, request.WithIDs(19))
				}
				c := w.client(options...)
				var wg sync.WaitGroup
				replies := make(chan bool, 600)
				for caller := range 12 {
					random := rand.New(rand.NewPCG(seed, uint64(100+caller)))
					wg.Go(func() {
						for i := range 40 {
							text := fmt.Sprint(caller, "-", i)
							ctx, cancel := context.WithTimeout(t.Context(), time.Duration(random.IntN(12000))*time.Microsecond)
							got, err := c.Do(ctx, text)
							cancel()
							if err == nil {
								require.Equal(t, text, string(got))
								replies <- true
							}
						}
					})
				}
				wg.Wait()
				require.Greater(t, len(replies), 20, "the test has tested something")
				last := asking(t.Context(), c, "last")
				requireReply(t, last, "last")
				time.Sleep(time.Second)
				require.Zero(t, c.Stats().Abandoned, "all late replies have come")
				require.Zero(t, c.Stats().Unknown)
				require.NoError(t, c.Close())
				require.NoError(t, w.mux.Close())
				servers.Wait()
			})
		})
	}
}
