package request_test

// Connections that are out of step, messages that are no replies, and what keeps a connection from
// being retired.

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/message"
	"go.atomizer.io/plex/request"
)

func TestNonsenseKillsItsConnectionAndFailsItsRequests(t *testing.T) {
	errParse := errors.New("parse")
	broken := func(data []byte) error {
		switch {
		case strings.Contains(string(data), "error"):
			return errParse
		case strings.Contains(string(data), "panic"):
			panic(errParse)
		}

		return nil
	}

	var tooLong *message.TooLongError

	for _, test := range []struct {
		name     string
		protocol wireProtocol
		message  string
		check    func(t *testing.T, err error)
	}{
		{"a Parse error", wireProtocol{parsing: broken}, "error", nil},
		{"a Parse panic", wireProtocol{parsing: broken}, "panic", nil},
		{
			"a Parse error that panics when it is looked into",
			wireProtocol{parsing: func(data []byte) error {
				if strings.Contains(string(data), "error") {
					return badError{}
				}
				return nil
			}},
			"error",
			func(t *testing.T, err error) { require.ErrorContains(t, err, "Parse panicked: Is") },
		},
		{"a Split error", wireProtocol{splitting: broken}, "error", nil},
		{"a Split panic", wireProtocol{splitting: broken}, "panic", func(t *testing.T, err error) {
			require.ErrorContains(t, err, "panicked: parse")
		}},
		{"a long message", wireProtocol{}, strings.Repeat("long", 100), func(t *testing.T, err error) {
			require.ErrorAs(t, err, &tooLong)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, 2, func(t *testing.T, w *world, conns []*fakeConn) {
				c := w.speaking(test.protocol, request.WithMaxSize(100))
				lost := asking(t.Context(), c, "lost")
				conns[0].take("lost")
				kept := asking(t.Context(), c, "kept")
				id := conns[1].take("kept")

				conns[0].send(frame(kindReply, 1000, test.message))
				err := (<-lost).err
				var e *request.Error
				require.ErrorAs(t, err, &e)
				require.True(t, e.MaybeSent)
				require.ErrorContains(t, err, conns[0].RemoteAddr().String())

				if test.check != nil {
					test.check(t, err)
				} else {
					require.ErrorIs(t, err, errParse)
				}

				if test.name == "a Parse panic" {
					var p *request.PanicError
					require.ErrorAs(t, err, &p)
					require.Equal(t, "Parse", p.Call)
					require.Contains(t, string(p.Stack), "step_test.go")
				}

				time.Sleep(time.Second)
				require.Equal(t, 1, conns[0].Closes(), "the connection is killed")
				require.EqualValues(t, 1, c.Stats().Malformed)
				requirePending(t, kept)
				conns[1].reply(id, "reply")
				requireReply(t, kept, "reply")
			})
		})
	}
}

// The kill and the report of its reason race. With the race detector the kill is first now and
// then.
func TestRequestsFailWithTheReasonOfAKillNotTheKill(t *testing.T) {
	errSplit := errors.New("split")

	for range 50 {
		bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
			c := w.speaking(wireProtocol{splitting: func(data []byte) error {
				if len(data) > 0 {
					return errSplit
				}

				return nil
			}})
			asked := asking(t.Context(), c, "asked")
			conns[0].reply(conns[0].take("asked"), "reply")
			requireError(t, asked, true, errSplit)
		})
	}
}

// The kill reaches the Write before the reason is known.
func TestARequestThatIsBeingWrittenFailsWithTheReasonOfTheKill(t *testing.T) {
	errSplit := errors.New("split")

	for range 50 {
		bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
			c := w.speaking(wireProtocol{splitting: func([]byte) error { return errSplit }})
			conns[0].allow(5)
			asked := asking(t.Context(), c, "request")
			time.Sleep(time.Second)
			conns[0].send(frame(kindReply, 0, "reply"))
			requireError(t, asked, true, errSplit)
		})
	}
}

// While somebody reads, the connection has not ended.
func TestTheContextEndsTheWaitForTheReasonOfAKill(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		conns[0].allow(5)
		killed, release := make(chan struct{}), make(chan struct{})
		c := w.client(request.WithUnsolicited(func(m message.Message) {
			m.Conn.Kill()
			close(killed)
			<-release
		}))
		ctx, cancel := context.WithCancel(t.Context())
		asked := asking(ctx, c, "request")
		synctest.Wait()
		conns[0].send(frame(kindPush, 0, ""))
		<-killed
		requirePending(t, asked)
		cancel()
		requireIs(t, ended(t, asked).err, true, context.Canceled)
		close(release)
	})
}

func TestAKillByOthersIsReportedAsSuch(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client()
		asked := asking(t.Context(), c, "asked")
		conns[0].take("asked")
		lease, err := w.mux.Writer(t.Context(), 0)
		require.NoError(t, err)
		require.NoError(t, lease.Kill())
		requireError(t, asked, true, plex.ErrKilled)
	})
}

func TestNothingBehindNonsenseIsHeard(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world, conns []*fakeConn) {
		var pushed []string
		c := w.client(request.WithUnsolicited(func(m message.Message) { pushed = append(pushed, string(m.Data[9:])) }))
		lost := asking(t.Context(), c, "lost")
		conns[0].take("lost")
		kept := asking(t.Context(), c, "kept")
		id := conns[1].take("kept")

		conns[0].send(frame('?', 0, ""), frame(kindReply, id, "false"), frame(kindPush, 0, "false"))
		requireError(t, lost, true, errKind)
		time.Sleep(time.Second)
		requirePending(t, kept)
		require.EqualValues(t, 1, c.Stats().Malformed)
		require.ErrorIs(t, c.Stats().LastMalformed, errKind)
		conns[1].reply(id, "true")
		requireReply(t, kept, "true")
		require.Empty(t, pushed)
	})
}

// Requests fail when their connection has ended, and not before. Otherwise the next request would
// get an identifier that the peer may still answer, and would be written to the same connection.
func TestNothingIsWrittenBehindNonsense(t *testing.T) {
	for range 1000 { // the kill and the next request race
		bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
			c := w.client(request.WithIDs(0))
			lost := asking(t.Context(), c, "lost")
			conns[0].take("lost")
			next := asking(t.Context(), c, "next")
			synctest.Wait()

			conns[0].send(frame('?', 0, ""))
			requireError(t, lost, true, errKind)
			requireError(t, next, false, plex.ErrNoConnections)
			require.Zero(t, conns[0].unread())
		})
	}
}

func TestAnIdleConnectionOutOfStepIsKilled(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client()
		conns[1].send(frame('?', 0, ""))
		time.Sleep(time.Second)
		require.Equal(t, 1, conns[1].Closes())
		require.Equal(t, 2, w.mux.Stats().Open)

		for range 4 {
			asked := asking(t.Context(), c, "next")
			synctest.Wait()
			answer(conns, "next")
			requireReply(t, asked, "reply")
		}
	})
}

func TestAConnectionOutOfStepWhoseWriterIsBusyIsKilled(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		conns[0].allow(5)
		c := w.client()
		writing := asking(t.Context(), c, "writing")
		requirePending(t, writing)
		conns[0].send(frame('?', 0, ""))
		requireError(t, writing, true, errKind)
		time.Sleep(time.Second)
		require.Equal(t, 1, conns[0].Closes())
	})
}

func TestMessagesThatAreNoRepliesGoToTheHook(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world, conns []*fakeConn) {
		var mu sync.Mutex
		pushed := map[string]plex.Conn{}
		c := w.client(request.WithUnsolicited(func(m message.Message) {
			mu.Lock()
			defer mu.Unlock()
			pushed[string(m.Data[9:])] = m.Conn
		}))
		conns[0].send(frame(kindPush, 0, "a"))
		conns[1].send(frame(kindPush, 0, "b"))
		time.Sleep(time.Second)

		mu.Lock()
		defer mu.Unlock()
		require.Len(t, pushed, 2)
		require.Equal(t, conns[0].RemoteAddr(), pushed["a"].RemoteAddr())
		require.Equal(t, conns[1].RemoteAddr(), pushed["b"].RemoteAddr())
		require.EqualValues(t, 2, c.Stats().Unsolicited)
	})
}

func TestWithoutAHookUnsolicitedMessagesAreCounted(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client()
		asked := asking(t.Context(), c, "request")
		conns[0].send(frame(kindPush, 0, "a"), frame(kindReply, conns[0].take("request"), "reply"))
		requireReply(t, asked, "reply")
		require.EqualValues(t, 1, c.Stats().Unsolicited)
	})
}

func TestAPanicOfTheHookCostsItsMessageOnly(t *testing.T) {
	errHook := errors.New("hook")

	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client(request.WithReceivers(1), request.WithUnsolicited(func(message.Message) { panic(errHook) }))
		asked := asking(t.Context(), c, "request")
		conns[0].send(frame(kindPush, 0, "a"), frame(kindReply, conns[0].take("request"), "reply"))
		requireReply(t, asked, "reply")

		s := c.Stats()
		require.EqualValues(t, 1, s.Panicked)
		require.ErrorIs(t, s.LastPanic, errHook)
		require.ErrorContains(t, s.LastPanic, "request: WithUnsolicited panicked: hook\n")
		require.Equal(t, 1, w.mux.Stats().Open)
	})
}

func TestAHookThatEndsItsGoroutineCostsItsMessageOnly(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client(request.WithReceivers(1), request.WithUnsolicited(func(message.Message) { runtime.Goexit() }))
		asked := asking(t.Context(), c, "request")
		conns[0].send(frame(kindPush, 0, "a"), frame(kindReply, conns[0].take("request"), "reply"))
		requireReply(t, asked, "reply")
	})
}

// What follows the hook's message is left over, and handled without a lease.
func TestNonsenseBehindAHookThatEndsItsGoroutineKillsItsConnection(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.client(request.WithReceivers(1), request.WithUnsolicited(func(message.Message) { runtime.Goexit() }))
		asked := asking(t.Context(), c, "request")
		conns[0].take("request")
		conns[0].send(frame(kindPush, 0, "a"), frame('?', 0, "nonsense"))
		time.Sleep(time.Minute)
		requireIs(t, ended(t, asked).err, true, errKind)
		require.Equal(t, 1, conns[0].Closes())
	})
}

func TestAProtocolThatEndsItsGoroutineKillsTheConnectionAndFailsItsRequests(t *testing.T) {
	exits := func(data []byte) error {
		if strings.Contains(string(data), "exit") {
			runtime.Goexit()
		}

		return nil
	}

	for name, p := range map[string]wireProtocol{"Parse": {parsing: exits}, "Split": {splitting: exits}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 2, func(t *testing.T, w *world, conns []*fakeConn) {
				c := w.speaking(p, request.WithReceivers(1))
				lost := asking(t.Context(), c, "lost")
				conns[0].reply(conns[0].take("lost"), "exit")
				time.Sleep(time.Minute)
				err := ended(t, lost).err
				require.ErrorContains(t, err, "runtime.Goexit")
				require.ErrorContains(t, err, conns[0].RemoteAddr().String())
				require.Equal(t, 1, conns[0].Closes())
				require.EqualValues(t, 1, c.Stats().Malformed)

				kept := asking(t.Context(), c, "kept")
				conns[1].reply(conns[1].take("kept"), "reply")
				requireReply(t, kept, "reply")
			})
		})
	}
}

func TestAParsePanicIsNonsenseWhateverItPanicsWith(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.speaking(wireProtocol{parsing: func([]byte) error { panic(request.ErrNotReply) }})
		asked := asking(t.Context(), c, "request")
		conns[0].reply(conns[0].take("request"), "reply")

		var p *request.PanicError
		require.ErrorAs(t, (<-asked).err, &p)
		require.Zero(t, c.Stats().Unsolicited)
	})
}

func TestAConnectionWithRequestsInFlightIsNotRetired(t *testing.T) {
	healing(t, 1, func(*fakeConn) {}, func(t *testing.T, w *world) {
		c := w.client()
		slow := asking(t.Context(), c, "slow")
		first := w.all()[0]
		id := first.take("slow")
		time.Sleep(time.Hour) // far beyond the connection's lifetime
		require.Zero(t, first.Closes())
		first.reply(id, "reply")
		requireReply(t, slow, "reply")
		time.Sleep(5 * time.Second)
		require.Equal(t, 1, first.Closes(), "it is retired when nobody expects anything from it")
		require.EqualValues(t, 1, w.mux.Stats().Expired)

		// The next request uses its replacement.
		next := asking(t.Context(), c, "next")
		second := w.all()[1]
		second.reply(second.take("next"), "reply")
		requireReply(t, next, "reply")
	}, plex.WithMaxLifetime(time.Minute), plex.WithRetireGrace(24*time.Hour))
}

func TestRetiringAConnectionFreesItsIdentifiers(t *testing.T) {
	healing(t, 1, func(*fakeConn) {}, func(t *testing.T, w *world) {
		c := w.client(request.WithIDs(0))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		requireError(t, asking(ctx, c, "given up"), true, context.DeadlineExceeded)
		next := asking(t.Context(), c, "next")
		requirePending(t, next)
		time.Sleep(2 * time.Minute)
		require.Equal(t, 1, w.all()[0].Closes())
		second := w.all()[len(w.all())-1]
		second.reply(second.take("next"), "reply")
		requireReply(t, next, "reply")
	}, plex.WithMaxLifetime(time.Minute))
}

func TestClosingTheClientUnpinsConnections(t *testing.T) {
	healing(t, 1, func(*fakeConn) {}, func(t *testing.T, w *world) {
		c := w.client()
		asked := asking(t.Context(), c, "asked")
		first := w.all()[0]
		first.reply(first.take("asked"), "reply")
		requireReply(t, asked, "reply")
		require.NoError(t, c.Close())
		require.Zero(t, first.Closes())
		time.Sleep(2 * time.Minute)
		require.Equal(t, 1, first.Closes())
		require.Zero(t, w.mux.Stats().Killed)
	}, plex.WithMaxLifetime(time.Minute))
}
