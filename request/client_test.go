package request_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"runtime"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/request"
)

func TestRepliesFindTheirRequestsInAnyOrderAndOverAnyConnection(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client()
		ctx := t.Context()

		first := asking(ctx, c, "first")
		a := conns[0].take("first")
		second := asking(ctx, c, "second")
		b := conns[1].take("second")

		conns[0].reply(b, "two")
		requireReply(t, second, "two")
		requirePending(t, first)
		conns[1].reply(a, "one")
		requireReply(t, first, "one")
	})
}

func TestAReplyThatOvertakesTheWriteIsFound(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		returning := make(chan struct{})
		conns[0].afterWrites(func() { <-returning })
		c := w.client()

		asked := asking(t.Context(), c, "quick")
		conns[0].reply(conns[0].take("quick"), "quicker")
		time.Sleep(time.Second)
		require.EqualValues(t, 1, c.Stats().Replies, "the reply has been handed over")
		requirePending(t, asked)
		close(returning)
		requireReply(t, asked, "quicker")
	})
}

func TestRepliesThatArrivedBeforeTheEndAreDelivered(t *testing.T) {
	for name, end := range map[string]func(*fakeConn){"fin": (*fakeConn).fin, "reset": (*fakeConn).reset} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
				c := w.client()
				a, b := asking(t.Context(), c, "a"), asking(t.Context(), c, "b")
				x, _ := conns[0].next()
				y, _ := conns[0].next()

				conns[0].send(frame(kindReply, x.id, x.text), frame(kindReply, y.id, y.text))
				end(conns[0])
				requireReply(t, a, "a")
				requireReply(t, b, "b")
			})
		})
	}
}

func TestALostConnectionFailsItsRequestsAtOnceAndNoOthers(t *testing.T) {
	for _, test := range []struct {
		name  string
		end   func(*fakeConn)
		cause error
	}{
		{"fin", (*fakeConn).fin, io.EOF},
		{"reset", (*fakeConn).reset, syscall.ECONNRESET},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, 2, func(t *testing.T, w *world, conns []*fakeConn) {
				c := w.client()
				lost := asking(t.Context(), c, "lost")
				conns[0].take("lost")
				kept := asking(t.Context(), c, "kept")
				id := conns[1].take("kept")

				start := time.Now()
				test.end(conns[0])
				requireError(t, lost, true, test.cause)
				require.Less(t, time.Since(start), time.Second, "an idle connection is looked at now and then")
				requirePending(t, kept)
				conns[1].reply(id, "reply")
				requireReply(t, kept, "reply")
				require.EqualValues(t, 1, c.Stats().Failed)
			})
		})
	}
}

func TestACutOffReplyIsReportedAsTheLossOfItsConnection(t *testing.T) {
	for _, test := range []struct {
		name  string
		end   func(*fakeConn)
		cause error
	}{
		{"fin", (*fakeConn).fin, io.EOF},
		{"reset", (*fakeConn).reset, syscall.ECONNRESET},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
				c := w.client()
				asked := asking(t.Context(), c, "request")
				conns[0].send(frame(kindReply, conns[0].take("request"), "reply")[:10])
				time.Sleep(time.Second)
				test.end(conns[0])
				requireError(t, asked, true, test.cause)
				require.Zero(t, c.Stats().Malformed)
			})
		})
	}
}

func TestAConnectionLostWhileARequestIsWritten(t *testing.T) {
	for _, test := range []struct {
		name      string
		room      int
		maybeSent bool
	}{
		{"nothing of it was written", 0, false},
		{"a part of it was written", 5, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
				conns[0].allow(test.room)
				c := w.client(request.WithIDs(100))
				asked := asking(t.Context(), c, "request")
				requirePending(t, asked)

				conns[0].reset()
				requireError(t, asked, test.maybeSent, syscall.ECONNRESET)
				time.Sleep(time.Second)
				require.Zero(t, c.Stats().Abandoned, "the identifier is free again")
			})
		})
	}
}

func TestAFinEndsTheWriteToAPeerThatDoesNotRead(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		conns[0].allow(5)
		c := w.client()
		asked := asking(context.Background(), c, "request")
		requirePending(t, asked)

		conns[0].fin()
		requireError(t, asked, true, io.EOF)
	})
}

func TestTheContextEndsEachStageOfARequest(t *testing.T) {
	errWhy := errors.New("no interest any more")

	for _, test := range []struct {
		name      string
		room      int // bytes that the peer accepts
		maybeSent bool
		before    func(t *testing.T, w *world)
	}{
		{name: "waiting for the reply", room: -1, maybeSent: true},
		{name: "in a Write of which nothing was written", room: 0, maybeSent: true},
		{name: "in a Write that was begun", room: 5, maybeSent: true},
		{name: "waiting for a connection", room: -1, before: func(t *testing.T, w *world) {
			lease, err := w.mux.Writer(context.Background(), 0)
			require.NoError(t, err)
			w.Cleanup(func() { _ = lease.Close() })
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
				conns[0].allow(test.room)
				c := w.client(request.WithIDs(9))

				if test.before != nil {
					test.before(t, w)
				}

				ctx, cancel := context.WithCancelCause(t.Context())
				asked := asking(ctx, c, "request")
				time.Sleep(time.Second)
				requirePending(t, asked)
				cancel(errWhy)

				err := ended(t, asked).err
				requireIs(t, err, test.maybeSent, context.Canceled)
				require.ErrorIs(t, err, errWhy)
				require.EqualValues(t, 1, c.Stats().Canceled)
				time.Sleep(time.Second)
				require.Equal(t, 1, w.mux.Stats().Open, "it costs no connection")
				require.Equal(t, test.maybeSent, c.Stats().Abandoned == 1, "a reply can still come")
			})
		})
	}
}

func TestWithAnEndedContextNothingIsSent(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()

		_, err := c.Do(ctx, "request")
		requireIs(t, err, false, context.Canceled)
		var none context.Context
		_, err = c.Do(none, "request")
		require.ErrorContains(t, err, "nil context")
		require.Zero(t, conns[0].unread())
		require.Equal(t, request.Stats{Requests: 1, Canceled: 1}, c.Stats())
	})
}

func TestAReplyIsParsedWhileItsRequestIsGivenUp(t *testing.T) {
	for _, ids := range []uint64{100, 1 << 40} {
		t.Run(fmt.Sprintf("%d identifiers", ids), func(t *testing.T) {
			bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
				parsing, parse := make(chan struct{}), make(chan struct{})
				c := w.speaking(wireProtocol{parsing: func([]byte) error {
					close(parsing)
					<-parse

					return nil
				}}, request.WithIDs(ids))

				ctx, cancel := context.WithCancel(t.Context())
				asked := asking(ctx, c, "request")
				conns[0].reply(conns[0].take("request"), "late")
				<-parsing
				cancel()
				requireIs(t, ended(t, asked).err, true, context.Canceled)
				close(parse)
				synctest.Wait()

				s := c.Stats()
				require.EqualValues(t, 1, s.Late)
				require.Zero(t, s.Replies+s.Unknown)
				require.Zero(t, s.Abandoned)
			})
		})
	}
}

func TestRepliesToNobodyAreCountedAndDropped(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		appending, resume := make(chan struct{}), make(chan struct{})
		c := w.speaking(wireProtocol{appending: func(text string) error {
			if text == "slow" {
				close(appending)
				<-resume
			}

			return nil
		}}, request.WithIDs(1<<40))
		asked := asking(t.Context(), c, "request")
		id := conns[0].take("request")
		conns[0].reply(id, "reply")
		requireReply(t, asked, "reply")
		conns[0].reply(id, "again")
		conns[0].reply(id+1000, "never asked")
		time.Sleep(time.Second)
		require.EqualValues(t, 1, c.Stats().Late, "a second reply")
		require.EqualValues(t, 1, c.Stats().Unknown)

		// The identifier is taken, but its request has not been sent.
		slow := asking(t.Context(), c, "slow")
		<-appending
		conns[0].reply(id+1, "too early")
		time.Sleep(time.Second)
		require.EqualValues(t, 2, c.Stats().Unknown)
		close(resume)
		conns[0].reply(conns[0].take("slow"), "in time")
		requireReply(t, slow, "in time")
	})
}

func TestWhatCannotBeEncodedIsNotSent(t *testing.T) {
	errText := errors.New("not a text")

	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.speaking(wireProtocol{appending: func(text string) error {
			switch text {
			case "error":
				return errText
			case "panic":
				panic(errText)
			case "exit":
				runtime.Goexit()
			}

			return nil
		}}, request.WithIDs(0))

		_, err := c.Do(t.Context(), "error")
		requireIs(t, err, false, errText)
		require.PanicsWithError(t, errText.Error(), func() { _, _ = c.Do(t.Context(), "panic") })

		exited := make(chan struct{})
		go func() {
			defer close(exited)
			_, _ = c.Do(t.Context(), "exit")
		}()
		<-exited

		// The only identifier is free again.
		asked := asking(t.Context(), c, "text")
		conns[0].reply(conns[0].take("text"), "reply")
		requireReply(t, asked, "reply")
		require.EqualValues(t, 3, c.Stats().Failed)
		require.EqualValues(t, 1, c.Stats().Sent)
	})
}

// badError is an error that panics when errors.Is looks into it.
type badError struct{}

func (badError) Error() string   { return "bad" }
func (badError) Is(_ error) bool { panic("Is") }

func TestAnErrorThatCannotBeLookedIntoCostsItsCallAlone(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.speaking(wireProtocol{appending: func(text string) error {
			if text == "bad" {
				return badError{}
			}
			return nil
		}}, request.WithIDs(0))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		_, err := c.Do(ctx, "bad")
		var e *request.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, badError{}, e.Err)

		asked := asking(t.Context(), c, "text")
		conns[0].reply(conns[0].take("text"), "reply")
		requireReply(t, asked, "reply")
	})
}

// mute appends nothing.
type mute struct{ wireProtocol }

func (mute) Append(dst []byte, _ uint64, _ string) ([]byte, error) { return dst, nil }

func TestAnEmptyFrameIsRefused(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, _ []*fakeConn) {
		c, err := request.New(w.mux, mute{})
		require.NoError(t, err)
		_, err = c.Do(t.Context(), "text")
		require.ErrorContains(t, err, "Append appended nothing")
		require.NoError(t, c.Close())
	})
}

// selfish returns memory of its own for every other request, instead of appending.
type selfish struct {
	wireProtocol
	frames [][]byte // by identifier
}

func (p selfish) Append(dst []byte, id uint64, text string) ([]byte, error) {
	if id%2 == 0 {
		return p.frames[id], nil
	}
	return p.wireProtocol.Append(dst, id, text)
}

func TestMemoryThatAppendReturnsIsNotWrittenTo(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		p := selfish{}
		for id := range uint64(4) {
			p.frames = append(p.frames, frame(kindRequest, id, fmt.Sprint("request ", id)))
		}
		c, err := request.New(w.mux, p)
		require.NoError(t, err)
		for id := range uint64(4) {
			asked := asking(t.Context(), c, fmt.Sprint("request ", id))
			conns[0].reply(conns[0].take(fmt.Sprint("request ", id)), "reply")
			requireReply(t, asked, "reply")
		}
		require.NoError(t, c.Close())
		for id := range uint64(4) {
			require.Equal(t, frame(kindRequest, id, fmt.Sprint("request ", id)), p.frames[id])
		}
	})
}

func TestATransportThatPanicsLeavesNothingBehind(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		conns[0].afterWrites(func() { panic("transport") })
		c := w.client(request.WithIDs(0))
		_, err := c.Do(t.Context(), "text")
		require.ErrorContains(t, err, "panicked: transport")
		var e *request.Error
		require.ErrorAs(t, err, &e)
		require.True(t, e.MaybeSent, "nobody knows how much was written")
		time.Sleep(time.Second)

		s := c.Stats()
		require.Zero(t, s.InFlight+s.Abandoned)
		require.Zero(t, w.mux.Stats().Open, "nobody knows how much was written, so nothing more is")
	})
}

// panicking is a transport whose Write panics when it is interrupted, and whose Close takes long.
type panicking struct {
	*fakeConn
	closing, closed chan struct{}
}

func (c panicking) Write(p []byte) (int, error) {
	_, _ = c.fakeConn.Write(p)
	<-c.closing
	panic("transport")
}

func (c panicking) Close() error {
	close(c.closing)
	<-c.closed
	return c.fakeConn.Close()
}

// The request's context ends. Then nonsense arrives, and the kill makes the transport's Write
// panic.
func TestAnInterruptedWriteThatPanicsIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t}
		f := w.conn()
		f.allow(5)
		conn := panicking{f, make(chan struct{}), make(chan struct{})}
		w.open(plex.WithConnections(conn))
		c := w.client()
		ctx, cancel := context.WithCancel(t.Context())
		asked := make(chan error, 1)
		go func() {
			_, err := c.Do(ctx, "request")
			asked <- err
		}()
		time.Sleep(10 * time.Millisecond)
		cancel()
		time.Sleep(10 * time.Millisecond) // the Write is interrupted, but does not return
		f.send(frame('?', 0, "nonsense"))
		time.Sleep(100 * time.Millisecond)
		close(conn.closed)
		time.Sleep(time.Minute)
		select {
		case err := <-asked:
			require.Error(t, err)
		default:
			require.Fail(t, "Do has not ended")
		}
	})
}

func TestWithoutAConnectionARequestFailsAndSaysSo(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, _ []*fakeConn) {
		c := w.client(request.WithAcquireTimeout(time.Second))
		lease, err := w.mux.Writer(t.Context(), 0)
		require.NoError(t, err)

		start := time.Now()
		_, err = c.Do(t.Context(), "request")
		requireIs(t, err, false, plex.ErrTimeout)
		require.Equal(t, time.Second, time.Since(start))

		var acquire *plex.AcquireError
		require.ErrorAs(t, err, &acquire)
		require.EqualValues(t, 1, c.Stats().Failed)
		require.NoError(t, lease.Close())
	})
}

func TestCloseFailsRequestsAtEachStage(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client(request.WithInFlight(4))
		sent := asking(context.Background(), c, "sent")
		conns[0].take("sent")

		conns[1].allow(5)
		writing := asking(t.Context(), c, "writing")
		synctest.Wait()
		lease, err := w.mux.Writer(t.Context(), 0) // the last writer
		require.NoError(t, err)

		acquiring := asking(context.Background(), c, "acquiring")
		acquiringToo := asking(t.Context(), c, "acquiring, too")
		synctest.Wait()
		waiting := asking(t.Context(), c, "waiting")
		requirePending(t, waiting)
		require.Equal(t, request.Stats{Requests: 5, Waiting: 1, InFlight: 4, Sent: 2, Writes: 1}, c.Stats())

		start := time.Now()
		require.NoError(t, c.Close())
		requireError(t, sent, true, request.ErrClosed)
		requireError(t, writing, true, request.ErrClosed)
		requireError(t, acquiring, false, request.ErrClosed)
		requireError(t, acquiringToo, false, request.ErrClosed)
		requireError(t, waiting, false, net.ErrClosed)
		require.Zero(t, time.Since(start))

		_, err = c.Do(t.Context(), "later")
		requireIs(t, err, false, request.ErrClosed)
		require.NoError(t, c.Close())
		require.NoError(t, lease.Close())
		synctest.Wait()
		require.Zero(t, w.mux.Stats().Open, "one is torn, and over the other a reply can still come")
	})
}

// Closing a connection interrupts its writer, and each close takes a second.
func TestClosingTheClientInterruptsWritersAtTheSameTime(t *testing.T) {
	bubble(t, 10, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client()
		var all []<-chan outcome
		for _, conn := range conns {
			conn.Hooks.Close = func() { time.Sleep(time.Second) }
			conn.allow(5)
			all = append(all, asking(t.Context(), c, "request"))
			time.Sleep(2 * time.Millisecond)
		}

		start := time.Now()
		require.NoError(t, c.Close())
		for _, asked := range all {
			requireError(t, asked, true, request.ErrClosed)
		}
		require.Zero(t, time.Since(start), "and waits for no transport's Close")
	})
}

// Two clients use the same identifiers.
func TestANewClientDoesNotGetRepliesForTheLastOne(t *testing.T) {
	for _, test := range []struct {
		name    string
		ids     uint64
		givenUp bool
	}{
		{"in flight", math.MaxUint64, false},
		{"given up, among few identifiers", 100, true},
		{"given up and forgotten", math.MaxUint64, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, 2, func(t *testing.T, w *world, conns []*fakeConn) {
				last, err := request.New(w.mux, wireProtocol{}, request.WithIDs(test.ids))
				require.NoError(t, err)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				first := asking(ctx, last, "first")
				old := conns[0].take("first")
				done := asking(ctx, last, "done")
				conns[1].reply(conns[1].take("done"), "reply")
				requireReply(t, done, "reply")
				if test.givenUp {
					cancel()
					requireError(t, first, true, context.Canceled)
				}
				require.NoError(t, last.Close())

				conns[0].reply(old, "late")
				asked := asking(t.Context(), w.client(request.WithIDs(test.ids)), "next")
				require.Equal(t, old, conns[1].take("next"))
				time.Sleep(time.Second)
				conns[1].reply(old, "reply")
				requireReply(t, asked, "reply")
				require.Equal(t, 1, conns[0].Closes())
				require.Zero(t, conns[1].Closes(), "nothing could come over it any more")
			})
		})
	}
}

func TestClosingTheMultiplexerEndsTheClient(t *testing.T) {
	for name, end := range map[string]func(*plex.Multiplexer) error{
		"Close":    (*plex.Multiplexer).Close,
		"Shutdown": func(m *plex.Multiplexer) error { return m.Shutdown(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
				c := w.client(request.WithInFlight(1))
				sent := asking(context.Background(), c, "sent")
				conns[0].take("sent")
				waiting := asking(context.Background(), c, "waiting")
				requirePending(t, waiting)

				require.NoError(t, end(w.mux))
				requireError(t, sent, true, plex.ErrClosed)
				requireError(t, waiting, false, plex.ErrClosed)

				_, err := c.Do(t.Context(), "later")
				requireIs(t, err, false, plex.ErrClosed)
				require.Zero(t, w.mux.Stats().Killed, "connections end with it, at their own pace")
			})
		})
	}
}

func TestRequestsGoOnOverReplacedConnections(t *testing.T) {
	served := func(c *fakeConn) {
		go func() {
			for a, ok := c.next(); ok; a, ok = c.next() {
				c.reply(a.id, a.text)
				if a.text == "last" {
					c.fin()
				}
			}
		}()
	}

	healing(t, 2, served, func(t *testing.T, w *world) {
		c := w.client()

		for range 20 {
			requireReply(t, asking(t.Context(), c, "any"), "any")
			requireReply(t, asking(t.Context(), c, "last"), "last")
			time.Sleep(time.Minute)
		}

		require.Greater(t, len(w.all()), 2)
	})
}

func TestConnectionsAddedAfterTheLastWasLostAreRead(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client()
		conns[0].reset()
		time.Sleep(time.Minute + 300*time.Millisecond) // between two looks
		_, err := c.Do(t.Context(), "nobody there")
		requireIs(t, err, false, plex.ErrNoConnections)

		added := w.conn()
		rest, err := w.mux.Add(t.Context(), added)
		require.NoError(t, err)
		require.Empty(t, rest)
		start := time.Now()
		asked := asking(t.Context(), c, "request")
		added.send(frame(kindPush, 0, ""), frame(kindReply, added.take("request"), "reply"))
		requireReply(t, asked, "reply")
		require.Less(t, time.Since(start), 300*time.Millisecond, "the request itself tells of the connection")
		require.EqualValues(t, 1, c.Stats().Unsolicited)

		// A connection is read even if no request uses it.
		added.reset()
		time.Sleep(time.Minute)
		pushing := w.conn()
		_, err = w.mux.Add(t.Context(), pushing)
		require.NoError(t, err)
		pushing.send(frame(kindPush, 0, ""))
		time.Sleep(2 * time.Second)
		require.EqualValues(t, 2, c.Stats().Unsolicited)
	})
}
