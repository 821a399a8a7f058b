package message_test

// Split functions that keep state for each connection.

import (
	"bufio"
	"context"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/message"
)

// numbering returns split functions for bytes. Each numbers the bytes of its connection, and fails
// the test if it is shown a byte again that it has advanced over.
func numbering(made *int) func(plex.Conn) bufio.SplitFunc {
	return func(plex.Conn) bufio.SplitFunc {
		*made++
		n := 0
		return func(data []byte, _ bool) (int, []byte, error) {
			if len(data) == 0 {
				return 0, nil, nil
			}
			n++
			return 1, fmt.Appendf(nil, "%c%d", data[0], n), nil
		}
	}
}

func receiverFor(t testing.TB, m *plex.Multiplexer, f func(plex.Conn) bufio.SplitFunc) *message.Receiver {
	t.Helper()
	r, err := message.NewFor(m, f)
	require.NoError(t, err)
	return r
}

func TestEachConnectionHasASplitFunctionOfItsOwn(t *testing.T) {
	bubble(t, 2, func(w *world, m *plex.Multiplexer) {
		made := 0
		r := receiverFor(w, m, numbering(&made))
		l := start(w, r, nil)
		settle()
		require.Zero(w, made, "before anything has arrived")
		for _, p := range w.peers {
			p.Send("ab")
			settle()
			p.Send("c")
			settle()
		}
		require.Equal(w, []string{"a1", "b2", "c3", "a1", "b2", "c3"}, l.words())
		require.Equal(w, 2, made)
		require.Equal(w, 2, r.Splits())
		require.NoError(w, w.peers[0].CloseWrite())
		settle()
		require.Equal(w, 1, r.Splits(), "of the connection that is left")
		l.stop()
		r.Discard()
		require.Zero(w, r.Splits())
	})
}

// What a connection has brought before its end goes to the split function that it had, also if no
// loop runs when it ends.
func TestASplitFunctionOutlivesItsConnectionUntilAllIsDelivered(t *testing.T) {
	for _, kill := range []bool{true, false} {
		bubble(t, 1, func(w *world, m *plex.Multiplexer) {
			made := 0
			r := receiverFor(w, m, numbering(&made))
			w.peers[0].Send("abcd")
			require.Equal(w, []string{"a1"}, take(w, r, 1))
			if kill {
				for conn := range m.Conns() {
					conn.Kill()
				}
			} else {
				require.NoError(w, w.peers[0].CloseWrite())
			}
			settle()
			require.Equal(w, []string{"b2", "c3"}, take(w, r, 2))
			require.Equal(w, []string{"d4", "end"}, take(w, r, 2))
			settle()
			require.Equal(w, 1, made)
			require.Zero(w, r.Splits())
		})
	}
}

func TestWhatAChannelCouldNotDeliverIsNotSplitAgain(t *testing.T) {
	for _, ends := range []bool{true, false} { // the connection, before the rest is delivered
		bubble(t, 1, func(w *world, m *plex.Multiplexer) {
			made := 0
			r := receiverFor(w, m, numbering(&made))
			w.peers[0].Send("abc")
			for range 3 {
				ctx, cancel := context.WithCancel(w.Context())
				ch := r.Channel(ctx, 0)
				synctest.Wait() // it holds the first message
				cancel()
				_, open := <-ch
				require.False(w, open)
				settle()
			}
			if ends {
				require.NoError(w, w.peers[0].CloseWrite())
				settle()
			}
			require.Equal(w, []string{"a1", "b2", "c3"}, take(w, r, 3))
		})
	}
}

func TestTheLastMessageThatAChannelCouldNotDeliverIsStillTheLast(t *testing.T) {
	bubble(t, 1, func(w *world, m *plex.Multiplexer) {
		r := receiverFor(w, m, func(plex.Conn) bufio.SplitFunc {
			return func(data []byte, _ bool) (int, []byte, error) { return 1, data[:1], bufio.ErrFinalToken }
		})
		w.peers[0].Send("abc")
		ctx, cancel := context.WithCancel(w.Context())
		ch := r.Channel(ctx, 0)
		synctest.Wait()
		cancel()
		<-ch
		settle()
		require.Equal(w, []string{"a", "end"}, take(w, r, 2))
		require.True(w, closed(w.peers[0]))
		settle()
		require.Zero(w, r.Splits())
		require.Zero(w, r.Leftovers())
	})
}

func TestAFunctionThatMakesNoSplitFunctionCostsItsConnection(t *testing.T) {
	for name, f := range map[string]func() bufio.SplitFunc{
		"nil":    func() bufio.SplitFunc { return nil },
		"panic":  func() bufio.SplitFunc { panic("no") },
		"Goexit": func() bufio.SplitFunc { runtime.Goexit(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 2, func(w *world, m *plex.Multiplexer) {
				made := 0
				r := receiverFor(w, m, func(plex.Conn) bufio.SplitFunc {
					if made++; made == 1 {
						return f()
					}
					return message.Lines
				})
				l := start(w, r, nil)
				w.peers[0].Send("1\n")
				settle()
				if name == "Goexit" {
					<-l.done
					l = start(w, r, nil)
				}
				w.peers[1].Send("2\n")
				settle()
				require.Equal(w, []string{"split", "2"}, l.words())
				require.True(w, closed(w.peers[0]))
			})
		})
	}
}

func TestNewForRefusesNil(t *testing.T) {
	bubble(t, 1, func(w *world, m *plex.Multiplexer) {
		_, err := message.NewFor(nil, func(plex.Conn) bufio.SplitFunc { return nil })
		require.EqualError(w, err, "message: NewFor: the multiplexer is nil; plex.New makes one")
		_, err = message.NewFor(m, nil)
		require.ErrorContains(w, err, "message: NewFor: the function that makes split functions is nil")
		_, err = message.NewFor(m, func(plex.Conn) bufio.SplitFunc { return nil }, message.WithMaxSize(0))
		require.ErrorContains(w, err, "WithMaxSize")
	})
}
