package request_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/message"
	"go.atomizer.io/plex/request"
)

type session = request.Session[string, []byte]

// opened opens a session. By then plex reads from all connections, so it is on the first.
func opened(t *testing.T, c *client) *session {
	t.Helper()
	synctest.Wait()
	s, err := c.Session(t.Context())
	require.NoError(t, err)

	return s
}

// asks calls the session's Do in the background.
func asks(ctx context.Context, s *session, text string) <-chan outcome {
	ch := make(chan outcome, 1)
	go func() {
		reply, err := s.Do(ctx, text)
		ch <- outcome{string(reply), err}
	}()

	return ch
}

func TestASessionHasAConnectionForItself(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world, conns []*fakeConn) {
		var pushes []string
		c := w.ordering(inOrder{}, request.WithUnsolicited(func(m message.Message) { pushes = append(pushes, string(m.Data)) }))
		s := opened(t, c)
		mine, other := conns[0], conns[1]
		if s.Conn().RemoteAddr() != mine.RemoteAddr() {
			mine, other = other, mine
		}
		a := asks(t.Context(), s, "a")
		require.Equal(t, "a", mine.line())
		b := asking(t.Context(), c, "b") // of the client
		require.Equal(t, "b", other.line())
		mine.say("*push", "a")
		requireReply(t, a, "a")
		other.say("b")
		requireReply(t, b, "b")
		requireReply(t, asks(t.Context(), s, "quiet"), "")
		require.Equal(t, "quiet", mine.line())
		require.Equal(t, []string{"*push"}, pushes)
		mine.say("*between")
		require.NoError(t, s.Close())
		require.Error(t, s.Close())
		_, err := s.Do(t.Context(), "late")
		requireIs(t, err, false, err)
		synctest.Wait()
		require.Zero(t, mine.Closes())
		require.Equal(t, []string{"*push", "*between"}, pushes, "the client reads on")

		first, second := asking(t.Context(), c, "x"), asking(t.Context(), c, "y")
		synctest.Wait()
		for _, conn := range conns {
			for conn.unread() > 0 {
				conn.say(conn.line())
			}
		}
		requireReply(t, first, "x")
		requireReply(t, second, "y")
	})
}

// A session waits until nothing is owed on its connection, whoever has given up meanwhile.
func TestASessionBeginsWhenNothingIsOwed(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.ordered()
		ctx, cancel := context.WithCancel(t.Context())
		gone := asking(ctx, c, "a")
		synctest.Wait()
		cancel()
		requireError(t, gone, true, context.Canceled)
		time.Sleep(time.Second)
		began := make(chan *session)
		go func() {
			s, err := c.Session(t.Context())
			require.NoError(t, err)
			began <- s
		}()
		time.Sleep(time.Second)
		select {
		case <-began:
			require.Fail(t, "a reply is owed")
		default:
		}
		require.Equal(t, "a", conns[0].line())
		conns[0].say("a")
		start := time.Now()
		s := <-began
		require.Zero(t, time.Since(start))
		b := asks(t.Context(), s, "b")
		require.Equal(t, "b", conns[0].line())
		conns[0].say("b")
		requireReply(t, b, "b")
		require.NoError(t, s.Close())
	})
}

// Contexts end at every byte of a session's replies: the next Do gets its own.
func TestASessionSkipsTheRepliesOfThoseWhoGaveUp(t *testing.T) {
	for n := range len("*p\nabc\n") {
		for _, closes := range []bool{true, false} {
			bubble(t, 2, func(t *testing.T, w *world, conns []*fakeConn) {
				c := w.ordered()
				s := opened(t, c)
				mine := conns[0]
				ctx, cancel := context.WithCancel(t.Context())
				gone := asks(ctx, s, "abc")
				require.Equal(t, "abc", mine.line())
				mine.peer.Send("*p\nabc\n"[:n])
				synctest.Wait()
				cancel()
				requireError(t, gone, true, context.Canceled)
				if closes {
					require.Error(t, s.Close())
					synctest.Wait()
					require.Equal(t, 1, mine.Closes())
					return
				}
				next := asks(t.Context(), s, "next")
				require.Equal(t, "next", mine.line())
				mine.peer.Send("*p\nabc\n"[n:] + "next\n")
				requireReply(t, next, "next")
				require.Equal(t, uint64(1), c.Stats().Late)
				require.NoError(t, s.Close())
				synctest.Wait()
				require.Zero(t, mine.Closes())
			})
		}
	}
}

func TestASessionEndsWithItsConnection(t *testing.T) {
	for name, test := range map[string]struct {
		end   func(w *world, c *client, s *session, conn *fakeConn)
		cause error
	}{
		"reset":            {func(_ *world, _ *client, _ *session, conn *fakeConn) { conn.reset() }, syscall.ECONNRESET},
		"FIN":              {func(_ *world, _ *client, _ *session, conn *fakeConn) { conn.fin() }, io.EOF},
		"nonsense":         {func(_ *world, _ *client, _ *session, conn *fakeConn) { conn.say("?") }, errBadLine},
		"client":           {func(_ *world, c *client, _ *session, _ *fakeConn) { _ = c.Close() }, request.ErrClosed},
		"multiplexer":      {func(w *world, _ *client, _ *session, _ *fakeConn) { _ = w.mux.Close() }, plex.ErrClosed},
		"kill":             {func(_ *world, _ *client, s *session, _ *fakeConn) { _ = s.Kill() }, nil},
		"close under a Do": {func(_ *world, _ *client, s *session, _ *fakeConn) { _ = s.Close() }, nil},
	} {
		for _, written := range []int{-1, 1, 0} { // how much of the request can be written; -1: all
			t.Run(fmt.Sprint(name, " ", written), func(t *testing.T) {
				bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
					c := w.ordered()
					s := opened(t, c)
					conns[0].allow(written)
					a := asks(t.Context(), s, "abc")
					synctest.Wait()
					test.end(w, c, s, conns[0])
					if written >= 0 && (name == "FIN" || name == "nonsense") {
						time.Sleep(11 * time.Second) // nothing is read before the request is written or times out
					}
					o := ended(t, a)
					var e *request.Error
					require.ErrorAs(t, o.err, &e)
					require.Equal(t, written != 0, e.MaybeSent, "%v", o.err)
					if test.cause != nil && written < 0 {
						require.ErrorIs(t, o.err, test.cause)
					}
					_ = s.Kill()
					synctest.Wait()
					require.Equal(t, 1, conns[0].Closes())
				})
			})
		}
	}
}

func TestAReplyTooManyEndsASession(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.ordered()
		s := opened(t, c)
		a := asks(t.Context(), s, "a")
		require.Equal(t, "a", conns[0].line())
		conns[0].say("a", "b")
		requireReply(t, a, "a")
		require.ErrorIs(t, s.Close(), request.ErrOutOfStep)
		synctest.Wait()
		require.Equal(t, 1, conns[0].Closes())
	})
}

func TestSessionsThatCannotBegin(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, _ []*fakeConn) {
		c := w.ordered()
		s := opened(t, c)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.Session(ctx)
		requireIs(t, err, false, context.DeadlineExceeded)
		var none *plex.AcquireError
		require.ErrorAs(t, err, &none)
		failed := make(chan error)
		go func() {
			_, err := c.Session(t.Context())
			failed <- err
		}()
		synctest.Wait()
		require.NoError(t, c.Close())
		requireIs(t, <-failed, false, request.ErrClosed)
		_, err = c.Session(t.Context())
		requireIs(t, err, false, request.ErrClosed)
		require.ErrorIs(t, s.Close(), request.ErrClosed)
	})
	bubble(t, 1, func(t *testing.T, w *world, _ []*fakeConn) {
		_, err := w.client().Session(t.Context())
		require.ErrorContains(t, err, "sessions need NewOrdered")
	})
}

func TestASessionSharesTheStateOfItsConnectionsSplitFunction(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.ordering(counting{})
		answer := func(a <-chan outcome, text string) {
			conns[0].say(conns[0].line())
			requireReply(t, a, text)
		}
		answer(asking(t.Context(), c, "a"), "a1")
		s := opened(t, c)
		answer(asks(t.Context(), s, "a"), "a2")
		require.NoError(t, s.Close())
		answer(asking(t.Context(), c, "a"), "a3")
	})
}

// A transaction: nobody else's request goes between those of a session.
func ExampleClient_Session() {
	address, stop := exampleService(func(first, _ string) string { return strings.ToUpper(first) + "\n" })
	defer stop()
	mux, err := plex.New(context.Background(), plex.WithConnector(plex.Dial("tcp", address)),
		plex.WithMinConnections(1), plex.WithMaxCapacity(2))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mux.Close()
	client, err := request.NewOrdered(mux, lines{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	session, err := client.Session(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, command := range []string{"begin", "set", "commit"} {
		reply, err := session.Do(context.Background(), command)
		fmt.Println(reply, err)
	}
	fmt.Println(session.Close())

	// Output:
	// BEGIN <nil>
	// SET <nil>
	// COMMIT <nil>
	// <nil>
}

// Sessions beside requests, with contexts that end at any moment, resets and stalls: every reply is
// that of its own request, and nobody else's request goes between those of a session.
func TestSessionsBesideRequestsAtRandom(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			var servers sync.WaitGroup
			var mu sync.Mutex
			setUp := rand.New(rand.NewPCG(seed, 1))
			var logs []*[]string // what each connection was asked
			serve := func(c *fakeConn) {
				mu.Lock()
				defer mu.Unlock()
				random := rand.New(rand.NewPCG(seed, setUp.Uint64()))
				log := new([]string)
				logs = append(logs, log)
				servers.Go(func() { answering(c, random, log) })
				if setUp.IntN(4) == 0 {
					time.AfterFunc(time.Duration(setUp.IntN(20000))*time.Microsecond, c.reset)
				}
			}
			healing(t, 3, serve, func(t *testing.T, w *world) {
				c := w.ordered(request.WithDepth(1 + int(seed%9)))
				var wg sync.WaitGroup
				done := make([]int, 12)
				for caller := range done {
					random := rand.New(rand.NewPCG(seed, uint64(100+caller)))
					do := func(f func(context.Context, string) ([]byte, error), text string) {
						ctx, cancel := context.WithTimeout(t.Context(), time.Duration(random.IntN(8000))*time.Microsecond)
						defer cancel()
						if got, err := f(ctx, text); err == nil {
							require.Equal(t, text, string(got))
							done[caller]++
						}
					}
					wg.Go(func() {
						for i := range 20 {
							text := fmt.Sprintf("%d-%d", caller, i)
							if caller >= 3 {
								do(c.Do, text)
								continue
							}
							s, err := c.Session(t.Context())
							require.NoError(t, err)
							for part := range 4 {
								do(s.Do, fmt.Sprintf("session %s-%d", text, part))
							}
							_ = s.Close()
						}
					})
				}
				wg.Wait()
				require.Greater(t, done[0]+done[1]+done[2], 0)
				others := 0
				for _, n := range done[3:] {
					others += n
				}
				require.Greater(t, others, 0)
				require.NoError(t, c.Close())
				require.NoError(t, w.mux.Close())
				servers.Wait()
				for _, log := range logs {
					ended := make(map[string]bool)
					last := ""
					for _, text := range *log {
						name := ""
						if strings.HasPrefix(text, "session") {
							name = text[:strings.LastIndex(text, "-")]
							require.False(t, ended[name], "something went between: %q", *log)
						}
						if name != last {
							ended[last] = last != ""
						}
						last = name
					}
				}
			})
		})
	}
}
