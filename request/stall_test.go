package request_test

// Connections that hang.

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
	"go.atomizer.io/plex/request"
)

// speaker is a client of either kind, and how its peers get requests and answer them.
type speaker struct {
	client func(w *world, options ...request.Option) *client
	take   func(c *fakeConn, text string) (reply func(text string))
}

func speakers() map[string]speaker {
	return map[string]speaker{
		"identifiers": {(*world).client, func(c *fakeConn, text string) func(string) {
			id := c.take(text)

			return func(text string) { c.reply(id, text) }
		}},
		"order": {(*world).ordered, func(c *fakeConn, text string) func(string) {
			if got := c.line(); got != text {
				panic("wanted " + text + ", got " + got)
			}

			return func(text string) { c.say(text) }
		}},
	}
}

// eachSpeaker runs f in a bubble for each kind of client.
func eachSpeaker(t *testing.T, n int, f func(t *testing.T, s speaker, w *world, conns []*fakeConn)) {
	for name, s := range speakers() {
		t.Run(name, func(t *testing.T) {
			bubble(t, n, func(t *testing.T, w *world, conns []*fakeConn) { f(t, s, w, conns) })
		})
	}
}

const stall = 8 * time.Second

// One of several connections hangs: it is lost, its requests fail and name it, and the others go on.
func TestAConnectionThatHangsIsLostAndNoOther(t *testing.T) {
	eachSpeaker(t, 3, func(t *testing.T, s speaker, w *world, conns []*fakeConn) {
		c := s.client(w, request.WithStallTimeout(stall))
		hung := asking(t.Context(), c, "hung")
		s.take(conns[0], "hung")
		slow := asking(t.Context(), c, "slow")
		reply := s.take(conns[1], "slow")
		time.Sleep(stall - time.Second)
		reply("in time")
		requireReply(t, slow, "in time")
		require.Zero(t, conns[0].Closes())
		start := time.Now()
		err := (<-hung).err
		requireIs(t, err, true, request.ErrStalled)
		requireConn(t, err, conns[0])
		require.ErrorContains(t, err, "nothing has come over it for 8s")
		require.LessOrEqual(t, time.Since(start), time.Second+stall/4)
		time.Sleep(time.Hour)
		require.Equal(t, 1, conns[0].Closes())
		require.Equal(t, 2, w.mux.Stats().Open)
		require.Zero(t, c.Stats().Malformed)
	})
}

func TestAConnectionThatHangsIsReplaced(t *testing.T) {
	healing(t, 1, func(*fakeConn) {}, func(t *testing.T, w *world) {
		c := w.client(request.WithStallTimeout(stall), request.WithInFlightPerConn(1))
		hung := asking(t.Context(), c, "hung")
		synctest.Wait()
		next := asking(t.Context(), c, "next")
		requireError(t, hung, true, request.ErrStalled)
		time.Sleep(time.Second)
		second := w.all()[1]
		second.reply(second.take("next"), "reply")
		requireReply(t, next, "reply")
	})
}

// Whatever comes shows that the connection is alive: a push, a reply to another, a part of a reply.
func TestAConnectionThatBringsSomethingIsNotStalled(t *testing.T) {
	for name, bring := range map[string]func(c *fakeConn, i int, long []byte){
		"pushes":            func(c *fakeConn, _ int, _ []byte) { c.send(frame(kindPush, 0, "")) },
		"unknown replies":   func(c *fakeConn, _ int, _ []byte) { c.reply(1<<40, "") },
		"a byte of a reply": func(c *fakeConn, i int, long []byte) { c.peer.Send(string(long[i : i+1])) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
				c := w.client(request.WithStallTimeout(stall))
				slow := asking(t.Context(), c, "slow")
				id := conns[0].take("slow")
				long := frame(kindReply, id, "a reply that is long enough for the test")
				for i := range 30 {
					time.Sleep(stall - 2)
					bring(conns[0], i, long)
				}
				requirePending(t, slow)
				requireError(t, slow, true, request.ErrStalled)
			})
		})
	}
}

// The time counts from the first request that is in flight, however long nothing has come before.
func TestAnIdleConnectionIsNotStalled(t *testing.T) {
	eachSpeaker(t, 1, func(t *testing.T, s speaker, w *world, conns []*fakeConn) {
		c := s.client(w, request.WithStallTimeout(stall))
		time.Sleep(time.Hour)
		for i := range time.Duration(40) {
			asked := asking(t.Context(), c, "x")
			reply := s.take(conns[0], "x")
			time.Sleep(stall - 1)
			reply("reply")
			requireReply(t, asked, "reply")
			time.Sleep(i * stall / 100)
		}
		time.Sleep(time.Hour)
		require.Zero(t, conns[0].Closes())
	})
}

// Requests may come without a pause, one after another, over a connection that brings nothing.
func TestRequestsThatGoOnDoNotHideAStall(t *testing.T) {
	eachSpeaker(t, 1, func(t *testing.T, s speaker, w *world, conns []*fakeConn) {
		c := s.client(w, request.WithStallTimeout(stall))
		for range 1000 { // the callers give up soon
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			_, err := c.Do(ctx, "x")
			cancel()
			if !w.open1() {
				requireIs(t, err, true, request.ErrStalled)
				require.Less(t, time.Since(began(t)), 2*stall)

				return
			}
			requireIs(t, err, true, context.DeadlineExceeded)
		}
		require.Fail(t, "the connection has not been found to hang")
	})
}

// open1 reports whether the only connection is open.
func (w *world) open1() bool { return w.mux.Stats().Open == 1 }

// began is when a bubble began.
func began(testing.TB) time.Time { return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) }

func TestAGivenUpRequestThatWasAnsweredInPartIsNoStall(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.with(partProtocol{}, request.WithStallTimeout(stall), request.WithIDs(1<<31-1))
		s := streaming(t.Context(), c, "x")
		conns[0].part(conns[0].take("x"), "1")
		synctest.Wait()
		close(s.next)
		<-s.done
		time.Sleep(time.Hour)
		require.Zero(t, conns[0].Closes())
	})
}

// What is in flight may change without anything coming, and without a moment in which nothing is.
func TestTheStallTimeCountsFromTheRequestThatWaits(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.with(partProtocol{}, request.WithStallTimeout(stall), request.WithIDs(1<<31-1))
		s := streaming(t.Context(), c, "x")
		conns[0].part(conns[0].take("x"), "1")
		synctest.Wait()
		time.Sleep(stall - time.Millisecond)
		close(s.next)
		<-s.done
		next := asking(t.Context(), c, "next")
		id := conns[0].take("next")
		time.Sleep(stall - time.Millisecond)
		conns[0].reply(id, "reply")
		requireReply(t, next, "reply")
	})
}

// Requests without a reply may be written all the time.
func TestAStreamOfQuietRequestsIsNoStall(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.ordered(request.WithStallTimeout(stall))
		conns[0].OnWrite(func(p []byte, do func([]byte) (int, error)) (int, error) {
			time.Sleep(700 * time.Millisecond)

			return do(p)
		})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := c.Do(ctx, "quiet") // which nothing shows to have arrived
		requireIs(t, err, true, context.DeadlineExceeded)
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				for range 60 {
					_, err := c.Do(t.Context(), "quiet")
					require.NoError(t, err)
				}
			})
		}
		all.Wait()
		require.Greater(t, time.Since(began(t)), 3*stall)
	})
}

func TestAWriteThatLastsIsNoStall(t *testing.T) {
	eachSpeaker(t, 1, func(t *testing.T, s speaker, w *world, conns []*fakeConn) {
		c := s.client(w, request.WithStallTimeout(stall), request.WithWriteTimeout(time.Hour))
		conns[0].allow(1)
		asked := asking(t.Context(), c, "x")
		time.Sleep(10 * stall)
		requirePending(t, asked)
		conns[0].allow(-1)
		reply := s.take(conns[0], "x")
		time.Sleep(stall - 1)
		reply("reply")
		requireReply(t, asked, "reply")
	})
}

func TestAQuietRequestExpectsNothing(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.ordered(request.WithStallTimeout(stall), request.WithWriteTimeout(time.Hour))
		conns[0].allow(1)
		quiet := asking(t.Context(), c, "quiet")
		time.Sleep(10 * stall)
		requirePending(t, quiet)
		conns[0].allow(-1)
		requireReply(t, quiet, "")
		time.Sleep(time.Hour)
		require.Zero(t, conns[0].Closes())
	})
}

// A session's connection is the business of its contexts.
func TestASessionIsNotStalled(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.ordered(request.WithStallTimeout(stall))
		s := opened(t, c)
		asked := asks(t.Context(), s, "a")
		conns[0].line()
		time.Sleep(time.Hour)
		conns[0].say("a")
		requireReply(t, asked, "a")
		require.NoError(t, s.Close())
	})
}

func TestDatagramsThatAreNotAnsweredAreAStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fakenet.NewDatagrams()
		m, err := plex.New(t.Context(), plex.WithConnections(d))
		require.NoError(t, err)
		defer m.Close()
		c, err := request.New(m, wireProtocol{}, request.WithStallTimeout(stall))
		require.NoError(t, err)
		defer c.Close()
		_, err = c.Do(t.Context(), "x")
		requireIs(t, err, true, request.ErrStalled)
	})
}

// A stall timeout needs no memory for a request, and no more of it for a connection that is lost.
func TestAConnectionThatHasEndedIsForgotten(t *testing.T) {
	healing(t, 1, func(*fakeConn) {}, func(t *testing.T, w *world) {
		c := w.client(request.WithStallTimeout(stall))
		for i := range 20 {
			time.Sleep(time.Minute)
			asked := asking(t.Context(), c, "x")
			synctest.Wait()
			conn := w.all()[i]
			conn.take("x")
			conn.reset()
			<-asked
			time.Sleep(time.Minute)
		}
	})
}
