package message_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
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
)

func TestNewRefusesBadArguments(t *testing.T) {
	bubble(t, 1, func(w *world, m *plex.Multiplexer) {
		for _, c := range []struct {
			name    string
			m       *plex.Multiplexer
			split   bufio.SplitFunc
			options []message.Option
			says    []string
		}{
			{"no multiplexer", nil, message.Lines, nil, []string{"multiplexer is nil", "plex.New"}},
			{"no split function", m, nil, nil, []string{"split function is nil", "Lines"}},
			{"an empty delimiter", m, message.Delimiter(nil), nil, []string{"split function is nil", "empty delimiter"}},
			{"a nil option", m, message.Lines, []message.Option{message.WithMaxSize(1), nil}, []string{"option 2 is nil"}},
			{"size 0", m, message.Lines, []message.Option{message.WithMaxSize(0)}, []string{"WithMaxSize(0)", "at least 1"}},
			{"size -7", m, message.Lines, []message.Option{message.WithMaxSize(-7)}, []string{"WithMaxSize(-7)", "at least 1"}},
			{
				"a size that nothing has", m, message.Lines,
				[]message.Option{message.WithMaxSize(int(^uint(0) >> 1))},
				[]string{"WithMaxSize", "memory"},
			},
		} {
			r, err := message.New(c.m, c.split, c.options...)
			require.Error(w, err, c.name)
			require.Nil(w, r, c.name)
			for _, says := range c.says {
				require.ErrorContains(w, err, says, c.name)
			}
		}
	})
}

func TestMessagesOfAllConnectionsComeWholeAndInOrder(t *testing.T) {
	bubble(t, 3, func(w *world, m *plex.Multiplexer) {
		l := start(w, receiver(w, m, message.Lines), nil)

		// Cut in many places.
		w.peers[0].SendSegments("a1\na2\na", "3\n", "a", "4", "\n")
		w.peers[1].SendSegments("b1", "\nb2\n")
		w.peers[2].SendSegments("\n\nc3\r", "\nc4\n")
		settle()

		var words [3][]string
		conns := l.names()
		for i, word := range l.words() {
			c := slices.IndexFunc(w.peers, func(c *fakenet.Peer) bool { return c.LocalAddr() == conns[i].RemoteAddr() })
			words[c] = append(words[c], word)
		}
		require.Equal(w, [3][]string{{"a1", "a2", "a3", "a4"}, {"b1", "b2"}, {"", "", "c3", "c4"}}, words)
		require.Empty(w, l.errors)
	})
}

func TestAConnectionThatComesLaterIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		connected := make(chan *fakenet.Peer, 10)
		m := w.mux(plex.WithMinConnections(1), plex.WithMaxCapacity(2),
			plex.WithConnector(plex.DialFunc(func(context.Context) (net.Conn, error) {
				c, p := w.Pair()
				connected <- p
				return c, nil
			})))
		l := start(t, receiver(t, m, message.Lines), nil)

		first := <-connected
		first.SendSegments("one\n")
		_ = first.CloseWrite()
		healed := <-connected
		healed.SendSegments("two\n")
		settle() // until the first one's slot is free
		conn, added := w.Pair()
		rest, err := m.Add(t.Context(), conn)
		require.NoError(t, err)
		require.Empty(t, rest)
		added.SendSegments("three\n")
		settle()

		require.ElementsMatch(t, []string{"one", "two", "three"}, l.words())
		require.NotEqual(t, l.names()[0], l.names()[1], "a connection and its replacement")
	})
}

func TestAMessageHasMemoryOfItsOwn(t *testing.T) {
	bubble(t, 1, func(w *world, m *plex.Multiplexer) {
		var all [][]byte
		l := start(w, receiver(w, m, message.Lines), func(m message.Message) {
			require.Equal(w, len(m.Data), cap(m.Data), "room for what comes behind it")
			all = append(all, m.Data)
		})
		w.peers[0].SendSegments("one\n\ntwo\nthr", "ee\n")
		settle()
		l.stop()
		require.Equal(w, "one,,two,three", string(bytes.Join(all, []byte(","))))
		require.NotNil(w, all[1], "an empty message")
	})
}

func TestALoopThatIsLeftLosesNothing(t *testing.T) {
	bubble(t, 2, func(w *world, m *plex.Multiplexer) {
		r := receiver(w, m, message.Lines)
		w.peers[0].SendSegments("a1\na2\na3\na")
		require.Equal(w, []string{"a1"}, take(w, r, 1))
		require.Zero(w, m.Stats().LeasedReaders, "a lease outlives the loop")
		require.Equal(w, 1, r.Leftovers())

		// What is left comes before what arrives, even if that arrives before the next loop.
		w.peers[0].SendSegments("4\na5\n")
		require.Equal(w, []string{"a2", "a3"}, take(w, r, 2))
		require.Equal(w, []string{"a4", "a5"}, take(w, r, 2))

		w.peers[1].SendSegments("b1\nb2\n")
		require.Equal(w, []string{"b1", "b2"}, take(w, r, 2))
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		for m, err := range r.All(ctx) {
			require.ErrorIs(w, err, context.DeadlineExceeded, "something came: %q", m.Data)
		}
		require.Zero(w, r.Leftovers(), "something is kept of connections that nothing is left of")
	})
}

// The loop is left after each message, while everything has arrived from the start, including the
// EOF.
func TestALoopForEachMessage(t *testing.T) {
	bubble(t, 1, func(w *world, m *plex.Multiplexer) {
		r := receiver(w, m, message.Lines)
		w.peers[0].SendSegments("1\n2\n3\n4\n5\n6")
		_ = w.peers[0].CloseWrite()
		for _, want := range []string{"1", "2", "3", "4", "5", "cut(6)"} {
			require.Equal(w, []string{want}, take(w, r, 1))
		}
		require.Equal(w, []string{"end"}, take(w, r, 1))
		require.Zero(w, r.Leftovers())
	})
}

func TestALoopBodyThatPanicsLosesItsMessageOnly(t *testing.T) {
	bubble(t, 1, func(w *world, m *plex.Multiplexer) {
		r := receiver(w, m, message.Lines)
		w.peers[0].SendSegments("one\ntwo\nthree\n")
		require.PanicsWithValue(w, "one", func() {
			for m := range r.All(w.Context()) {
				panic(string(m.Data))
			}
		})
		require.Zero(w, m.Stats().LeasedReaders)
		require.Equal(w, []string{"two", "three"}, take(w, r, 2))
	})
}

func TestSeveralLoopsGetEachMessageOnceAndAConnectionOneAtATime(t *testing.T) {
	bubble(t, 3, func(w *world, m *plex.Multiplexer) {
		r := receiver(w, m, message.Lines)
		var (
			mu   sync.Mutex
			busy = map[plex.Conn]bool{}
			got  = map[plex.Conn][]string{}
		)
		body := func(m message.Message) {
			mu.Lock()
			require.False(w, busy[m.Conn], "two loops have the connection")
			busy[m.Conn] = true
			mu.Unlock()
			time.Sleep(time.Millisecond)
			mu.Lock()
			busy[m.Conn] = false
			got[m.Conn] = append(got[m.Conn], string(m.Data))
			mu.Unlock()
		}
		loops := []*loop{start(w, r, body), start(w, r, body)}
		const n = 60
		for i := range n {
			for _, c := range w.peers {
				c.SendSegments(fmt.Sprintf("%d\n%d", 2*i, 2*i+1), "\n")
			}
			if i%10 == 9 { // leave one loop at any point, and start another
				time.Sleep(15 * time.Millisecond)
				loops[i/10%2].stop()
				loops[i/10%2] = start(w, r, body)
			}
		}
		time.Sleep(time.Second)
		want := []string{}
		for i := range 2 * n {
			want = append(want, fmt.Sprint(i))
		}
		mu.Lock()
		defer mu.Unlock()
		require.Len(w, got, 3)
		for _, words := range got {
			require.Equal(w, want, words)
		}
	})
}

// One loop slowly delivers what an earlier one has left, while more arrives. Another loop must not
// overtake it.
func TestWhatIsLeftIsNotOvertakenByWhatArrives(t *testing.T) {
	bubble(t, 1, func(w *world, m *plex.Multiplexer) {
		r := receiver(w, m, message.Lines)
		w.peers[0].SendSegments("1\n2\n3\n")
		require.Equal(w, []string{"1"}, take(w, r, 1))

		step := make(chan struct{})
		var both []string
		slow := start(w, r, func(m message.Message) { both = append(both, string(m.Data)); <-step })
		settle() // it has 2
		fast := start(w, r, func(m message.Message) { both = append(both, string(m.Data)) })
		w.peers[0].SendSegments("4\n", "5\n")
		settle()
		require.Equal(w, []string{"2"}, slow.words())
		require.Empty(w, fast.words())

		step <- struct{}{} // it has 3
		settle()
		require.Empty(w, fast.words())
		close(step)
		settle()
		require.Equal(w, []string{"2", "3"}, slow.words()[:2])
		require.Equal(w, []string{"2", "3", "4", "5"}, both)
	})
}

func TestALoopEndsWithItsContext(t *testing.T) {
	bubble(t, 1, func(w *world, m *plex.Multiplexer) {
		r := receiver(w, m, message.Lines)
		reason := errors.New("enough")
		ctx, cancel := context.WithCancelCause(w.Context())
		defer cancel(nil)
		var words []string
		w.peers[0].SendSegments("1\n2\n3\n")
		var last error
		for m, err := range r.All(ctx) {
			if last = err; err == nil {
				words = append(words, string(m.Data))
				cancel(reason)
				synctest.Wait()
			}
		}
		require.Equal(w, []string{"1"}, words, "after ctx has ended")
		require.ErrorIs(w, last, context.Canceled)
		require.ErrorIs(w, last, reason)
		require.Zero(w, m.Stats().LeasedReaders)

		for range r.All(ctx) { // it has ended: one pair
			words = append(words, "pair")
		}
		require.Equal(w, []string{"1", "pair"}, words)
		require.Equal(w, []string{"2", "3"}, take(w, r, 2), "for the next loop")

		l := start(w, r, nil)
		settle()
		l.stop()
		require.ErrorIs(w, l.end, context.Canceled, "one that waits")
		require.Zero(w, r.Leftovers())
	})
}

func TestANilContextIsAnError(t *testing.T) {
	bubble(t, 1, func(w *world, m *plex.Multiplexer) {
		r := receiver(w, m, message.Lines)
		var none context.Context
		pairs := 0
		for m, err := range r.All(none) {
			require.ErrorContains(w, err, "nil context")
			require.Zero(w, m)
			pairs++
		}
		require.Equal(w, 1, pairs)
		got := <-r.Channel(none, 0)
		require.ErrorContains(w, got.Err, "nil context")
		ch := r.Channel(w.Context(), -1)
		require.ErrorContains(w, (<-ch).Err, "buffer of -1")
		_, open := <-ch
		require.False(w, open)
	})
}

// The transport refuses deadlines, or seems to when plex asks. What has been read of a message stays.
func TestALoopEndsWithItsContextThoughDeadlinesAreRefused(t *testing.T) {
	for _, refuses := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			conn, c := w.Pair()
			conn.TreatDeadlines(fakenet.DeadlinesRefused)
			m := w.mux(plex.WithConnections(conn))
			if !refuses {
				conn.TreatDeadlines(fakenet.DeadlinesKept)
			}
			r := receiver(w, m, message.Lines)
			l := start(w, r, nil)
			c.SendSegments("one\ntw")
			settle()
			require.Equal(w, []string{"one"}, l.words())
			l.stop()
			require.ErrorIs(w, l.end, context.Canceled)
			require.Zero(w, m.Stats().LeasedReaders)
			c.SendSegments("o\n")
			require.Equal(w, []string{"two"}, take(w, r, 1), "which costs nothing")
		})
	}
}

func TestClosingTheMultiplexerEndsTheLoops(t *testing.T) {
	for name, end := range map[string]func(*plex.Multiplexer) error{
		"Close":    (*plex.Multiplexer).Close,
		"Shutdown": func(m *plex.Multiplexer) error { return m.Shutdown(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 2, func(w *world, m *plex.Multiplexer) {
				r := receiver(w, m, message.Lines)
				loops := []*loop{start(w, r, nil), start(w, r, nil)}
				w.peers[0].SendSegments("one\ntw")
				settle()
				require.NoError(w, end(m))
				var words []string
				for _, l := range loops {
					<-l.done
					require.ErrorIs(w, l.end, plex.ErrClosed)
					words = append(words, l.words()...)
				}
				require.ElementsMatch(w, []string{"one", "cut(tw)"}, words)
				require.Zero(w, r.Leftovers())
			})
		})
	}
}

func TestWhatIsLeftWhenTheMultiplexerClosesIsDeliveredLater(t *testing.T) {
	bubble(t, 2, func(w *world, m *plex.Multiplexer) {
		r := receiver(w, m, message.Lines)
		w.peers[0].SendSegments("1\n2\n3")
		require.Equal(w, []string{"1"}, take(w, r, 1))
		require.NoError(w, m.Close())
		synctest.Wait()
		require.Equal(w, []string{"2", "cut(3)", "end"}, take(w, r, 3))
		require.Zero(w, r.Leftovers())
	})
}

func TestTheLossOfTheLastConnectionEndsTheLoops(t *testing.T) {
	bubble(t, 1, func(w *world, m *plex.Multiplexer) {
		r := receiver(w, m, message.Lines)
		l := start(w, r, nil)
		w.peers[0].SendSegments("one\ntw")
		settle()
		_ = w.peers[0].CloseWrite()
		<-l.done
		require.ErrorIs(w, l.end, plex.ErrNoConnections)
		require.Equal(w, []string{"one", "cut(tw)"}, l.words())

		conn, c := w.Pair()
		_, err := m.Add(w.Context(), conn)
		require.NoError(w, err)
		c.SendSegments("three\n")
		require.Equal(w, []string{"three"}, take(w, r, 1), "after an Add it goes on")
	})
}

func TestAMessageThatIsCutOffIsReported(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(w *world, m *plex.Multiplexer)
		why  error
	}{
		{"clean end", func(w *world, _ *plex.Multiplexer) { _ = w.peers[0].CloseWrite() }, io.ErrUnexpectedEOF},
		{"reset", func(w *world, _ *plex.Multiplexer) { w.peers[0].Break(syscall.ECONNRESET, true) }, syscall.ECONNRESET},
		{
			"killed by a writer",
			func(w *world, m *plex.Multiplexer) { killed(w, m, w.peers[0]) }, plex.ErrKilled,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, 2, func(w *world, m *plex.Multiplexer) {
				r := receiver(w, m, message.Lines)
				l := start(w, r, nil)
				w.peers[0].SendSegments("whole\nbegin")
				settle()
				c.end(w, m)
				settle()
				require.Equal(w, []string{"whole", "cut(begin)"}, l.words(), "without anything else having happened")
				w.peers[1].SendSegments("other\n")
				settle()
				require.Equal(w, []string{"whole", "cut(begin)", "other"}, l.words())
				require.ErrorIs(w, l.err(), c.why)
				require.ErrorContains(w, l.err(), "from "+w.peers[0].LocalAddr().String())
				require.ErrorContains(w, l.err(), "after 5 bytes")
				require.Zero(w, r.Leftovers())
			})
		})
	}
}

// A Read returns a deadline error though nobody has set a deadline.
func TestADeadlineErrorWithoutADeadlineIsTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		conn, c := w.Pair()
		conn.TreatDeadlines(fakenet.DeadlinesRefused)
		m := w.mux(plex.WithConnections(conn))
		l := start(t, receiver(t, m, message.Lines), nil)
		c.SendSegments("whole\nbegin")
		settle()
		c.Break(os.ErrDeadlineExceeded, true)
		settle()
		require.Equal(t, []string{"whole", "cut(begin)"}, l.words())
		require.ErrorIs(t, l.err(), os.ErrDeadlineExceeded)
		require.True(t, closed(c))
		<-l.done
	})
}

// An error after the last bytes does not say whether the peer was done, so split is not called with
// atEOF.
func TestOnlyACleanEndIsAnEnd(t *testing.T) {
	for want, end := range map[string]func(*fakenet.Peer){
		"line":      func(p *fakenet.Peer) { _ = p.CloseWrite() },
		"cut(line)": func(p *fakenet.Peer) { p.Break(syscall.ECONNRESET, true) },
	} {
		bubble(t, 2, func(w *world, m *plex.Multiplexer) {
			l := start(w, receiver(w, m, bufio.ScanLines), nil)
			w.peers[0].SendSegments("line")
			end(w.peers[0])
			settle()
			require.Equal(w, []string{want}, l.words())
		})
	}
}

// The split function records its calls, which are those that a bufio.Scanner would make.
func TestSplitIsAskedAsAScannerAsks(t *testing.T) {
	bubble(t, 2, func(w *world, m *plex.Multiplexer) {
		var calls []string
		l := start(w, receiver(w, m, func(data []byte, atEOF bool) (int, []byte, error) {
			calls = append(calls, fmt.Sprintf("%s %v", data, atEOF))
			return bufio.ScanWords(data, atEOF)
		}), nil)
		w.peers[0].SendSegments("  a b", "c ")
		settle()
		w.peers[0].SendSegments("d")
		settle()
		_ = w.peers[0].CloseWrite()
		settle()
		require.Equal(w, []string{"a", "bc", "d"}, l.words())
		require.Equal(w, []string{
			"  a b false", "b false", "bc  false", "d false", "d true", " true",
		}, calls)
	})
}

func TestAMessageThatIsTooLongCostsItsConnectionAlone(t *testing.T) {
	announced := "\x00\x00\x00\x0b" // 11 bytes, of which none comes
	line, frame := "0123456789\r\n", "\x00\x00\x00\x0a0123456789"
	for _, c := range []struct {
		name    string
		split   bufio.SplitFunc
		chunks  []string
		size    uint64
		longest string // that may come
	}{
		{"all there", message.Lines, []string{"0123456789a\nx\n"}, 11, line},
		{"announced", message.Prefix{Bytes: 4, Max: 10}.Split, []string{announced}, 11, frame},
		{
			"announced to a Prefix that allows more", message.Prefix{Bytes: 4}.Split,
			[]string{announced, "0123456789a"},
			11, frame,
		},
		{
			"without an end", message.Lines,
			slices.Repeat([]string{"0123456789"}, (10+message.Framing)/10+1), 10 + message.Framing, line,
		},
		{
			"more and more of it", func([]byte, bool) (int, []byte, error) { return 0, nil, nil },
			[]string{strings.Repeat("x", 10+message.Framing)},
			10 + message.Framing, "",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, 2, func(w *world, m *plex.Multiplexer) {
				r := receiver(w, m, c.split, message.WithMaxSize(10))
				l := start(w, r, nil)
				w.peers[0].SendSegments(c.chunks...)
				settle()
				require.Equal(w, []string{"long"}, l.words())
				var long *message.TooLongError
				require.ErrorAs(w, l.err(), &long)
				require.Equal(w, 10, long.Max)
				require.GreaterOrEqual(w, long.Size, c.size)
				require.Equal(w, w.peers[0].LocalAddr(), long.Conn.RemoteAddr())
				require.ErrorContains(w, long, "from "+w.peers[0].LocalAddr().String())
				require.True(w, closed(w.peers[0]))
				require.EqualValues(w, 1, m.Stats().Killed)
				require.Zero(w, r.Leftovers())

				if c.longest == "" {
					return
				}
				w.peers[1].SendSegments(c.longest)
				settle()
				require.Equal(w, "0123456789", l.words()[len(l.words())-1], "the longest that is allowed")
			})
		})
	}
}

func TestALongMessageComesWhole(t *testing.T) {
	bubble(t, 2, func(w *world, m *plex.Multiplexer) {
		const size = 3 << 20
		var bodies [][]byte
		r := receiver(w, m, message.Prefix{Bytes: 4, Max: size}.Split, message.WithMaxSize(size))
		l := start(w, r, func(m message.Message) { bodies = append(bodies, m.Data) })
		body := make([]byte, size)
		for i := range body {
			body[i] = byte(i * 7 >> 3)
		}
		frame, err := message.Prefix{Bytes: 4, Max: size}.Append(nil, body)
		require.NoError(w, err)
		frame, err = message.Prefix{Bytes: 4}.Append(frame, []byte("next"))
		require.NoError(w, err)
		for len(frame) > 0 {
			n := min(len(frame), 30_011)
			w.peers[0].SendSegments(string(frame[:n]))
			frame = frame[n:]
		}
		w.peers[1].SendSegments("\x00\x00\x00\x02hi")
		time.Sleep(time.Minute)
		l.stop()
		require.Len(w, bodies, 3)
		require.Equal(w, "hi", string(bodies[0]), "the long one holds up the others")
		require.True(w, bytes.Equal(body, bodies[1]))
		require.Equal(w, "next", string(bodies[2]))
		require.Zero(w, r.Leftovers())
	})
}

// badError is an error that does something when errors.Is asks it.
type badError struct{ is func() }

func (badError) Error() string     { return "bad" }
func (e badError) Is(_ error) bool { e.is(); return false }

func TestASplitFunctionThatGoesWrongCostsItsConnectionAlone(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name  string
		split func(data []byte) (int, []byte, error)
		is    error
		says  []string
	}{
		{"an error", func([]byte) (int, []byte, error) { return 0, nil, broken }, broken, []string{"broken"}},
		{"a panic", func([]byte) (int, []byte, error) { panic("oh") }, nil, []string{"panicked: oh", "receive_test.go"}},
		{
			"backwards", func([]byte) (int, []byte, error) { return -2, nil, nil },
			bufio.ErrNegativeAdvance,
			[]string{"by -2 bytes"},
		},
		{
			"too far", func(data []byte) (int, []byte, error) { return len(data) + 1, data, nil },
			bufio.ErrAdvanceTooFar,
			[]string{"by 9 of 8 bytes"},
		},
		{
			"no progress", func(data []byte) (int, []byte, error) { return 0, data[:1], nil },
			nil,
			[]string{"without advancing"},
		},
		{
			"no progress with nothing", func(data []byte) (int, []byte, error) { return 0, data[:0], nil },
			nil,
			[]string{"without advancing"},
		},
		{
			"a nil pointer in an error", func([]byte) (int, []byte, error) { return 0, nil, (*message.SplitError)(nil) },
			nil,
			[]string{"panicked"},
		},
		{
			"a nil TooLongError", func([]byte) (int, []byte, error) { return 0, nil, (*message.TooLongError)(nil) },
			nil,
			[]string{"nil"},
		},
		{
			"an error that panics when it is looked into",
			func([]byte) (int, []byte, error) { return 0, nil, badError{func() { panic("Is") }} },
			nil,
			[]string{"panicked: Is"},
		},
		{
			"an advance and an error", func([]byte) (int, []byte, error) { return -1, []byte("x"), broken },
			broken,
			[]string{"broken"},
		},
		{
			"an impossible final token", func([]byte) (int, []byte, error) { return -1, nil, bufio.ErrFinalToken },
			bufio.ErrNegativeAdvance,
			[]string{"by -1 bytes"},
		},
		{
			"an end before the end", func([]byte) (int, []byte, error) { return 0, nil, io.ErrUnexpectedEOF },
			io.ErrUnexpectedEOF,
			[]string{"unexpected EOF"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, 2, func(w *world, m *plex.Multiplexer) {
				r := receiver(w, m, func(data []byte, atEOF bool) (int, []byte, error) {
					if data[0] == '!' {
						return c.split(data)
					}
					return message.Lines(data, atEOF)
				})
				l := start(w, r, nil)
				w.peers[0].SendSegments("good\n!bad\nxx\n")
				settle()
				w.peers[1].SendSegments("other\n")
				settle()
				require.Equal(w, []string{"good", "split", "other"}, l.words())
				if c.is != nil {
					require.ErrorIs(w, l.err(), c.is)
				}
				for _, says := range append(c.says, w.peers[0].LocalAddr().String(), "split function") {
					require.ErrorContains(w, l.err(), says)
				}
				require.True(w, closed(w.peers[0]))
				require.EqualValues(w, 1, m.Stats().Killed)
				require.Zero(w, r.Leftovers())
			})
		})
	}
}

// The fault is found by a loop that has no lease, because it delivers what another loop has left.
func TestAConnectionThatIsFoundBadWithoutALeaseIsKilledAtOnce(t *testing.T) {
	bad := func(data []byte, atEOF bool) (int, []byte, error) {
		advance, token, err := message.Lines(data, atEOF)
		switch string(token) {
		case "bad":
			return 0, nil, errors.New("bad")
		case "bye":
			return advance, token, bufio.ErrFinalToken
		}
		return advance, token, err
	}
	for sent, want := range map[string]string{"1\nbad\n2\n": "split", "1\ntoo long\n2\n": "long", "1\nbye\n2\n": "bye"} {
		bubble(t, 2, func(w *world, m *plex.Multiplexer) {
			r := receiver(w, m, bad, message.WithMaxSize(4))
			w.peers[0].SendSegments(sent)
			require.Equal(w, []string{"1"}, take(w, r, 1))
			require.Equal(w, []string{want}, take(w, r, 1))
			synctest.Wait()
			require.True(w, closed(w.peers[0]))
			require.EqualValues(w, 1, m.Stats().Killed)
			require.Zero(w, r.Leftovers(), "something is kept of a connection that has ended")

			l := start(w, r, nil)
			w.peers[1].SendSegments("3\n")
			settle()
			require.Equal(w, []string{"3"}, l.words())
		})
	}
}

// A loop starts at the same moment, and more has arrived. The loop may be first, but it must not
// read on behind what Kill has given up.
func TestNothingIsReadBehindWhatAKillHasGivenUp(t *testing.T) {
	for range 500 {
		bubble(t, 1, func(w *world, m *plex.Multiplexer) {
			r := receiver(w, m, message.Lines)
			w.peers[0].SendSegments("1\n2\n", "3\n")
			var conn plex.Conn
			for m, err := range r.All(w.Context()) {
				require.NoError(w, err)
				conn = m.Conn
				break
			}
			go r.Kill(conn)
			l := start(w, r, nil)
			settle()
			require.Contains(w, [][]string{{}, {"2"}, {"2", "3"}}, l.words())
			require.EqualValues(w, 1, m.Stats().Killed)
			require.Zero(w, r.Leftovers())
		})
	}
}

// The data ends, and the split function finds one empty message after another in no data.
func TestEmptyMessagesDoNotComeForever(t *testing.T) {
	bubble(t, 3, func(w *world, m *plex.Multiplexer) {
		asked := 0
		r := receiver(w, m, func([]byte, bool) (int, []byte, error) {
			asked++
			return 0, []byte{}, nil
		})
		l := start(w, r, nil)
		_ = w.peers[0].CloseWrite()
		settle()
		w.peers[1].SendSegments("x")
		settle()
		require.Equal(w, []string{"", "split"}, l.words())
		require.Equal(w, 2, asked)
		require.ErrorContains(w, l.err(), "without advancing")
		require.Equal(w, 1, m.Stats().Open)
	})
}

// Otherwise it would end the next loop's goroutine as well, and so on.
func TestASplitFunctionThatEndsItsGoroutineIsAskedOnce(t *testing.T) {
	bubble(t, 2, func(w *world, m *plex.Multiplexer) {
		asked := 0
		r := receiver(w, m, func(data []byte, atEOF bool) (int, []byte, error) {
			if bytes.HasPrefix(data, []byte("!")) {
				asked++
				runtime.Goexit()
			}
			return message.Lines(data, atEOF)
		})
		first := start(w, r, nil)
		w.peers[0].SendSegments("one\n!\ntwo\n")
		<-first.done
		require.Equal(w, []string{"one"}, first.words())
		next := start(w, r, nil)
		settle()
		w.peers[1].SendSegments("other\n")
		settle()
		require.Equal(w, []string{"split", "other"}, next.words())
		require.ErrorContains(w, next.err(), "runtime.Goexit")
		require.Equal(w, 1, asked)
		require.True(w, closed(w.peers[0]))
		require.EqualValues(w, 1, m.Stats().Killed)
		require.Zero(w, r.Leftovers())
	})
}

func TestFinalTokenEndsAConnection(t *testing.T) {
	bye := func(data []byte, atEOF bool) (int, []byte, error) {
		advance, token, err := message.Lines(data, atEOF)
		switch string(token) {
		case "bye":
			return advance, token, bufio.ErrFinalToken
		case "gone":
			return 0, nil, bufio.ErrFinalToken
		}
		return advance, token, err
	}
	for sent, want := range map[string][]string{"hello\nbye\nmore\n": {"hello", "bye"}, "hello\ngone\n": {"hello"}} {
		bubble(t, 2, func(w *world, m *plex.Multiplexer) {
			r := receiver(w, m, bye)
			l := start(w, r, nil)
			w.peers[0].SendSegments(sent)
			settle()
			require.Equal(w, want, l.words())
			require.True(w, closed(w.peers[0]))
			require.Zero(w, r.Leftovers())
		})
	}
	// At the end of the data it just marks the last message, as in bufio's own example.
	commas := func(data []byte, atEOF bool) (int, []byte, error) {
		if i := bytes.IndexByte(data, ','); i >= 0 {
			return i + 1, data[:i], nil
		}
		if !atEOF {
			return 0, nil, nil
		}
		return 0, data, bufio.ErrFinalToken
	}
	for sent, want := range map[string][]string{"1,2,3": {"1", "2", "3"}, "1,2,": {"1", "2", ""}} {
		bubble(t, 2, func(w *world, m *plex.Multiplexer) {
			l := start(w, receiver(w, m, commas), nil)
			w.peers[0].SendSegments(sent)
			_ = w.peers[0].CloseWrite()
			settle()
			require.Equal(w, want, l.words())
		})
	}
}

func TestDataThatIsNoMessageIsPassedOver(t *testing.T) {
	bubble(t, 2, func(w *world, m *plex.Multiplexer) {
		l := start(w, receiver(w, m, func(data []byte, atEOF bool) (int, []byte, error) {
			if len(data) > 0 && data[0] == '#' {
				advance, _, err := message.Lines(data, atEOF)
				return advance, nil, err
			}
			return message.Lines(data, atEOF)
		}), nil)
		w.peers[0].SendSegments("#a\n#b\none\n#c", "\n#d\ntwo\n#e\n#f\nthree\n")
		_ = w.peers[0].CloseWrite()
		settle()
		require.Equal(w, []string{"one", "two", "three"}, l.words())
	})
}

func TestAConnectionIsNotRetiredInTheMiddleOfAMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		connected := make(chan *fakenet.Peer, 100)
		m := w.mux(plex.WithMinConnections(1), plex.WithMaxCapacity(2),
			plex.WithMaxLifetime(time.Minute), plex.WithRetireGrace(24*time.Hour),
			plex.WithConnector(plex.DialFunc(func(context.Context) (net.Conn, error) {
				c, p := w.Pair()
				connected <- p
				return c, nil
			})))
		r := receiver(t, m, message.Lines)
		l := start(t, r, nil)
		first := <-connected
		first.SendSegments("o")
		time.Sleep(10 * time.Minute)
		require.False(t, closed(first))
		first.SendSegments("ne\n")
		settle()
		require.Equal(t, []string{"one"}, l.words())
		time.Sleep(10 * time.Minute)
		require.True(t, closed(first), "nothing keeps it any more")
		require.Equal(t, []string{"one"}, l.words())
		require.Zero(t, r.Leftovers())
	})
}

func TestDatagramsAreSplitByThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.Datagrams()
		m := w.mux(plex.WithConnections(c))
		r := receiver(t, m, func(data []byte, atEOF bool) (int, []byte, error) {
			if !atEOF {
				return 0, nil, errors.New("a datagram is all that there is")
			}
			if bytes.HasPrefix(data, []byte("!")) {
				panic("!")
			}
			if len(data) == 0 {
				return 0, data, nil // an empty one is a message here
			}
			return message.Lines(data, atEOF)
		}, message.WithMaxSize(8))
		l := start(t, r, nil)
		whole := func(words ...string) (all []string) { // each datagram ends with an empty message
			for _, word := range words {
				all = append(all, word, "")
			}
			return all
		}
		c.Deliver("one\n", "two\nthr", "ee\n", "", "!", "much too long\n", "four\n", strings.Repeat("x", 70_000))
		settle()
		require.Equal(t, slices.Concat(
			whole("one"), []string{"two", "cut(thr)"}, whole("ee"), []string{"", "split", "long"},
			whole("four"), []string{"long"},
		), l.words())

		c.FailRead(syscall.ECONNREFUSED) // for one datagram
		settle()
		c.Deliver("five\n")
		settle()
		require.Equal(t, whole("five"), l.words()[len(l.words())-2:])
		require.Zero(t, m.Stats().Lost)
		l.stop()

		// If a loop is left within a datagram, the next datagram is not glued to the rest of it.
		c.Deliver("1\n2\n3", "4\n")
		require.Equal(t, []string{"1"}, take(t, r, 1))
		settle()
		require.Equal(t, []string{"2", "cut(3)", "4", ""}, take(t, r, 4))
		c.Deliver("5\n")
		require.Equal(t, []string{"5", ""}, take(t, r, 2))
	})
}

func TestARefusedDatagramIsReportedAndCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.Datagrams()
		c.TreatDeadlines(fakenet.DeadlinesRefused) // so that the loop reads, and not plex itself
		m := w.mux(plex.WithConnections(c))
		c.TreatDeadlines(fakenet.DeadlinesKept)
		r := receiver(t, m, message.Lines)

		// A consumer that has stopped receiving gets the report later.
		ctx, cancel := context.WithCancel(t.Context())
		ch := r.Channel(ctx, 0)
		c.FailRead(syscall.ECONNREFUSED)
		settle()
		cancel()
		for range ch {
			require.Fail(t, "delivered after ctx had ended")
		}
		l := start(t, r, nil)
		settle()
		require.Equal(t, []string{"refused"}, l.words())
		require.ErrorIs(t, l.err(), syscall.ECONNREFUSED)
		require.ErrorContains(t, l.err(), "from "+c.RemoteAddr().String())
		require.Zero(t, r.Leftovers())

		c.Deliver("one\n")
		settle()
		require.Equal(t, []string{"refused", "one"}, l.words())
		require.Zero(t, m.Stats().Lost)

		c.FailRead(errors.New("broken")) // which the connection does not survive
		settle()
		require.Equal(t, []string{"refused", "one"}, l.words(), "the end of a connection cuts no datagram off")
		require.EqualValues(t, 1, m.Stats().Lost)
	})
}

func TestChannelDeliversAndIsClosedAtTheEnd(t *testing.T) {
	bubble(t, 1, func(w *world, m *plex.Multiplexer) {
		r := receiver(w, m, message.Lines)
		ctx, cancel := context.WithCancel(w.Context())
		ch := r.Channel(ctx, 0)
		w.peers[0].SendSegments("1\n2\n3\n4\n")
		require.Equal(w, "1", string((<-ch).Data))
		got := <-ch
		require.Equal(w, "2", string(got.Data))
		require.Equal(w, w.peers[0].LocalAddr(), got.Conn.RemoteAddr())
		require.NoError(w, got.Err)
		synctest.Wait() // it offers 3
		cancel()
		synctest.Wait()
		_, open := <-ch
		require.False(w, open)
		require.Zero(w, m.Stats().LeasedReaders)

		ch = r.Channel(w.Context(), 1)
		synctest.Wait()
		require.Equal(w, "3", string((<-ch).Data), "what was not taken is not lost")
		require.Equal(w, "4", string((<-ch).Data))
		w.peers[0].SendSegments("5")
		settle()
		require.NoError(w, m.Close())
		require.Equal(w, "cut(5)", word(message.Message{}, (<-ch).Err))
		require.ErrorIs(w, (<-ch).Err, plex.ErrClosed)
		_, open = <-ch
		require.False(w, open)
		require.Zero(w, r.Leftovers())
	})
}

// Errors that a channel could not deliver are not lost either.
func TestChannelKeepsWhatItCouldNotDeliver(t *testing.T) {
	bubble(t, 3, func(w *world, m *plex.Multiplexer) {
		r := receiver(w, m, message.Lines, message.WithMaxSize(4))
		w.peers[0].SendSegments("too long\n")
		w.peers[1].SendSegments("cut")
		_ = w.peers[1].CloseWrite()
		for range 3 {
			ctx, cancel := context.WithCancel(w.Context())
			ch := r.Channel(ctx, 0)
			settle()
			cancel()
			for range ch {
				require.Fail(w, "delivered after the end of ctx")
			}
		}
		words := take(w, r, 2)
		slices.Sort(words)
		require.Equal(w, []string{"cut(cut)", "long"}, words)
		require.True(w, closed(w.peers[0]))
		require.Zero(w, r.Leftovers())
	})
}

// An error that a channel could not deliver is delivered later. After that the split function is
// not asked again.
func TestNothingFollowsAReportThatAChannelCouldNotDeliver(t *testing.T) {
	split := func(data []byte, atEOF bool) (int, []byte, error) {
		switch {
		case atEOF && len(data) == 0:
			return 0, []byte("end"), nil
		case bytes.HasPrefix(data, []byte("!")):
			return 0, nil, errors.New("nonsense")
		default:
			return message.Lines(data, atEOF)
		}
	}
	for name, c := range map[string]struct {
		datagrams bool
		arrives   string
		want      []string
	}{
		"datagram":    {true, "!", []string{"split", "next", "end"}},
		"end of data": {false, "beginning", []string{"cut(beginning)"}},
		"out of step": {false, "!", []string{"split"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				var conn net.Conn
				var send func(...string)
				hangUp := func() error { return nil }
				if c.datagrams {
					d := w.Datagrams()
					conn, send = d, d.Deliver
				} else {
					c, p := w.Pair()
					conn, send, hangUp = c, p.SendSegments, p.CloseWrite
				}
				m := w.mux(plex.WithConnections(conn))
				r := receiver(w, m, split)
				ctx, cancel := context.WithCancel(w.Context())
				ch := r.Channel(ctx, 0)
				send(c.arrives)
				settle()
				require.NoError(w, hangUp())
				settle()
				cancel()
				for range ch {
					require.Fail(w, "delivered after the end of ctx")
				}
				l := start(w, r, nil)
				settle()
				send("next\n")
				settle()
				require.Equal(w, c.want, l.words())
				require.Zero(w, r.Leftovers())
			})
		})
	}
}

func TestKillEndsAHeldConnectionAtOnce(t *testing.T) {
	bubble(t, 2, func(w *world, m *plex.Multiplexer) {
		r := receiver(w, m, message.Lines)
		l := start(w, r, func(m message.Message) {
			if string(m.Data) == "bad" {
				r.Kill(m.Conn)
			}
		})
		w.peers[0].SendSegments("good\nbad\nworse\nand")
		settle()
		require.True(w, closed(w.peers[0]))
		w.peers[1].SendSegments("other\n")
		settle()
		require.Equal(w, []string{"good", "bad", "other"}, l.words())
		require.EqualValues(w, 1, m.Stats().Killed)
		require.Zero(w, r.Leftovers())
	})
}

func TestKillEndsAnIdleConnectionAtOnce(t *testing.T) {
	bubble(t, 3, func(w *world, m *plex.Multiplexer) {
		r := receiver(w, m, message.Lines)
		l := start(w, r, nil)
		w.peers[0].SendSegments("one\n")
		settle()
		w.peers[1].SendSegments("two\nbeg")
		settle()
		require.Equal(w, []string{"one", "two"}, l.words())
		for _, c := range l.names() {
			r.Kill(c)
			r.Kill(c)
		}
		r.Kill(plex.Conn{})
		synctest.Wait()
		require.True(w, closed(w.peers[0]) && closed(w.peers[1]))
		w.peers[2].SendSegments("three\n")
		settle()
		require.Equal(w, []string{"one", "two", "three"}, l.words(), "of what was killed nothing is reported")
		require.EqualValues(w, 2, m.Stats().Killed)
		require.Zero(w, r.Leftovers())
		r.Kill(l.names()[0]) // it has ended
		settle()
		require.Zero(w, r.Leftovers())
	})
}

// A loop holds messages that were left, but no lease.
func TestKillEndsAConnectionHeldWithoutALease(t *testing.T) {
	bubble(t, 2, func(w *world, m *plex.Multiplexer) {
		r := receiver(w, m, message.Lines)
		w.peers[0].SendSegments("1\n2\n3\n")
		require.Equal(w, []string{"1"}, take(w, r, 1))
		l := start(w, r, func(m message.Message) {
			r.Kill(m.Conn)
		})
		settle()
		require.True(w, closed(w.peers[0]))
		require.Equal(w, []string{"2"}, l.words())
		require.EqualValues(w, 1, m.Stats().Killed)
		require.Zero(w, r.Leftovers())
	})
}

// killed kills a connection with a Writer, as a consumer does that finds it bad.
func killed(w *world, m *plex.Multiplexer, c *fakenet.Peer) {
	w.Helper()
	for range w.peers {
		wr, err := m.Writer(w.Context(), 0)
		require.NoError(w, err)
		if wr.RemoteAddr() == c.LocalAddr() {
			require.NoError(w, wr.Kill())
			return
		}
		require.NoError(w, wr.Close())
	}
	require.Fail(w, "there is no such connection")
}

// A loop was woken to deliver something without a lease. At the same moment it gets a message,
// which it handles slowly. The other loop must deliver what the first was woken for. These moments
// can meet in several ways.
func TestWhatALoopWasWokenForDoesNotWaitForIt(t *testing.T) {
	for range 300 {
		bubble(t, 2, func(w *world, m *plex.Multiplexer) {
			r := receiver(w, m, message.Lines)
			w.peers[1].SendSegments("cut")
			release := make(chan struct{})
			body := func(message.Message) { <-release }
			loops := []*loop{start(w, r, body), start(w, r, body)}
			settle()
			go w.peers[0].SendSegments("long\n")
			time.Sleep(20 * time.Millisecond) // about when plex notices
			killed(w, m, w.peers[1])
			settle()
			words := slices.Concat(loops[0].words(), loops[1].words())
			close(release)
			require.ElementsMatch(w, []string{"long", "cut(cut)"}, words)
		})
	}
}

// If its ctx ends at that moment, another loop that waits must deliver it.
func TestWhatALoopWasWokenForIsNotLostWithIt(t *testing.T) {
	for range 300 {
		bubble(t, 2, func(w *world, m *plex.Multiplexer) {
			r := receiver(w, m, message.Lines)
			var loops []*loop
			wr, err := m.Writer(w.Context(), 0)
			require.NoError(w, err)
			// This comes before the receiver's own call of AfterEnd. plex calls them in order.
			wr.Conn().AfterEnd(func(error) { loops[0].cancel() })
			for _, c := range w.peers {
				if c.LocalAddr() == wr.RemoteAddr() {
					c.SendSegments("cut")
				}
			}
			loops = append(loops, start(w, r, nil), start(w, r, nil))
			settle()
			require.NoError(w, wr.Kill())
			settle()
			require.Equal(w, []string{"cut(cut)"}, slices.Concat(loops[0].words(), loops[1].words()))
		})
	}
}

func TestWhatTheLastConnectionCutsOffIsReported(t *testing.T) {
	for range 100 {
		bubble(t, 1, func(w *world, m *plex.Multiplexer) {
			l := start(w, receiver(w, m, message.Lines), nil)
			w.peers[0].SendSegments("cut")
			settle()
			killed(w, m, w.peers[0])
			<-l.done
			require.ErrorIs(w, l.end, plex.ErrNoConnections)
			require.Equal(w, []string{"cut(cut)"}, l.words())
		})
	}
}

// The connection fails while a loop delivers what an earlier loop has left.
func TestAConnectionIsLostWhileALoopHoldsItWithoutALease(t *testing.T) {
	bubble(t, 2, func(w *world, m *plex.Multiplexer) {
		r := receiver(w, m, message.Lines)
		w.peers[0].SendSegments("1\n2\n3")
		require.Equal(w, []string{"1"}, take(w, r, 1))
		release := make(chan struct{})
		l := start(w, r, func(message.Message) { <-release })
		settle()
		killed(w, m, w.peers[0])
		settle()
		require.Equal(w, []string{"2"}, l.words())
		close(release)
		settle()
		require.Equal(w, []string{"2", "cut(3)"}, l.words())
		require.ErrorIs(w, l.err(), plex.ErrKilled)
		require.Zero(w, r.Leftovers())
	})
}

func TestABadConnectionIsClosedBeforeTheLoopIsTold(t *testing.T) {
	bubble(t, 2, func(w *world, m *plex.Multiplexer) {
		w.peers[0].SendSegments("too long\n")
		for m, err := range receiver(w, m, message.Lines, message.WithMaxSize(4)).All(w.Context()) {
			require.Equal(w, "long", word(m, err))
			settle()
			require.True(w, closed(w.peers[0]))
			break
		}
	})
}

// A split function may take any end for one in the middle of a message. If there is no data,
// nothing is reported.
func TestNoDataIsNotReportedAsCutOff(t *testing.T) {
	bubble(t, 2, func(w *world, m *plex.Multiplexer) {
		r := receiver(w, m, func(data []byte, atEOF bool) (int, []byte, error) {
			advance, token, err := message.Lines(data, atEOF)
			if atEOF && token == nil {
				err = io.ErrUnexpectedEOF
			}
			return advance, token, err
		})
		l := start(w, r, nil)
		w.peers[0].SendSegments("one\n")
		_ = w.peers[0].CloseWrite()
		settle()
		require.Equal(w, []string{"one"}, l.words())
		require.Zero(w, r.Leftovers())
	})
}

func TestALongMessageLeavesNoMemoryBehind(t *testing.T) {
	bubble(t, 2, func(w *world, m *plex.Multiplexer) {
		r := receiver(w, m, message.Lines)
		l := start(w, r, nil)
		w.peers[0].SendSegments(strings.Repeat("x", 500_000), strings.Repeat("x", 500_000))
		time.Sleep(time.Minute)
		require.Less(w, r.Memory(), 2_500_000)
		w.peers[0].SendSegments("\nbegin")
		time.Sleep(time.Minute)
		require.Len(w, l.words(), 1)
		require.Less(w, r.Memory(), 10_000)
		w.peers[0].SendSegments("ning\n")
		settle()
		require.Zero(w, r.Memory())
	})
}

// After Discard nothing is kept of what was left.
func TestDiscardGivesUpWhatIsLeftOver(t *testing.T) {
	bubble(t, 2, func(w *world, m *plex.Multiplexer) {
		r := receiver(w, m, message.Lines)
		w.peers[0].SendSegments("whole\nhal")
		w.peers[1].SendSegments("one\n")
		seen := 0
		ctx, cancel := context.WithCancel(w.Context())
		for m, err := range r.All(ctx) {
			if err != nil {
				break
			}
			require.Contains(w, []string{"whole", "one"}, string(m.Data))
			if seen++; seen == 2 {
				time.AfterFunc(time.Second, cancel)
			}
		}
		cancel()
		require.Equal(w, 1, r.Leftovers(), "of the line that has begun")

		r.Discard()
		require.Zero(w, r.Leftovers())
		time.Sleep(time.Second)
		st := m.Stats()
		require.Equal(w, []int{1, 1}, []int{int(st.Killed), st.Open}, "nobody reads on in the middle of a line")
	})
}
