package request_test

// Heartbeats.

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/request"
)

// pingProtocol and pingOrdered ping with the text "ping".
type pingProtocol struct {
	wireProtocol
	pinging func()
}

func (p pingProtocol) Ping() string {
	if p.pinging != nil {
		p.pinging()
	}

	return "ping"
}

type pingOrdered struct{ inOrder }

func (pingOrdered) Ping() string { return "ping" }

const (
	idle = 8 * time.Second
	pong = 4 * time.Second
)

// pingers are the kinds of clients with a heartbeat.
func pingers() map[string]speaker {
	both := speakers()
	ids, order := both["identifiers"], both["order"]
	ids.client = func(w *world, options ...request.Option) *client {
		return w.with(pingProtocol{}, append(options, request.WithHeartbeat(idle, pong))...)
	}
	order.client = func(w *world, options ...request.Option) *client {
		return w.ordering(pingOrdered{}, append(options, request.WithHeartbeat(idle, pong))...)
	}

	return map[string]speaker{"identifiers": ids, "order": order}
}

func eachPinger(t *testing.T, n int, f func(t *testing.T, s speaker, w *world, conns []*fakeConn)) {
	for name, s := range pingers() {
		t.Run(name, func(t *testing.T) {
			bubble(t, n, func(t *testing.T, w *world, conns []*fakeConn) { f(t, s, w, conns) })
		})
	}
}

// pinged waits until there is something to take, and checks that it is a ping, and how long it took.
func pinged(t *testing.T, s speaker, c *fakeConn, after time.Duration) (reply func(string)) {
	t.Helper()
	start := time.Now()
	for c.unread() == 0 {
		require.Less(t, time.Since(start), 3*after, "nothing has been written")
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
	}
	require.GreaterOrEqual(t, time.Since(start), after)
	require.LessOrEqual(t, time.Since(start), after+after/4+200*time.Millisecond)

	return s.take(c, "ping")
}

func TestAnIdleConnectionIsPingedAndKeptWhileItAnswers(t *testing.T) {
	eachPinger(t, 1, func(t *testing.T, s speaker, w *world, conns []*fakeConn) {
		c := s.client(w)
		for range 5 { // it has never been used
			reply := pinged(t, s, conns[0], idle)
			time.Sleep(pong - time.Second)
			reply("pong")
			synctest.Wait()
		}
		asked := asking(t.Context(), c, "x")
		s.take(conns[0], "x")("reply")
		requireReply(t, asked, "reply")
		pinged(t, s, conns[0], idle)("pong")
		synctest.Wait()
		st := c.Stats()
		require.Equal(t, []uint64{1, 1, 1, 6, 0, 0}, []uint64{st.Requests, st.Replies, st.Writes, st.Pings, st.Late, st.Unknown})
		require.Zero(t, st.InFlight+st.Abandoned)
		require.Zero(t, conns[0].Closes())
	})
}

func TestAConnectionThatDoesNotAnswerAPingIsLostAndNoOther(t *testing.T) {
	eachPinger(t, 2, func(t *testing.T, s speaker, w *world, conns []*fakeConn) {
		c := s.client(w)
		pinged(t, s, conns[0], idle)
		s.take(conns[1], "ping")("pong")
		time.Sleep(pong / 2)
		require.Zero(t, conns[0].Closes())
		time.Sleep(pong)
		synctest.Wait()
		require.Equal(t, 1, conns[0].Closes())
		require.Zero(t, conns[1].Closes())
		require.EqualValues(t, 1, w.mux.Stats().Open)
		require.Zero(t, c.Stats().Abandoned)
	})
}

// With identifiers a ping overtakes requests that are slow.
func TestRequestsOnAConnectionThatDoesNotAnswerAPingFail(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := pingers()["identifiers"].client(w)
		slow := asking(t.Context(), c, "slow")
		conns[0].take("slow")
		s := pingers()["identifiers"]
		pinged(t, s, conns[0], idle)("pong")
		synctest.Wait()
		pinged(t, s, conns[0], idle)
		err := (<-slow).err
		requireIs(t, err, true, request.ErrStalled)
		require.ErrorContains(t, err, "has not answered a ping within 4s")
		requireConn(t, err, conns[0])
	})
}

// In order, a ping would only be answered behind what is owed.
func TestAConnectionThatOwesOrderedRepliesIsNotPinged(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := pingers()["order"].client(w)
		ctx, cancel := context.WithCancel(t.Context())
		slow, gone := asking(t.Context(), c, "slow"), asking(ctx, c, "gone")
		synctest.Wait()
		first := conns[0].line()
		second := conns[0].line()
		cancel()
		<-gone
		time.Sleep(time.Hour)
		require.Zero(t, conns[0].unread())
		require.Zero(t, conns[0].Closes())
		conns[0].say(first, second)
		requireReply(t, slow, "slow")
		pinged(t, pingers()["order"], conns[0], idle)("pong")
	})
}

func TestAConnectionThatBringsSomethingIsNotPinged(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		s := pingers()["identifiers"]
		c := s.client(w)
		for range 100 {
			time.Sleep(idle - time.Second/2)
			conns[0].send(frame(kindPush, 0, ""))
		}
		require.Zero(t, c.Stats().Pings)

		// Whatever comes after a ping shows that the connection is alive.
		pinged(t, s, conns[0], idle)
		for range 100 {
			time.Sleep(pong - 1)
			conns[0].send(frame(kindPush, 0, ""))
			synctest.Wait()
			require.Zero(t, conns[0].Closes())
		}
	})
}

func TestAPeerThatDoesNotTakeAPingIsLost(t *testing.T) {
	eachPinger(t, 1, func(t *testing.T, s speaker, w *world, conns []*fakeConn) {
		s.client(w)
		conns[0].allow(3)
		time.Sleep(idle + pong + idle/2)
		synctest.Wait()
		require.Equal(t, 1, conns[0].Closes())
	})
}

func TestASessionIsNotPingedAndBeginsWithNoPingOwed(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		s := pingers()["order"]
		c := s.client(w)
		session := opened(t, c)
		time.Sleep(time.Hour)
		require.Zero(t, conns[0].unread())
		asked := asks(t.Context(), session, "a")
		conns[0].say(conns[0].line())
		requireReply(t, asked, "a")
		require.NoError(t, session.Close())

		reply := pinged(t, s, conns[0], idle)
		begun := make(chan struct{})
		go func() {
			session, err := c.Session(t.Context())
			require.NoError(t, err)
			close(begun)
			got, err := session.Do(t.Context(), "b")
			require.NoError(t, err)
			require.Equal(t, "b", string(got))
			require.NoError(t, session.Close())
		}()
		time.Sleep(time.Second)
		select {
		case <-begun:
			require.Fail(t, "a session has begun although the reply to a ping is owed")
		default:
		}
		reply("pong")
		conns[0].say(conns[0].line())
		<-begun
		synctest.Wait()
	})
}

// Requests that come while the reply to a ping is owed go behind it.
func TestRequestsBehindAPing(t *testing.T) {
	eachPinger(t, 1, func(t *testing.T, s speaker, w *world, conns []*fakeConn) {
		c := s.client(w)
		reply := pinged(t, s, conns[0], idle)
		asked := asking(t.Context(), c, "x")
		answer := s.take(conns[0], "x")
		requirePending(t, asked)
		reply("pong")
		requirePending(t, asked)
		answer("reply")
		requireReply(t, asked, "reply")
	})
}

func TestAConnectionWithoutRoomIsNotPinged(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := pingers()["identifiers"].client(w, request.WithInFlightPerConn(1))
		slow := asking(t.Context(), c, "slow")
		id := conns[0].take("slow")
		time.Sleep(time.Hour)
		require.Zero(t, conns[0].unread())
		conns[0].reply(id, "reply")
		requireReply(t, slow, "reply")
		reply := pinged(t, pingers()["identifiers"], conns[0], idle)
		next := asking(t.Context(), c, "next")
		requirePending(t, next)
		require.Zero(t, conns[0].unread(), "a ping counts")
		reply("pong")
		conns[0].reply(conns[0].take("next"), "reply")
		requireReply(t, next, "reply")
	})
}

// All identifiers may be in use.
func TestAPingNeedsAnIdentifier(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world, conns []*fakeConn) {
		c := pingers()["identifiers"].client(w, request.WithIDRange(7, 7))
		slow := asking(t.Context(), c, "slow")
		synctest.Wait()
		time.Sleep(time.Hour)
		require.Zero(t, c.Stats().Pings)
		answer(conns, "slow")
		requireReply(t, slow, "reply")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.EqualValues(t, 1, c.Stats().Pings, "one connection at a time")
	})
}

// Pings are no demand, and keep no connection.
func TestAPoolWithAHeartbeatScalesDown(t *testing.T) {
	for name, s := range pingers() {
		t.Run(name, func(t *testing.T) {
			ponging := func(c *fakeConn) {
				go func() {
					for b := c.peer.ReadN(1); b != ""; b = c.peer.ReadN(1) {
						if name == "order" && b == "\n" {
							c.say("pong")
						} else if b == "p" { // the first byte of "ping"
							c.send(frame(kindPush, 0, ""))
						}
					}
				}()
			}
			healing(t, 1, ponging, func(t *testing.T, w *world) {
				c := s.client(w)
				synctest.Wait()
				require.Len(t, w.all(), 1)
				time.Sleep(10*time.Minute + time.Second)
				require.Greater(t, len(w.all()), 5, "each was replaced when its life was over")
				require.EqualValues(t, 1, w.mux.Stats().Open)
				require.Zero(t, w.mux.Stats().Lost)
				require.Greater(t, c.Stats().Pings, uint64(5))
				require.NoError(t, c.Close())
			}, plex.WithMaxLifetime(time.Minute))
			healing(t, 1, ponging, func(t *testing.T, w *world) {
				c := s.client(w)
				var leases []plex.Writer
				for range 3 {
					l, err := w.mux.Writer(t.Context(), 0)
					require.NoError(t, err)
					leases = append(leases, l)
				}
				for _, l := range leases {
					require.NoError(t, l.Close())
				}
				require.Equal(t, 3, w.mux.Stats().Open)
				time.Sleep(10 * time.Minute)
				require.Equal(t, 1, w.mux.Stats().Open)
				require.Zero(t, w.mux.Stats().Lost)
				require.NoError(t, c.Close())
			}, plex.WithMaxCapacity(3), plex.WithAutoScaling(time.Second), plex.WithIdleTimeout(time.Minute))
		})
	}
}

func TestClosingTheMultiplexerEndsTheHeartbeat(t *testing.T) {
	eachPinger(t, 2, func(t *testing.T, s speaker, w *world, conns []*fakeConn) {
		s.client(w)
		pinged(t, s, conns[0], idle)
		start := time.Now()
		require.NoError(t, w.mux.Close())
		require.Zero(t, time.Since(start))
	})
}

func TestAPingThatCannotBeMadeCostsNothing(t *testing.T) {
	for name, fault := range map[string]func(){
		"panic": func() { panic(errors.New("ping")) }, "runtime.Goexit": runtime.Goexit,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
				n := 0
				c := w.with(pingProtocol{pinging: func() {
					if n++; n < 5 {
						fault()
					}
				}}, request.WithHeartbeat(idle, pong))
				for range 2000 {
					time.Sleep(time.Second)
					if conns[0].unread() > 0 {
						break
					}
				}
				conns[0].reply(conns[0].take("ping"), "pong")
				synctest.Wait()
				require.Zero(t, conns[0].Closes())
				require.EqualValues(t, 1, c.Stats().Pings)
				require.Zero(t, c.Stats().Abandoned)
				require.Equal(t, name == "panic", c.Stats().Panicked == 4)
			})
		})
	}
}

func TestAHeartbeatNeedsAPingAndTimes(t *testing.T) {
	m, err := plex.New(t.Context(), plex.WithMaxCapacity(1))
	require.NoError(t, err)
	defer m.Close()
	_, err = request.New(m, wireProtocol{}, request.WithHeartbeat(idle, pong))
	require.EqualError(t, err, "request: New: WithHeartbeat: the protocol has no method Ping that returns a request; add one, or leave the option out")
	_, err = request.NewOrdered(m, inOrder{}, request.WithHeartbeat(idle, pong))
	require.EqualError(t, err, "request: NewOrdered: WithHeartbeat: the protocol has no method Ping that returns a request; add one, or leave the option out")
	for _, times := range [][2]time.Duration{{0, pong}, {idle, -1}} {
		_, err = request.New(m, pingProtocol{}, request.WithHeartbeat(times[0], times[1]))
		require.EqualError(t, err, fmt.Sprintf("request: WithHeartbeat: the times are %v and %v; both must be above zero", times[0], times[1]))
	}
}
