package message_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
	"go.atomizer.io/plex/message"
)

// handed records what the function of WithFailed gets.
type handed struct {
	mu   sync.Mutex
	sure []string // not sent
	may  []string // maybe sent
	errs []error
}

func (h *handed) option() message.SenderOption { return message.WithFailed(h.note) }

func (h *handed) note(data []byte, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.errs = append(h.errs, err)
	var failed *message.SendError
	if !errors.As(err, &failed) {
		panic("no SendError")
	}
	if failed.MaybeSent {
		h.may = append(h.may, string(data))
	} else {
		h.sure = append(h.sure, string(data))
	}
	clear(data) // it belongs to the function
}

func (h *handed) get() (sure, may []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.sure), slices.Clone(h.may)
}

// last returns the latest error.
func (h *handed) last() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.errs[len(h.errs)-1]
}

func sender(t testing.TB, m *plex.Multiplexer, options ...message.SenderOption) *message.Sender {
	t.Helper()
	s, err := message.NewSender(m, options...)
	require.NoError(t, err)
	return s
}

// requireAccount checks that each of n messages is in exactly one figure.
func requireAccount(t testing.TB, s *message.Sender, n int) {
	t.Helper()
	g := s.Stats()
	require.EqualValues(t, n, g.Messages+uint64(g.Queued)+g.Dropped+g.Failed, "%+v", g)
}

func TestSenderGathersWhatIsQueued(t *testing.T) {
	bubble(t, 1, func(w *world, m *plex.Multiplexer) {
		s := sender(w, m)
		p := w.peers[0]
		p.Allow(0)
		data := []byte("0;")
		var want strings.Builder
		for i := range 100 {
			data = append(strconv.AppendInt(data[:0], int64(i), 10), ';')
			want.Write(data)
			require.NoError(w, s.Queue(data))
			if i == 0 {
				synctest.Wait() // it is being written
			}
		}
		p.Allow(-1)
		require.NoError(w, s.Flush(w.Context()))
		require.Equal(w, want.String(), p.Unread())
		require.Equal(w, 2, p.Conn().Calls().Writes)
		require.Equal(w, message.SenderStats{Messages: 100, Bytes: uint64(want.Len()), Writes: 2}, s.Stats())
		require.NoError(w, s.Close(w.Context()))
	})
}

func TestSenderSendReturnsWhenItIsWritten(t *testing.T) {
	for _, size := range []int{0, 1, 64, 8 << 10, 8<<10 + 1, 300 << 10} {
		bubble(t, 1, func(w *world, m *plex.Multiplexer) {
			s := sender(w, m)
			p := w.peers[0]
			p.Allow(0)
			data := bytes.Repeat([]byte("x"), size)
			if size > 0 {
				go func() {
					time.Sleep(time.Minute / 10)
					p.Allow(-1)
				}()
			}
			began := time.Now()
			require.NoError(w, s.Send(w.Context(), data))
			if size > 0 {
				require.Equal(w, time.Minute/10, time.Since(began))
			}
			require.Equal(w, string(data), p.Unread())
			requireAccount(w, s, 1)
			require.NoError(w, s.Close(w.Context()))
		})
	}
}

// A Write takes k bytes of three messages, and then the connection is reset. Whatever k is, what was
// whole is written, what was cut is handed back, and what was behind it is written over the other
// connection, in order.
func TestSenderAfterAShortWriteAtEveryByte(t *testing.T) {
	words := []string{"one;", "two--;", "three----;"}
	all := strings.Join(words, "")
	for k := range len(all) {
		for _, how := range []string{"reset", "kill", "short"} {
			if k == 0 && how == "short" {
				continue // which costs no connection
			}
			t.Run(fmt.Sprintf("%d, %s", k, how), func(t *testing.T) {
				bubble(t, 2, func(w *world, m *plex.Multiplexer) {
					var h handed
					s := sender(w, m, h.option())
					first, second := w.peers[0], w.peers[1]
					hold, err := m.Writer(w.Context(), 0)
					require.NoError(w, err)
					if hold.Conn().RemoteAddr().String() == first.LocalAddr().String() {
						first, second = second, first
					}
					block, err := m.Writer(w.Context(), 0) // so that all are gathered
					require.NoError(w, err)
					for _, word := range words {
						require.NoError(w, s.Queue([]byte(word)))
					}
					synctest.Wait()
					first.Allow(k)
					if how == "short" {
						first.Allow(-1)
						first.Conn().OnWrite(fakenet.Once(fakenet.Short(k)))
					}
					conn := block.Conn()
					require.NoError(w, block.Close())
					synctest.Wait()
					switch how {
					case "reset":
						first.Break(syscall.ECONNRESET, true)
					case "kill":
						conn.Kill()
					}
					synctest.Wait()
					require.NoError(w, hold.Close())
					require.NoError(w, s.Flush(w.Context()))

					whole, rest, cut, pos := "", "", []string(nil), 0
					for _, word := range words {
						switch {
						case pos+len(word) <= k:
							whole += word
						case pos < k:
							cut = append(cut, word)
						default:
							rest += word
						}
						pos += len(word)
					}
					sure, may := h.get()
					require.Equal(w, cut, may)
					require.Empty(w, sure)
					require.Equal(w, all[:k], first.Unread(), "over the first")
					require.Equal(w, rest, second.Unread(), "over the second")
					requireAccount(w, s, len(words))
					require.EqualValues(w, len(cut), s.Stats().Failed)
					require.NoError(w, s.Close(w.Context()))
				})
			})
		}
	}
}

// A ctx that ends while its message waits cuts it out, and nobody else's.
func TestSenderSendThatIsGivenUpBeforeItsWrite(t *testing.T) {
	for gone := range 5 {
		bubble(t, 1, func(w *world, m *plex.Multiplexer) {
			s := sender(w, m)
			block, err := m.Writer(w.Context(), 0)
			require.NoError(w, err)
			reason := errors.New("never mind")
			ctx, cancel := context.WithCancelCause(w.Context())
			var wg sync.WaitGroup
			var want strings.Builder
			for i := range 5 {
				word := strings.Repeat(string(rune('a'+i)), i+1)
				wg.Go(func() {
					if i == gone {
						requireSendError(w, s.Send(ctx, []byte(word)), false, context.Canceled, reason)
					} else {
						require.NoError(w, s.Send(w.Context(), []byte(word)))
					}
				})
				synctest.Wait()
				if i != gone {
					want.WriteString(word)
				}
			}
			cancel(reason)
			synctest.Wait()
			require.NoError(w, block.Close())
			wg.Wait()
			require.Equal(w, want.String(), w.peers[0].Unread())
			requireAccount(w, s, 5)
			require.EqualValues(w, 1, s.Stats().Failed)
			require.NoError(w, s.Close(w.Context()))
		})
	}
}

// When nobody wants anything written any more, nobody waits for a connection.
func TestSenderStopsWaitingWhenAllHaveGivenUp(t *testing.T) {
	bubble(t, 1, func(w *world, m *plex.Multiplexer) {
		s := sender(w, m)
		block, err := m.Writer(w.Context(), 0)
		require.NoError(w, err)
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		requireSendError(w, s.Send(ctx, []byte("x")), false, context.DeadlineExceeded)
		synctest.Wait()
		require.Zero(w, m.Stats().Waiting)
		require.NoError(w, block.Close())
		require.NoError(w, s.Send(w.Context(), []byte("y")))
		require.Equal(w, "y", w.peers[0].Unread())
		require.NoError(w, s.Close(w.Context()))
	})
}

// A ctx that ends during a Write that several messages share does not cut the others, and the
// message is not written again after the Write has failed.
func TestSenderSendThatIsGivenUpDuringItsWrite(t *testing.T) {
	for _, fails := range []bool{false, true} {
		bubble(t, 2, func(w *world, m *plex.Multiplexer) {
			var h handed
			s := sender(w, m, h.option())
			a, err := m.Writer(w.Context(), 0)
			require.NoError(w, err)
			b, err := m.Writer(w.Context(), 0)
			require.NoError(w, err)
			first, second := w.peers[0], w.peers[1]
			if a.RemoteAddr().String() != first.LocalAddr().String() {
				first, second = second, first
			}
			require.NoError(w, s.Queue([]byte("one;")))
			ctx, cancel := context.WithCancel(w.Context())
			got := make(chan error, 1)
			go func() { got <- s.Send(ctx, []byte("two;")) }()
			synctest.Wait()
			require.NoError(w, s.Queue([]byte("three;")))
			first.Allow(0)
			require.NoError(w, a.Close())
			synctest.Wait()
			cancel()
			requireSendError(w, <-got, true, context.Canceled)
			if fails {
				first.Break(syscall.ECONNRESET, true)
				require.NoError(w, b.Close())
				require.NoError(w, s.Flush(w.Context()))
				require.Equal(w, "one;three;", second.Unread())
			} else {
				first.Allow(-1)
				require.NoError(w, b.Close())
				require.NoError(w, s.Flush(w.Context()))
				require.Equal(w, "one;two;three;", first.Unread())
			}
			g := s.Stats()
			require.EqualValues(w, 2, g.Messages)
			require.EqualValues(w, 10, g.Bytes)
			requireAccount(w, s, 3)
			require.NoError(w, s.Close(w.Context()))
		})
	}
}

// A large message is not copied, so Send does not return before its Write has.
func TestSenderInterruptsTheWriteOfALargeMessage(t *testing.T) {
	for _, taken := range []int{0, 5} {
		bubble(t, 1, func(w *world, m *plex.Multiplexer) {
			s := sender(w, m)
			p := w.peers[0]
			p.Allow(taken)
			ctx, cancel := context.WithTimeout(w.Context(), time.Second)
			defer cancel()
			data := bytes.Repeat([]byte("l"), 20<<10)
			requireSendError(w, s.Send(ctx, data), taken > 0, context.DeadlineExceeded)
			synctest.Wait()
			require.Equal(w, taken > 0, closed(p), "only what was cut costs the connection")
			requireAccount(w, s, 1)
			require.NoError(w, s.Close(w.Context()))
		})
	}
}

func TestSenderQueueIsBounded(t *testing.T) {
	bubble(t, 1, func(w *world, m *plex.Multiplexer) {
		s := sender(w, m, message.WithQueue(10))
		block, err := m.Writer(w.Context(), 0)
		require.NoError(w, err)
		require.ErrorIs(w, s.Queue(make([]byte, 11)), message.ErrFull, "longer than the queue")
		require.NoError(w, s.Queue([]byte("12345")))
		require.NoError(w, s.Queue([]byte("67890")))
		require.ErrorIs(w, s.Queue([]byte("x")), message.ErrFull)
		require.ErrorIs(w, s.Queue(nil), message.ErrFull, "an empty message takes room too")
		sent := make(chan error, 1)
		go func() { sent <- s.Send(w.Context(), []byte("send")) }()
		synctest.Wait()
		require.Equal(w, 3, s.Stats().Queued)
		require.EqualValues(w, 3, s.Stats().Dropped)
		require.NoError(w, block.Close())
		require.NoError(w, <-sent)
		require.Equal(w, "1234567890send", w.peers[0].Unread())
		require.NoError(w, s.Queue([]byte("abcdefghij")), "there is room again")
		require.NoError(w, s.Close(w.Context()))
		requireAccount(w, s, 7)
	})
}

// With DropOldest the newest messages survive; those of Send are never dropped.
func TestSenderDropsTheOldest(t *testing.T) {
	for _, buffer := range []int{0, 16, 64 << 10} {
		bubble(t, 1, func(w *world, m *plex.Multiplexer) {
			var h handed
			s := sender(w, m, message.WithQueue(50), message.WithDrop(message.DropOldest), h.option(),
				message.WithWriteBuffer(buffer))
			block, err := m.Writer(w.Context(), 0)
			require.NoError(w, err)
			var wg sync.WaitGroup
			var want, dropped []string
			const n = 60
			for i := range n {
				word := fmt.Sprintf("%03d%s;", i, strings.Repeat(".", i%4))
				if i%10 == 3 {
					wg.Go(func() { require.NoError(w, s.Send(w.Context(), []byte(word))) })
					synctest.Wait()
				} else {
					require.NoError(w, s.Queue([]byte(word)))
				}
				want = append(want, word)
			}
			held := 0
			for i := n - 1; i >= 0; i-- {
				if i%10 == 3 {
					continue
				}
				if held += len(want[i]); held > 50 || len(dropped) > 0 {
					dropped = append(dropped, want[i])
					want[i] = ""
				}
			}
			slices.Reverse(dropped)
			synctest.Wait()
			sure, may := h.get()
			require.Equal(w, dropped, sure)
			require.Empty(w, may)
			requireSendError(w, h.last(), false, message.ErrFull)
			require.EqualValues(w, len(dropped), s.Stats().Dropped)
			require.NoError(w, block.Close())
			wg.Wait()
			require.NoError(w, s.Close(w.Context()))
			require.Equal(w, strings.Join(want, ""), w.peers[0].Unread())
			requireAccount(w, s, n)
		})
	}
}

// A function of WithFailed that does not keep up bounds what can be dropped for newer messages.
func TestSenderWithASlowFunctionForWhatFailed(t *testing.T) {
	bubble(t, 1, func(w *world, m *plex.Multiplexer) {
		release := make(chan struct{})
		var calls atomic.Int32
		s := sender(w, m, message.WithQueue(10), message.WithDrop(message.DropOldest),
			message.WithFailed(func([]byte, error) { calls.Add(1); <-release }))
		block, err := m.Writer(w.Context(), 0)
		require.NoError(w, err)
		full := 0
		for range 100 {
			if errors.Is(s.Queue([]byte("x")), message.ErrFull) {
				full++
			}
		}
		require.Equal(w, 80, full)
		time.Sleep(1500 * time.Millisecond)
		require.EqualValues(w, 2, calls.Load(), "the next call does not wait for one that hangs")
		time.Sleep(time.Minute)
		require.EqualValues(w, 10, calls.Load())
		require.NoError(w, s.Queue([]byte("y")))
		close(release)
		require.NoError(w, block.Close())
		require.NoError(w, s.Close(w.Context()))
		requireAccount(w, s, 101)
		require.Equal(w, "xxxxxxxxxy", w.peers[0].Unread())
	})
}

func TestSenderFlushWaitsForWhatWasBefore(t *testing.T) {
	bubble(t, 1, func(w *world, m *plex.Multiplexer) {
		s := sender(w, m)
		require.NoError(w, s.Flush(w.Context()), "nothing to wait for")
		p := w.peers[0]
		p.Allow(0)
		require.NoError(w, s.Queue([]byte("one;")))
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		require.ErrorIs(w, s.Flush(ctx), context.DeadlineExceeded)
		flushed := make(chan error, 2)
		go func() { flushed <- s.Flush(w.Context()) }()
		go func() { flushed <- s.Flush(w.Context()) }()
		synctest.Wait()
		require.NoError(w, s.Queue([]byte("two;"))) // behind the Flush
		p.Allow(4)
		require.NoError(w, <-flushed)
		require.NoError(w, <-flushed)
		require.Equal(w, "one;", p.Unread())
		require.Equal(w, 1, s.Stats().Queued)
		p.Allow(-1)
		require.NoError(w, s.Close(w.Context()))
		require.Equal(w, "one;two;", p.Unread())
	})
}

// Flush returns when what has failed has been handed back.
func TestSenderFlushWaitsForWhatHasFailed(t *testing.T) {
	bubble(t, 1, func(w *world, m *plex.Multiplexer) {
		var h handed
		s := sender(w, m, message.WithFailed(func(data []byte, err error) {
			time.Sleep(time.Second / 2)
			h.note(data, err)
		}))
		require.NoError(w, m.Close())
		require.NoError(w, s.Queue([]byte("one;")))
		require.NoError(w, s.Queue(bytes.Repeat([]byte("2"), 9<<10)))
		require.NoError(w, s.Flush(w.Context()))
		sure, _ := h.get()
		require.Equal(w, []string{"one;", strings.Repeat("2", 9<<10)}, sure)
		require.ErrorIs(w, h.last(), plex.ErrClosed)
		requireSendError(w, s.Send(w.Context(), []byte("x")), false, plex.ErrClosed)
		requireAccount(w, s, 3)
		require.NoError(w, s.Close(w.Context()), "nothing was left")
	})
}

func TestSenderCloseWritesWhatIsQueued(t *testing.T) {
	bubble(t, 1, func(w *world, m *plex.Multiplexer) {
		s := sender(w, m)
		p := w.peers[0]
		p.Allow(0)
		require.NoError(w, s.Queue([]byte("one;")))
		synctest.Wait()
		require.NoError(w, s.Queue([]byte("two;")))
		closes := make(chan error, 2)
		go func() { closes <- s.Close(w.Context()) }()
		go func() { closes <- s.Close(w.Context()) }()
		synctest.Wait()
		require.Empty(w, closes)
		require.ErrorIs(w, s.Queue([]byte("x")), net.ErrClosed)
		requireSendError(w, s.Send(w.Context(), []byte("x")), false, net.ErrClosed)
		p.Allow(-1)
		require.NoError(w, <-closes)
		require.NoError(w, <-closes)
		require.NoError(w, s.Close(w.Context()))
		require.Equal(w, "one;two;", p.Unread())
		requireAccount(w, s, 4)
	})
}

// When the ctx of Close ends, what is being written is interrupted, and all that is left is handed
// back.
func TestSenderCloseHandsBackWhatIsLeft(t *testing.T) {
	for _, c := range []struct {
		name      string
		taken     int
		deadlines fakenet.Deadlines
	}{
		{"nothing taken", 0, fakenet.DeadlinesKept},
		{"a message and a half taken", 6, fakenet.DeadlinesKept},
		{"deadlines refused", 6, fakenet.DeadlinesRefused},
		{"deadlines ignored", 6, fakenet.DeadlinesIgnored},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, 1, func(w *world, m *plex.Multiplexer) {
				var h handed
				s := sender(w, m, h.option())
				p := w.peers[0]
				p.Conn().TreatDeadlines(c.deadlines)
				p.Allow(c.taken)
				block, err := m.Writer(w.Context(), 0)
				require.NoError(w, err)
				require.NoError(w, s.Queue([]byte("one;")))
				require.NoError(w, s.Queue([]byte("two;")))
				require.NoError(w, s.Queue([]byte("three;")))
				synctest.Wait()
				require.NoError(w, block.Close())
				synctest.Wait()
				require.NoError(w, s.Queue([]byte("four;")))
				sent := make(chan error, 1)
				go func() { sent <- s.Send(w.Context(), []byte("five;")) }()
				synctest.Wait()
				ctx, cancel := context.WithTimeout(w.Context(), time.Second)
				defer cancel()
				err = s.Close(ctx)
				require.ErrorIs(w, err, context.DeadlineExceeded)
				requireSendError(w, <-sent, false, context.DeadlineExceeded)
				require.Equal(w, err, s.Close(w.Context()))
				sure, may := h.get()
				slices.Sort(sure)
				if c.taken == 0 {
					require.ErrorContains(w, err, "5 messages")
					require.Equal(w, []string{"four;", "one;", "three;", "two;"}, sure)
					require.Empty(w, may)
				} else {
					require.ErrorContains(w, err, "4 messages")
					require.Equal(w, []string{"four;", "three;"}, sure)
					require.Equal(w, []string{"two;"}, may)
				}
				requireAccount(w, s, 5)
				require.Zero(w, s.Stats().Queued)
			})
		})
	}
}

// While there is no connection the queue fills; when one comes, all is written.
func TestSenderWaitsForAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		d := fakenet.NewDialer(t)
		m := w.mux(plex.WithConnector(plex.DialFunc(d.Dial)), plex.WithMaxCapacity(1))
		s := sender(t, m, message.WithQueue(8))
		require.NoError(t, s.Queue([]byte("one;")))
		synctest.Wait()
		d.Next().Fail(syscall.ECONNREFUSED)
		require.NoError(t, s.Queue([]byte("two;")))
		require.ErrorIs(t, s.Queue([]byte("three;")), message.ErrFull)
		conn, p := w.Pair()
		d.Next().Succeed(conn)
		require.NoError(t, s.Close(t.Context()))
		require.Equal(t, "one;two;", p.Unread())
		requireAccount(t, s, 3)
	})
}

// Without a connector the loss of the last connection hands everything back.
func TestSenderWithNoConnectionLeft(t *testing.T) {
	bubble(t, 1, func(w *world, m *plex.Multiplexer) {
		var h handed
		s := sender(w, m, h.option())
		w.peers[0].Allow(2)
		require.NoError(w, s.Queue([]byte("one;")))
		synctest.Wait()
		require.NoError(w, s.Queue([]byte("two;")))
		w.peers[0].Break(syscall.ECONNRESET, true)
		require.NoError(w, s.Flush(w.Context()))
		sure, may := h.get()
		require.Equal(w, []string{"one;"}, may)
		require.Equal(w, []string{"two;"}, sure)
		require.ErrorIs(w, h.last(), plex.ErrNoConnections)
		require.NoError(w, s.Close(w.Context()))
		requireAccount(w, s, 2)
	})
}

// A peer that has stopped reading delays nobody but the messages that are being written to it, and
// in the end costs its connection.
func TestSenderGoesAroundAPeerThatStalls(t *testing.T) {
	bubble(t, 2, func(w *world, m *plex.Multiplexer) {
		var h handed
		s := sender(w, m, h.option(), message.WithWriteTimeout(time.Second))
		for _, p := range w.peers {
			p.Allow(2)
		}
		require.NoError(w, s.Queue([]byte("one;")))
		synctest.Wait()
		stalled, other := w.peers[0], w.peers[1]
		if stalled.Unread() == "" {
			stalled, other = other, stalled
		}
		other.Allow(-1)
		require.NoError(w, s.Send(w.Context(), []byte("two;")))
		require.Equal(w, "two;", other.Unread())
		require.False(w, closed(stalled))
		require.NoError(w, s.Flush(w.Context()))
		synctest.Wait()
		require.True(w, closed(stalled))
		sure, may := h.get()
		require.Empty(w, sure)
		require.Equal(w, []string{"one;"}, may)
		requireSendError(w, h.last(), true, os.ErrDeadlineExceeded)
		require.NoError(w, s.Close(w.Context()))
		requireAccount(w, s, 2)
	})
}

// A Write lasts, and the only connection is lost under it. What the Write has not sent comes before
// what was queued later, also if the Write returns only when there is another connection. For one
// that does not return, nobody waits.
func TestSenderKeepsTheOrderWhenItsOnlyConnectionIsReplaced(t *testing.T) {
	for _, how := range []string{"killed by the user", "killed by the sender"} {
		for _, c := range []struct {
			late  time.Duration // how long after the loss the Write returns
			early string        // what is written before that
		}{
			{100 * time.Microsecond, ""},
			{10 * time.Millisecond, "three;"},
		} {
			t.Run(fmt.Sprint(how, " ", c.late), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					d := fakenet.NewDialer(t)
					m := w.mux(plex.WithConnector(plex.DialFunc(d.Dial)), plex.WithMaxCapacity(1))
					lost, first := w.Pair()
					returns := make(chan struct{})
					release := sync.OnceFunc(func() { close(returns) })
					defer release()
					lost.OnWrite(fakenet.Then(func(int, error) { <-returns }))
					first.Allow(0)
					s := sender(t, m, message.WithWriteTimeout(time.Second))
					require.NoError(t, s.Queue([]byte("one;")))
					require.NoError(t, s.Queue([]byte("two;")))
					d.Next().Succeed(lost)
					time.Sleep(10 * time.Millisecond) // somebody else leads
					require.NoError(t, s.Queue([]byte("three;")))
					synctest.Wait()
					require.Equal(t, 1, m.Stats().Waiting)
					if how == "killed by the user" {
						for conn := range m.Conns() {
							conn.Kill()
						}
					}
					fresh, second := w.Pair()
					d.Next().Succeed(fresh)
					time.Sleep(c.late)
					synctest.Wait()
					require.Equal(t, c.early, second.Unread())
					release()
					require.NoError(t, s.Flush(t.Context()))
					require.Equal(t, c.early+strings.TrimSuffix("one;two;three;", c.early), second.Unread())
					require.NoError(t, s.Close(t.Context()))
					requireAccount(t, s, 3)
					synctest.Wait() // who has killed the connection is out
				})
			})
		}
	}
}

// Whatever a transport does costs its own connection and batch.
func TestSenderSurvivesItsTransports(t *testing.T) {
	for _, c := range []struct {
		name string
		io   fakenet.IO
	}{
		{"panics", fakenet.Panics("no")},
		{"ends its goroutine", fakenet.Goexits()},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, 2, func(w *world, m *plex.Multiplexer) {
				var h handed
				s := sender(w, m, h.option())
				var once sync.Once
				for _, p := range w.peers {
					p.Conn().OnWrite(func(b []byte, do func([]byte) (int, error)) (n int, err error) {
						first := false
						once.Do(func() { first = true })
						if first {
							return c.io(b, do)
						}
						return do(b)
					})
				}
				a, err := m.Writer(w.Context(), 0)
				require.NoError(w, err)
				b, err := m.Writer(w.Context(), 0)
				require.NoError(w, err)
				require.NoError(w, s.Queue([]byte("one;")))
				require.NoError(w, s.Queue([]byte("two;")))
				require.NoError(w, a.Close())
				synctest.Wait()
				require.NoError(w, s.Queue([]byte("three;")))
				require.NoError(w, b.Close())
				require.NoError(w, s.Flush(w.Context()))
				sure, may := h.get()
				require.Empty(w, sure)
				require.Equal(w, []string{"one;", "two;"}, may)
				require.Equal(w, "three;", w.peers[0].Unread()+w.peers[1].Unread())
				require.NoError(w, s.Close(w.Context()))
				requireAccount(w, s, 3)
			})
		})
	}
}

// A message that no transport takes does not end one connection after the other for ever.
func TestSenderGivesUpWhatNoTransportTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		d := fakenet.NewDialer(t)
		d.Auto = func(int) (*fakenet.Conn, error) {
			conn, _ := w.Pair()
			conn.OnWrite(func(b []byte, do func([]byte) (int, error)) (int, error) {
				if bytes.Contains(b, []byte("poison")) {
					return 0, syscall.EINVAL
				}
				return do(b)
			})
			return conn, nil
		}
		m := w.mux(plex.WithConnector(plex.DialFunc(d.Dial)), plex.WithMaxCapacity(2))
		var h handed
		s := sender(t, m, h.option())
		require.NoError(t, s.Queue([]byte("poison")))
		require.NoError(t, s.Flush(t.Context()))
		sure, may := h.get()
		require.Equal(t, []string{"poison"}, sure)
		require.Empty(t, may)
		require.NoError(t, s.Send(t.Context(), []byte("food")))
		require.NoError(t, s.Close(t.Context()))
		requireAccount(t, s, 2)
	})
}

func TestSenderFunctionThatPanicsCostsItsOwnCall(t *testing.T) {
	bubble(t, 1, func(w *world, m *plex.Multiplexer) {
		require.NoError(w, m.Close())
		var got []string
		s := sender(w, m, message.WithFailed(func(data []byte, _ error) {
			got = append(got, string(data))
			switch string(data) {
			case "panic":
				panic("no")
			case "exit":
				runtime.Goexit()
			}
		}))
		for _, word := range []string{"panic", "exit", "fine"} {
			require.NoError(w, s.Queue([]byte(word)))
			require.NoError(w, s.Flush(w.Context()))
		}
		require.Equal(w, []string{"panic", "exit", "fine"}, got)
		require.EqualValues(w, 2, s.Stats().Panicked)
		require.ErrorContains(w, s.Stats().LastPanic, "WithFailed")
		require.NoError(w, s.Close(w.Context()))
	})
}

// Close from within the function must not hang for ever, nor must Flush.
func TestSenderMayBeClosedFromItsFunction(t *testing.T) {
	bubble(t, 1, func(w *world, m *plex.Multiplexer) {
		require.NoError(w, m.Close())
		var s *message.Sender
		s = sender(w, m, message.WithFailed(func([]byte, error) {
			_ = s.Flush(context.Background())
			_ = s.Close(context.Background())
		}))
		require.NoError(w, s.Queue([]byte("x")))
		if err := s.Close(w.Context()); err != nil { // unless the function's own Close came first
			require.ErrorIs(w, err, plex.ErrClosed)
		}
		synctest.Wait()
	})
}

func TestSenderWritesDatagramsOneByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		d := fakenet.NewDatagrams()
		m := w.mux(plex.WithConnections(d))
		var h handed
		s := sender(t, m, h.option(), message.WithDrop(message.DropOldest), message.WithQueue(50))
		block, err := m.Writer(t.Context(), 0)
		require.NoError(t, err)
		var want []string
		for i := range 40 {
			word := strings.Repeat(strconv.Itoa(i%10), i%5+1)
			require.NoError(t, s.Queue([]byte(word)))
			want = append(want, word)
			synctest.Wait()
		}
		dropped, _ := h.get()
		require.NotEmpty(t, dropped)
		require.NoError(t, block.Close())
		require.NoError(t, s.Flush(t.Context()))
		require.Equal(t, want, append(dropped, d.Packets()...))
		require.EqualValues(t, len(want)-len(dropped), s.Stats().Writes)
		require.NoError(t, s.Close(t.Context()))
		requireAccount(t, s, 40)
	})
}

// A connection that comes for an idle Sender finds nothing of it left over.
func TestSenderHasNoGoroutineWhileItIsIdle(t *testing.T) {
	bubble(t, 1, func(w *world, m *plex.Multiplexer) {
		s := sender(w, m)
		synctest.Wait()
		before := runtime.NumGoroutine()
		for range 10 {
			require.NoError(w, s.Queue([]byte("x")))
			require.NoError(w, s.Flush(w.Context()))
			settle()
			require.LessOrEqual(w, runtime.NumGoroutine(), before)
			require.Zero(w, m.Stats().LeasedWriters)
		}
	})
}

func TestSenderMisuse(t *testing.T) {
	bubble(t, 1, func(w *world, m *plex.Multiplexer) {
		_, err := message.NewSender(nil, message.WithQueue(0), nil, message.WithDrop(7), message.WithWriteBuffer(-1),
			message.WithWriteTimeout(0), message.WithFailed(nil))
		for _, text := range []string{
			"NewSender: the multiplexer is nil", "WithQueue: the bound is 0", "option 2 of 6 is nil",
			"WithDrop: the policy is 7", "WithWriteBuffer: the size is -1", "WithWriteTimeout: the duration is 0s",
			"WithFailed: the function is nil",
		} {
			require.ErrorContains(w, err, text)
		}
		s := sender(w, m)
		var none context.Context
		err = s.Send(none, []byte("x"))
		requireSendError(w, err, false)
		require.ErrorContains(w, err, "context is nil")
		require.ErrorContains(w, s.Flush(none), "context is nil")
		require.ErrorContains(w, s.Close(none), "context is nil")
		ended, cancel := context.WithCancel(w.Context())
		cancel()
		requireSendError(w, s.Send(ended, []byte("x")), false, context.Canceled)
		require.NoError(w, s.Close(ended), "nothing is left")
		require.Empty(w, w.peers[0].Unread())
		requireAccount(w, s, 2)
	})
}

func TestSenderQueueAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes sync.Pool forget")
	}
	s := sender(t, discarding(t))
	data := make([]byte, 64)
	ctx := context.Background()
	for range 10_000 {
		require.NoError(t, s.Queue(data))
	}
	require.NoError(t, s.Flush(ctx))
	allocs := testing.AllocsPerRun(20_000, func() {
		for errors.Is(s.Queue(data), message.ErrFull) {
			runtime.Gosched()
		}
	})
	require.Zero(t, allocs)
	allocs = testing.AllocsPerRun(2_000, func() { require.NoError(t, s.Send(ctx, data)) })
	require.Zero(t, allocs)
	require.NoError(t, s.Close(ctx))
}

// discarding is a multiplexer over one real connection whose peer reads and discards.
func discarding(t testing.TB) *plex.Multiplexer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(io.Discard, c); _ = c.Close() }()
		}
	}()
	m, err := plex.New(context.Background(), plex.WithConnector(plex.Dial("tcp", l.Addr().String())),
		plex.WithMinConnections(1), plex.WithMaxCapacity(1))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

// What a datagram connection says of one datagram concerns that message alone. That nobody listens
// is about an earlier one.
func TestSenderDatagramsThatAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		d := fakenet.NewDatagrams()
		refuse := true
		var packets []string
		d.OnWrite(func(p []byte, _ func([]byte) (int, error)) (int, error) {
			refuse = !refuse
			switch {
			case !refuse:
				return 0, syscall.ECONNREFUSED
			case len(p) > 4:
				return 0, syscall.EMSGSIZE
			}
			packets = append(packets, string(p))
			return len(p), nil
		})
		m := w.mux(plex.WithConnections(d))
		var h handed
		s := sender(t, m, h.option())
		for _, word := range []string{"one", "longer", "two"} {
			require.NoError(t, s.Queue([]byte(word)))
		}
		requireSendError(t, s.Send(t.Context(), []byte("longest")), false, syscall.EMSGSIZE)
		require.NoError(t, s.Flush(t.Context()))
		sure, may := h.get()
		require.Equal(t, []string{"longer"}, sure)
		require.Empty(t, may)
		require.Equal(t, []string{"one", "two"}, packets)
		require.Equal(t, 1, m.Stats().Open)
		require.NoError(t, s.Close(t.Context()))
		requireAccount(t, s, 4)
	})
}

// Datagrams that wait when their connection is lost go over the next.
func TestSenderDatagramsOverAnotherConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		d, e := fakenet.NewDatagrams(), fakenet.NewDatagrams()
		m := w.mux(plex.WithConnections(d, e))
		var h handed
		s := sender(t, m, h.option())
		var conn plex.Conn
		for c := range m.Conns() {
			if c.RemoteAddr().String() == d.RemoteAddr().String() {
				conn = c
			}
		}
		block, err := m.Writer(t.Context(), 0)
		require.NoError(t, err)
		other, err := m.Writer(t.Context(), 0)
		require.NoError(t, err)
		if block.Conn() != conn {
			block, other = other, block
		}
		d.Allow(0)
		require.NoError(t, s.Queue([]byte("one")))
		require.NoError(t, s.Queue([]byte("two")))
		require.NoError(t, block.Close())
		synctest.Wait()
		conn.Kill()
		require.NoError(t, other.Close())
		require.NoError(t, s.Close(t.Context()))
		require.Equal(t, []string{"one", "two"}, append(d.Packets(), e.Packets()...))
		sure, may := h.get()
		require.Empty(t, sure)
		require.Empty(t, may)
		requireAccount(t, s, 2)
	})
}

// A message of more than 8 KiB that is queued is copied, too.
func TestSenderQueueCopies(t *testing.T) {
	for _, size := range []int{10, 20 << 10} {
		bubble(t, 1, func(w *world, m *plex.Multiplexer) {
			s := sender(w, m)
			block, err := m.Writer(w.Context(), 0)
			require.NoError(w, err)
			data := bytes.Repeat([]byte("a"), size)
			require.NoError(w, s.Queue(data))
			clear(data)
			require.NoError(w, block.Close())
			require.NoError(w, s.Close(w.Context()))
			require.Equal(w, strings.Repeat("a", size), w.peers[0].Unread())
		})
	}
}

// What is queued while a Flush waits does not share a Write with what the Flush waits for.
func TestSenderFlushIsNotDelayedByLaterMessages(t *testing.T) {
	bubble(t, 1, func(w *world, m *plex.Multiplexer) {
		s := sender(w, m)
		block, err := m.Writer(w.Context(), 0)
		require.NoError(w, err)
		require.NoError(w, s.Queue([]byte("one;")))
		flushed := make(chan error, 1)
		go func() { flushed <- s.Flush(w.Context()) }()
		synctest.Wait()
		require.NoError(w, s.Queue([]byte("two;")))
		w.peers[0].Allow(4)
		require.NoError(w, block.Close())
		synctest.Wait()
		require.Len(w, flushed, 1)
		w.peers[0].Allow(-1)
		require.NoError(w, s.Close(w.Context()))
	})
}

// The function of WithFailed may keep its data.
func TestSenderHandsBackDataThatStays(t *testing.T) {
	bubble(t, 1, func(w *world, m *plex.Multiplexer) {
		require.NoError(w, m.Close())
		var kept [][]byte
		s := sender(w, m, message.WithFailed(func(data []byte, _ error) { kept = append(kept, data) }))
		for _, word := range []string{"one;", "two;", "big;"} {
			require.NoError(w, s.Queue([]byte(word)))
			require.NoError(w, s.Flush(w.Context()))
		}
		require.Equal(w, "one;two;big;", string(bytes.Join(kept, nil)))
		require.NoError(w, s.Close(w.Context()))
	})
}
