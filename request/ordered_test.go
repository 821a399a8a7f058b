package request_test

// Ordered replies. The protocol of these tests is lines: a request is a text, and its reply the same
// text. A request that begins with "quiet" has no reply, and a line that begins with a star is a
// push.

import (
	"bufio"
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
	"sync"
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

var errBadLine = errors.New("no line of this protocol")

// inOrder is the protocol. parsing, if not nil, is called first.
type inOrder struct {
	parsing func(line []byte, request string) error
}

func (inOrder) Append(dst []byte, text string) ([]byte, error) {
	return append(append(dst, text...), '\n'), nil
}

func (inOrder) Split(data []byte, atEOF bool) (int, []byte, error) { return message.Lines(data, atEOF) }

func (p inOrder) Parse(line []byte, text string) ([]byte, error) {
	if p.parsing != nil {
		if err := p.parsing(line, text); err != nil {
			return nil, err
		}
	}
	switch {
	case bytes.HasPrefix(line, []byte("*")):
		return nil, request.ErrNotReply
	case bytes.HasPrefix(line, []byte("?")):
		return nil, errBadLine
	}

	return line, nil
}

func (inOrder) Replies(text string) int {
	switch {
	case strings.HasPrefix(text, "quiet"):
		return 0
	case text == "many":
		return 2
	}

	return 1
}

// ordered makes a client for the protocol, and closes it at the end, when nothing may be in flight.
func (w *world) ordered(options ...request.Option) *client { return w.ordering(inOrder{}, options...) }

func (w *world) ordering(p request.Ordered[string, []byte], options ...request.Option) *client {
	c, err := request.NewOrdered(w.mux, p, options...)
	require.NoError(w, err)
	w.Cleanup(func() {
		require.NoError(w, c.Close())
		balanced(w, c.Stats())
	})

	return c
}

// line waits for a whole request; "" if there will be none.
func (c *fakeConn) line() string {
	var text []byte
	for {
		b := c.peer.ReadN(1)
		switch b {
		case "":
			return ""
		case "\n":
			return string(text)
		}
		text = append(text, b...)
	}
}

// say delivers lines.
func (c *fakeConn) say(lines ...string) { c.peer.Send(strings.Join(lines, "\n") + "\n") }

// together has requests gathered behind a first one, which is being written until release is called.
func together(t *testing.T, c *client, conn *fakeConn, contexts []context.Context, texts ...string) (all []<-chan outcome, release func()) {
	release = held(conn)
	all = append(all, asking(t.Context(), c, "first"))
	synctest.Wait()
	for i, text := range texts {
		ctx := t.Context()
		if contexts != nil {
			ctx = contexts[i]
		}
		all = append(all, asking(ctx, c, text))
		synctest.Wait()
	}

	return all, release
}

func TestRepliesGoToRequestsInTheirOrder(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.ordered()
		all, release := together(t, c, conns[0], nil, "a", "b", "c")
		release()
		synctest.Wait()
		require.Equal(t, "first\na\nb\nc\n", conns[0].peer.ReadN(12))
		conns[0].say("1", "2")
		requireReply(t, all[0], "1")
		requireReply(t, all[1], "2")
		requirePending(t, all[2])
		conns[0].say("3")
		conns[0].say("4")
		requireReply(t, all[2], "3")
		requireReply(t, all[3], "4")
		require.Equal(t, uint64(2), c.Stats().Writes)
	})
}

// The fault of CVE-2023-28858: who gives up must not leave his reply to the next. For each request,
// and for each byte of the replies, the request's context ends when so much has arrived.
func TestWhoGivesUpKeepsHisPlaceAtEveryByteOfTheReplies(t *testing.T) {
	texts := []string{"a", "bcd", "", "efg"}
	replies := "first\na\nbcd\n\nefg\n"
	for victim := range texts {
		end := len("first\n" + strings.Join(texts[:victim+1], "\n") + "\n") // of the victim's reply
		for n := range len(replies) + 1 {
			bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
				c := w.ordered()
				contexts := make([]context.Context, len(texts))
				cancels := make([]context.CancelFunc, len(texts))
				for i := range contexts {
					contexts[i], cancels[i] = context.WithCancel(t.Context())
					defer cancels[i]()
				}
				all, release := together(t, c, conns[0], contexts, texts...)
				release()
				synctest.Wait()
				conns[0].peer.Send(replies[:n])
				synctest.Wait()
				cancels[victim]()
				synctest.Wait()
				behind := asking(t.Context(), c, "behind")
				synctest.Wait()
				conns[0].peer.Send(replies[n:] + "behind\n")
				for i, text := range append([]string{"first"}, texts...) {
					if i == victim+1 && n < end {
						requireError(t, all[i], true, context.Canceled)
						continue
					}
					requireReply(t, all[i], text)
				}
				requireReply(t, behind, "behind")
				synctest.Wait()
				s := c.Stats()
				require.Equal(t, n < end, s.Late == 1, "late")
				require.Zero(t, s.InFlight+s.Abandoned+int(s.Unknown+s.Malformed))
			})
		}
	}
}

// The same for each byte of the requests: the context ends when so much of the batch is written. A
// request that nobody has taken yet is cut out, and has no place.
func TestWhoGivesUpWhileRequestsAreWrittenKeepsHisPlace(t *testing.T) {
	texts := []string{"a", "bcd", "efg"}
	total := len("a\nbcd\nefg\n")
	for victim := range texts {
		for n := -1; n <= total; n++ { // -1: before the batch is taken
			bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
				c := w.ordered()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				contexts := []context.Context{t.Context(), t.Context(), t.Context()}
				contexts[victim] = ctx
				all, release := together(t, c, conns[0], contexts, texts...)
				if n < 0 {
					cancel()
					synctest.Wait()
					release()
				} else {
					conns[0].allow(len("first\n") + n)
					release()
					synctest.Wait()
					cancel()
					synctest.Wait()
					conns[0].allow(-1)
				}
				go func() { // a server that answers whatever it is asked
					for text := conns[0].line(); text != ""; text = conns[0].line() {
						conns[0].say(text)
					}
				}()
				for i, text := range append([]string{"first"}, texts...) {
					if i == victim+1 {
						requireError(t, all[i], n >= 0, context.Canceled)
						continue
					}
					requireReply(t, all[i], text)
				}
				requireReply(t, asking(t.Context(), c, "behind"), "behind")
				synctest.Wait()
				require.Equal(t, n >= 0, c.Stats().Late == 1)
			})
		}
	}
}

// answering answers what it is asked on a connection, in pieces and with pauses, and pushes between.
// It notes what it was asked.
func answering(conn *fakeConn, random *rand.Rand, log *[]string) {
	for text := conn.line(); text != ""; text = conn.line() {
		*log = append(*log, text)
		if random.IntN(3) == 0 {
			time.Sleep(time.Duration(random.IntN(3000)) * time.Microsecond)
		}
		if random.IntN(4) == 0 {
			conn.say("*push")
		}
		if strings.HasPrefix(text, "quiet") {
			continue
		}
		reply := text + "\n"
		cut := random.IntN(len(reply) + 1)
		conn.peer.Send(reply[:cut])
		if random.IntN(2) == 0 {
			time.Sleep(time.Duration(random.IntN(500)) * time.Microsecond)
		}
		conn.peer.Send(reply[cut:])
	}
}

// Contexts end at any moment, connections are reset and healed, and Writes stall. Every reply is that
// of its own request.
func TestNoReplyIsEverAnothers(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			var servers sync.WaitGroup
			setUp := rand.New(rand.NewPCG(seed, 0))
			var mu sync.Mutex
			serve := func(c *fakeConn) {
				mu.Lock()
				random := rand.New(rand.NewPCG(seed, setUp.Uint64()))
				fate := setUp.IntN(4)
				after := time.Duration(setUp.IntN(20000)) * time.Microsecond
				mu.Unlock()
				servers.Go(func() { answering(c, random, new([]string)) })
				if fate == 0 {
					time.AfterFunc(after, c.reset)
				} else if fate == 1 {
					c.allow(int(after / time.Microsecond / 100))
					time.AfterFunc(after, func() { c.allow(-1) })
				}
			}
			healing(t, 3, serve, func(t *testing.T, w *world) {
				c := w.ordered(request.WithDepth(1+int(seed%9)), request.WithWriteBuffer(int(seed%3)*20))
				var wg sync.WaitGroup
				var replies sync.Map
				for caller := range 12 {
					random := rand.New(rand.NewPCG(seed, uint64(100+caller)))
					wg.Go(func() {
						for i := range 40 {
							text := fmt.Sprintf("%d-%d", caller, i)
							if random.IntN(6) == 0 {
								text = "quiet" + text
							}
							ctx, cancel := context.WithTimeout(t.Context(), time.Duration(random.IntN(8000))*time.Microsecond)
							got, err := c.Do(ctx, text)
							cancel()
							switch {
							case err == nil && strings.HasPrefix(text, "quiet"):
								require.Empty(t, got)
							case err == nil:
								require.Equal(t, text, string(got))
								replies.Store(text, true)
							default:
								var e *request.Error
								require.ErrorAs(t, err, &e)
							}
						}
					})
				}
				wg.Wait()
				synctest.Wait()
				require.Zero(t, c.Stats().Malformed+c.Stats().Unknown, "%v", c.Stats().LastMalformed)
				n := 0
				replies.Range(func(any, any) bool { n++; return true })
				require.Greater(t, n, 20, "the test has tested something")
				require.NoError(t, c.Close())
				require.NoError(t, w.mux.Close())
				servers.Wait()
			})
		})
	}
}

func TestAConnectionThatEndsAtEveryByteOfABatch(t *testing.T) {
	texts := []string{"a", "quiet", "bcd", "efg"}
	begins := []int{0, 2, 8, 12}
	total := 16
	type ending struct {
		end   func(w *world, c *client, conn *fakeConn)
		cause error
	}
	for name, e := range map[string]ending{
		"a reset":                  {func(_ *world, _ *client, conn *fakeConn) { conn.reset() }, syscall.ECONNRESET},
		"a FIN":                    {func(_ *world, _ *client, conn *fakeConn) { conn.fin() }, nil},
		"nonsense":                 {func(_ *world, _ *client, conn *fakeConn) { conn.say("?") }, errBadLine},
		"a reply too many":         {func(_ *world, _ *client, conn *fakeConn) { conn.say("1", "2", "3", "4", "5") }, nil},
		"Close of the client":      {func(_ *world, c *client, _ *fakeConn) { _ = c.Close() }, request.ErrClosed},
		"Close of the multiplexer": {func(w *world, _ *client, _ *fakeConn) { _ = w.mux.Close() }, plex.ErrClosed},
		"the write timeout":        {func(*world, *client, *fakeConn) { time.Sleep(10 * time.Second) }, os.ErrDeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			for n := range total {
				bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
					c := w.ordered()
					all, release := together(t, c, conns[0], nil, texts...)
					conns[0].allow(len("first\n") + n)
					release()
					synctest.Wait()
					e.end(w, c, conns[0])
					for i, asked := range all {
						o := <-asked
						if name == "a reply too many" && (i == 0 || texts[i-1] != "quiet") {
							require.NoError(t, o.err) // it was early, but it came
							continue
						}
						var failed *request.Error
						require.ErrorAs(t, o.err, &failed)
						if e.cause != nil {
							require.ErrorIs(t, o.err, e.cause, "request %d after %d bytes", i, n)
						}
						require.Equal(t, i == 0 || begins[i-1] < n, failed.MaybeSent, "request %d after %d bytes: %v", i, n, o.err)
					}
					time.Sleep(time.Second)
					require.Zero(t, c.Stats().InFlight+c.Stats().Abandoned)
				})
			}
		})
	}
}

func TestAReplyThatNobodyWaitsForCostsTheConnection(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.ordered()
		a := asking(t.Context(), c, "a")
		require.Equal(t, "a", conns[0].line())
		conns[0].say("a", "*push", "b", "c")
		requireReply(t, a, "a")
		synctest.Wait()
		require.Equal(t, 1, conns[0].Closes())
		s := c.Stats()
		require.ErrorIs(t, s.LastMalformed, request.ErrOutOfStep)
		require.Equal(t, uint64(1), s.Malformed, "the rest is not looked at")
		require.Equal(t, uint64(1), s.Unsolicited)

		conns[1].say("never asked") // on a connection that no request has used
		synctest.Wait()
		require.Equal(t, 1, conns[1].Closes())
		require.Equal(t, uint64(2), c.Stats().Malformed)
	})
}

func TestAnErrorOfParseFailsTheRequestsOnTheConnection(t *testing.T) {
	for name, parsing := range map[string]func([]byte, string) error{
		"an error": func(line []byte, _ string) error {
			if string(line) == "bad" {
				return errBadLine
			}
			return nil
		},
		"a panic": func(line []byte, _ string) error {
			if string(line) == "bad" {
				panic(errBadLine)
			}
			return nil
		},
		"Goexit": func(line []byte, _ string) error {
			if string(line) == "bad" {
				runtime.Goexit()
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 2, func(t *testing.T, w *world, conns []*fakeConn) {
				c := w.ordering(inOrder{parsing: parsing}, request.WithReceivers(1))
				all, release := together(t, c, conns[0], nil, "a", "b")
				release()
				synctest.Wait()
				conns[0].say("first")
				requireReply(t, all[0], "first")
				conns[1].say("bad", "b") // the batch went to the other connection
				for _, asked := range all[1:] {
					target := errBadLine
					if name == "Goexit" {
						target = nil
					}
					o := <-asked
					require.Error(t, o.err)
					if target != nil {
						require.ErrorIs(t, o.err, target)
					}
				}
				again := asking(t.Context(), c, "again")
				require.Equal(t, "first", conns[0].line())
				require.Equal(t, "again", conns[0].line())
				conns[0].say("again")
				requireReply(t, again, "again")
			})
		})
	}
}

func TestParseGetsTheRequestThatItsMessageAnswers(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		var got []string
		var pushed []string
		c := w.ordering(inOrder{parsing: func(line []byte, text string) error {
			got = append(got, fmt.Sprintf("%s=%s", line, text))
			return nil
		}}, request.WithReceivers(1), request.WithUnsolicited(func(m message.Message) { pushed = append(pushed, string(m.Data)) }))
		conns[0].say("*0")
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		all, release := together(t, c, conns[0], []context.Context{t.Context(), t.Context(), ctx}, "a", "quiet", "b")
		release()
		synctest.Wait()
		requireReply(t, all[2], "") // the quiet one has been written
		cancel()
		synctest.Wait()
		conns[0].say("*1", "first", "*2", "a", "*3", "*4")
		synctest.Wait()
		conns[0].say("b")
		synctest.Wait()
		require.Equal(t, []string{"*0=", "*1=first", "first=first", "*2=a", "a=a", "*3=b", "*4=b", "b=b"}, got)
		require.Equal(t, []string{"*0", "*1", "*2", "*3", "*4"}, pushed)
		require.Equal(t, uint64(1), c.Stats().Late)
		requireReply(t, all[0], "first")
		requireReply(t, all[1], "a")
		requireError(t, all[3], true, context.Canceled)
	})
}

func TestAQuietRequestEndsWhenItIsWritten(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.ordered(request.WithDepth(2))
		conns[0].allow(3)
		quiet := asking(t.Context(), c, "quiet")
		requirePending(t, quiet)
		conns[0].allow(-1)
		requireReply(t, quiet, "")
		a := asking(t.Context(), c, "a")
		synctest.Wait()
		for range 5 { // they leave no trace
			requireReply(t, asking(t.Context(), c, "quiet"), "")
		}
		ctx, cancel := context.WithCancel(t.Context())
		conns[0].allow(2)
		gone := asking(ctx, c, "quiet")
		synctest.Wait()
		cancel()
		requireError(t, gone, true, context.Canceled)
		conns[0].allow(-1)
		synctest.Wait()
		require.Zero(t, c.Stats().Abandoned)
		conns[0].say("a")
		requireReply(t, a, "a")
	})
}

// Replies may come while the Write that carried their requests still runs.
func TestAReplyBeforeTheQuietRequestsOfItsBatchAreSettled(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.ordered()
		all, release := together(t, c, conns[0], nil, "quiet", "a", "quiet2", "b")
		conns[0].allow(len("first\nquiet\na\nqui"))
		release()
		synctest.Wait()
		conns[0].say("first", "a")
		requireReply(t, all[0], "first")
		requireReply(t, all[2], "a")
		requirePending(t, all[1])
		conns[0].allow(-1)
		requireReply(t, all[1], "")
		requireReply(t, all[3], "")
		conns[0].say("b")
		requireReply(t, all[4], "b")
	})
}

func TestRequestsWithSeveralRepliesAreRefused(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, _ []*fakeConn) {
		c := w.ordered()
		_, err := c.Do(t.Context(), "many")
		require.EqualError(t, err, "request: not sent: Replies returned 2; a request has 1 reply, or 0 if there is none")
		require.Equal(t, uint64(1), c.Stats().Failed)
	})
}

func TestTheDepthBoundsWhatIsUnansweredOnAConnection(t *testing.T) {
	for depth := range 4 {
		depth++
		bubble(t, 2, func(t *testing.T, w *world, conns []*fakeConn) {
			c := w.ordered(request.WithDepth(depth))
			release := held(conns[0])
			var all []<-chan outcome
			for i := range 10 {
				all = append(all, asking(t.Context(), c, fmt.Sprint(i)))
				synctest.Wait()
			}
			release()
			synctest.Wait()
			for _, conn := range conns {
				require.Equal(t, depth, conn.unread()/2)
			}
			require.Equal(t, 1, w.mux.Stats().Waiting, "for a connection, which is demand")
			answered := 0
			for round := 0; answered < 10; round++ {
				conn := conns[round%2]
				if conn.unread() == 0 {
					continue
				}
				conn.say(conn.line())
				answered++
				synctest.Wait()
				for _, conn := range conns {
					require.LessOrEqual(t, conn.unread()/2, depth)
					if 10-answered >= 2*depth {
						require.Equal(t, depth, conn.unread()/2, "there is room, and callers wait")
					}
				}
			}
			for i, asked := range all {
				requireReply(t, asked, fmt.Sprint(i))
			}
		})
	}
}

func TestARequestThatIsGivenUpCountsForTheDepth(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.ordered(request.WithDepth(1), request.WithAcquireTimeout(time.Minute))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		requireError(t, asking(ctx, c, "a"), true, context.DeadlineExceeded)
		requireError(t, asking(t.Context(), c, "b"), false, plex.ErrTimeout)
		last := asking(t.Context(), c, "c")
		synctest.Wait()
		require.Equal(t, "a", conns[0].line())
		require.Zero(t, conns[0].unread())
		conns[0].say("a")
		require.Equal(t, "c", conns[0].line())
		conns[0].say("c")
		requireReply(t, last, "c")
	})
}

// A connection that is full ends in each way, and the next takes its place.
func TestAFullConnectionThatEndsIsReplaced(t *testing.T) {
	for name, end := range map[string]func(c *fakeConn){
		"reset": (*fakeConn).reset,
		"FIN":   (*fakeConn).fin,
		"nonsense": func(c *fakeConn) {
			c.say("?")
		},
	} {
		t.Run(name, func(t *testing.T) {
			healing(t, 1, func(*fakeConn) {}, func(t *testing.T, w *world) {
				c := w.ordered(request.WithDepth(2))
				all, release := together(t, c, w.all()[0], nil, "a", "b")
				release()
				synctest.Wait()
				end(w.all()[0])
				require.Error(t, (<-all[0]).err)
				require.Error(t, (<-all[1]).err)
				time.Sleep(time.Second)
				require.Len(t, w.all(), 2)
				require.Equal(t, "b", w.all()[1].line())
				w.all()[1].say("b")
				requireReply(t, all[2], "b")
			})
		})
	}
}

func TestCloseKillsConnectionsThatOweReplies(t *testing.T) {
	bubble(t, 3, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.ordered(request.WithDepth(1))
		ctx, cancel := context.WithCancel(t.Context())
		gone := asking(ctx, c, "a")
		synctest.Wait()
		cancel()
		requireError(t, gone, true, context.Canceled)
		b := asking(t.Context(), c, "b")
		synctest.Wait()
		d := asking(t.Context(), c, "d")
		synctest.Wait()
		conns[2].say("d")
		requireReply(t, d, "d")
		require.NoError(t, c.Close())
		requireError(t, b, true, request.ErrClosed)
		synctest.Wait()
		require.Equal(t, []int{1, 1, 0}, []int{conns[0].Closes(), conns[1].Closes(), conns[2].Closes()})
		require.Zero(t, w.mux.Stats().LeasedWriters)
	})
}

func TestDatagramsKeepNoOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fakenet.NewDatagrams()
		m, err := plex.New(t.Context(), plex.WithConnections(d))
		require.NoError(t, err)
		c, err := request.NewOrdered(m, inOrder{})
		require.NoError(t, err)
		for range 3 {
			_, err = c.Do(t.Context(), "a")
			require.ErrorContains(t, err, "request: not sent: the replies come in the order of the requests")
		}
		require.NoError(t, c.Close())
		balanced(t, c.Stats())
		require.NoError(t, m.Close())
	})
}

// counting keeps state: each reply of a connection is numbered by its split function.
type counting struct{ inOrder }

func (counting) SplitFor() bufio.SplitFunc {
	n := 0

	return func(data []byte, atEOF bool) (int, []byte, error) {
		advance, token, err := message.Lines(data, atEOF)
		if token != nil {
			n++
			token = fmt.Appendf(nil, "%s%d", token, n)
		}

		return advance, token, err
	}
}

func TestASplitFunctionWithStateForEachConnection(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.ordering(counting{})
		for i := range 4 {
			a := asking(t.Context(), c, "a")
			synctest.Wait()
			conns[i%2].say(conns[i%2].line())
			requireReply(t, a, fmt.Sprint("a", i/2+1))
		}
	})
}

func TestOptionsThatMakeNoSense(t *testing.T) {
	m, err := plex.New(t.Context(), plex.WithMaxCapacity(1))
	require.NoError(t, err)
	defer m.Close()
	_, err = request.NewOrdered(m, inOrder{}, request.WithIDs(10))
	require.EqualError(t, err, "request: WithIDs: the requests have no identifiers; leave the option out, or use New")
	_, err = request.NewOrdered(m, inOrder{}, request.WithIDRange(1, 10), request.WithRandomIDs())
	require.EqualError(t, err, "request: WithIDRange: the requests have no identifiers; leave the option out, or use New\n"+
		"request: WithRandomIDs: the requests have no identifiers; leave the option out, or use New")
	_, err = request.NewOrdered(m, inOrder{}, request.WithInFlightPerConn(1))
	require.EqualError(t, err, "request: WithInFlightPerConn: it is for New; use WithDepth")
	_, err = request.NewOrdered(m, inOrder{}, request.WithStreamBuffer(1))
	require.EqualError(t, err, "request: WithStreamBuffer: it is for New; only a protocol with identifiers can have several messages to a request")
	_, err = request.NewOrdered(m, inOrder{}, request.WithDepth(0))
	require.EqualError(t, err, "request: WithDepth: the depth is 0; it must be at least 1")
	_, err = request.New(m, wireProtocol{}, request.WithDepth(1))
	require.EqualError(t, err, "request: WithDepth: it is for NewOrdered; use WithInFlightPerConn")
	_, err = request.NewOrdered[string, []byte](nil, nil)
	require.EqualError(t, err, "request: NewOrdered: the multiplexer is nil; make one with plex.New\n"+
		"request: NewOrdered: the protocol is nil; give one that is not")
}

// resp is enough of RESP for a server in the test and for Debian's redis-server.
type resp struct{}

func (resp) Append(dst []byte, words []string) ([]byte, error) {
	dst = fmt.Appendf(dst, "*%d\r\n", len(words))
	for _, word := range words {
		dst = fmt.Appendf(dst, "$%d\r\n%s\r\n", len(word), word)
	}

	return dst, nil
}

func (resp) Split(data []byte, atEOF bool) (int, []byte, error) {
	advance, line, err := message.Lines(data, atEOF)
	if line == nil || err != nil || line[0] != '$' || bytes.HasPrefix(line, []byte("$-1")) {
		return advance, line, err
	}
	length := 0
	if _, err := fmt.Sscan(string(line[1:]), &length); err != nil {
		return 0, nil, err
	}
	if len(data) < advance+length+2 {
		return 0, nil, nil
	}

	return advance + length + 2, data[advance-1 : advance+length], nil // with one byte ahead
}

func (resp) Parse(m []byte, _ []string) (string, error) { return string(m[1:]), nil }

// redis is a server that knows GET and SET.
func redis(t *testing.T) (address string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				values := make(map[string]string)
				in, out := bufio.NewReader(conn), bufio.NewWriter(conn)
				word := func() (s string, err error) {
					var n int
					if _, err = fmt.Fscanf(in, "$%d\r\n", &n); err != nil {
						return "", err
					}
					p := make([]byte, n+2)
					_, err = io.ReadFull(in, p)
					return string(p[:n]), err
				}
				for {
					var n int
					if _, err := fmt.Fscanf(in, "*%d\r\n", &n); err != nil {
						return
					}
					words := make([]string, n)
					for i := range words {
						if words[i], err = word(); err != nil {
							return
						}
					}
					if words[0] == "SET" {
						values[words[1]] = words[2]
						_, _ = out.WriteString("+OK\r\n")
					} else {
						v := values[words[1]]
						_, _ = fmt.Fprintf(out, "$%d\r\n%s\r\n", len(v), v)
					}
					if in.Buffered() == 0 {
						_ = out.Flush()
					}
				}
			})
		}
	})
	t.Cleanup(func() { _ = ln.Close(); wg.Wait() })

	return ln.Addr().String()
}

// Over sockets, and many callers, of whom some give up.
func TestRedis(t *testing.T) {
	balanceProcess(t)
	address := redis(t)
	m, err := plex.New(t.Context(), plex.WithConnector(plex.Dial("tcp", address)),
		plex.WithMinConnections(1), plex.WithMaxCapacity(1)) // the server's values belong to a connection
	require.NoError(t, err)
	defer m.Close()
	c, err := request.NewOrdered(m, resp{}, request.WithDepth(50))
	require.NoError(t, err)
	defer c.Close()

	var wg sync.WaitGroup
	for caller := range 100 {
		wg.Go(func() {
			key := fmt.Sprint("key", caller)
			for i := range 50 {
				value := strings.Repeat(key, i%5) + fmt.Sprint(i)
				reply, err := c.Do(t.Context(), []string{"SET", key, value})
				require.NoError(t, err)
				require.Equal(t, "OK", reply)
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(2000))*time.Microsecond)
				reply, err = c.Do(ctx, []string{"GET", key})
				cancel()
				if err == nil {
					require.Equal(t, value, reply)
				}
			}
		})
	}
	wg.Wait()
	require.Zero(t, c.Stats().Malformed+c.Stats().Unknown)
}
