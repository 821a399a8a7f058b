package request_test

// Streams, and what cancels a request.

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
	"go.atomizer.io/plex/request"
)

const (
	kindPart   = 'm' // a reply that is not the last
	kindCancel = 'c'
)

// partProtocol is wireProtocol with several messages to a request.
type partProtocol struct{ wireProtocol }

func (p partProtocol) ParsePart(m []byte) (id uint64, part []byte, last bool, err error) {
	if len(m) >= 9 && m[0] == kindPart {
		return binary.BigEndian.Uint64(m[1:]), m[9:], false, nil
	}

	id, part, err = p.Parse(m)

	return id, part, true, err
}

// cancelProtocol is wireProtocol with a cancel, which has the text of its request.
type cancelProtocol struct {
	wireProtocol
	canceling func(text string) error
}

func (p cancelProtocol) AppendCancel(dst []byte, id uint64, text string) ([]byte, error) {
	if p.canceling != nil {
		if err := p.canceling(text); err != nil {
			return dst, err
		}
	}

	return append(dst, frame(kindCancel, id, text)...), nil
}

// fullProtocol has both.
type fullProtocol struct {
	partProtocol
	canceling func(text string) error
}

func (p fullProtocol) AppendCancel(dst []byte, id uint64, text string) ([]byte, error) {
	return cancelProtocol{canceling: p.canceling}.AppendCancel(dst, id, text)
}

// allProtocol pings as well.
type allProtocol struct{ fullProtocol }

func (allProtocol) Ping() string { return "ping" }

// with makes a client for any protocol of texts, and closes it at the end, when nothing may be in
// flight.
func (w *world) with(p request.Protocol[string, []byte], options ...request.Option) *client {
	c, err := request.New(w.mux, p, options...)
	require.NoError(w, err)
	w.Cleanup(func() {
		require.NoError(w, c.Close())
		balanced(w, c.Stats())
	})

	return c
}

// part sends a part that is not the last.
func (c *fakeConn) part(id uint64, texts ...string) {
	var all [][]byte
	for _, text := range texts {
		all = append(all, frame(kindPart, id, text))
	}
	c.send(all...)
}

// told waits for a frame of any kind.
func (c *fakeConn) told() (kind byte, a asked) {
	length := c.peer.ReadN(2)
	if len(length) < 2 {
		return 0, asked{}
	}
	m := c.peer.ReadN(int(binary.BigEndian.Uint16([]byte(length))))
	if len(m) < 9 {
		return 0, asked{}
	}

	return m[0], asked{binary.BigEndian.Uint64([]byte(m[1:])), m[9:]}
}

// canceled waits for the cancel of a request.
func (c *fakeConn) canceled(t testing.TB, id uint64, text string) {
	t.Helper()
	synctest.Wait()
	require.NotZero(t, c.unread(), "no cancel has been written")
	kind, a := c.told()
	require.EqualValues(t, kindCancel, kind)
	require.Equal(t, asked{id, text}, a)
}

// stream is a loop over a stream in a goroutine.
type stream struct {
	got  chan outcome  // what it got, one after another
	next chan struct{} // lets it take the next one
	done chan struct{} // closed when it has ended
}

// streaming starts a loop over a stream. It takes the first part by itself.
func streaming(ctx context.Context, c *client, text string) *stream {
	s := &stream{make(chan outcome, 1000), make(chan struct{}, 1000), make(chan struct{})}

	go func() {
		defer close(s.done)
		for part, err := range c.Stream(ctx, text) {
			s.got <- outcome{string(part), err}
			if _, more := <-s.next; !more {
				return
			}
		}
	}()

	return s
}

// free lets it take as much as there is.
func (s *stream) free() {
	for range 900 {
		s.next <- struct{}{}
	}
}

func (s *stream) requireParts(t testing.TB, texts ...string) {
	t.Helper()
	for _, text := range texts {
		o := <-s.got
		require.NoError(t, o.err)
		require.Equal(t, text, o.text)
	}
}

func (s *stream) requireEnd(t testing.TB) {
	t.Helper()
	<-s.done
	require.Empty(t, s.got)
}

func TestAStreamDeliversAllPartsInOrderAndEnds(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.with(partProtocol{})
		a, b := streaming(t.Context(), c, "a"), streaming(t.Context(), c, "b")
		a.free()
		b.free()
		synctest.Wait()
		var at [2]*fakeConn
		var ids [2]uint64
		for _, conn := range conns {
			for conn.unread() > 0 {
				got, _ := conn.next()
				i := int(got.text[0] - 'a')
				at[i], ids[i] = conn, got.id
			}
		}
		at[0].part(ids[0], "1", "2")
		at[1].part(ids[1], "one")
		a.requireParts(t, "1", "2")
		at[0].part(ids[0], "3")
		a.requireParts(t, "3")
		at[1].reply(ids[1], "two")
		b.requireParts(t, "one", "two")
		b.requireEnd(t)
		require.Equal(t, 1, c.Stats().InFlight)
		at[0].part(ids[0], "4")
		at[0].reply(ids[0], "")
		a.requireParts(t, "4", "")
		a.requireEnd(t)
		s := c.Stats()
		require.Equal(t, []uint64{2, 2, 5}, []uint64{s.Requests, s.Replies, s.Parts})

		// The same loop makes the request again.
		loop := c.Stream(t.Context(), "again")
		for range 2 {
			go func() {
				for i := range conns {
					go func() {
						if got, ok := conns[i].next(); ok {
							conns[i].reply(got.id, got.text)
						}
					}()
				}
			}()
			for part, err := range loop {
				require.NoError(t, err)
				require.Equal(t, "again", string(part))
			}
			synctest.Wait()
		}
	})
}

func TestAStreamWithoutPartsIsRefused(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, _ []*fakeConn) {
		for _, c := range []*client{w.client(), w.ordered()} {
			n := 0
			for _, err := range c.Stream(t.Context(), "x") {
				n++
				require.EqualError(t, err, "request: not sent: Stream: the protocol has no method ParsePart; use Do")
			}
			require.Equal(t, 1, n)
			require.NoError(t, c.Close())
		}
	})
}

func TestPartsThatCameBeforeTheEndOfTheConnectionAreDelivered(t *testing.T) {
	for name, end := range map[string]func(*fakeConn){"fin": (*fakeConn).fin, "reset": (*fakeConn).reset} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
				c := w.with(fullProtocol{})
				s := streaming(t.Context(), c, "x")
				id := conns[0].take("x")
				conns[0].part(id, "1", "2", "3")
				end(conns[0])
				time.Sleep(time.Second)
				s.free()
				s.requireParts(t, "1", "2", "3")
				err := (<-s.got).err
				require.ErrorContains(t, err, "may have been sent")
				requireConn(t, err, conns[0])
				s.requireEnd(t)
				require.EqualValues(t, 1, c.Stats().Failed)
			})
		})
	}
}

// For each way to end a loop early: the request is given up and cancelled, its identifier stays
// reserved, what comes late is dropped, and the connection serves others meanwhile.
func TestLeavingALoopEarlyCancelsTheRequest(t *testing.T) {
	type way func(t *testing.T, loop iter.Seq2[[]byte, error], cancel context.CancelFunc)
	for name, leave := range map[string]way{
		"break": func(t *testing.T, loop iter.Seq2[[]byte, error], _ context.CancelFunc) {
			for part, err := range loop {
				require.NoError(t, err)
				require.Equal(t, "1", string(part))

				break
			}
		},
		"panic": func(t *testing.T, loop iter.Seq2[[]byte, error], _ context.CancelFunc) {
			require.PanicsWithValue(t, "body", func() {
				for range loop {
					panic("body")
				}
			})
		},
		"runtime.Goexit": func(_ *testing.T, loop iter.Seq2[[]byte, error], _ context.CancelFunc) {
			done := make(chan struct{})
			go func() {
				defer close(done)
				for range loop {
					runtime.Goexit()
				}
			}()
			<-done
		},
		"its context, while it waits": func(t *testing.T, loop iter.Seq2[[]byte, error], cancel context.CancelFunc) {
			n := 0
			for part, err := range loop {
				switch n++; n {
				case 1, 2:
					require.NoError(t, err)
					require.Equal(t, fmt.Sprint(n), string(part))
					if n == 2 {
						time.AfterFunc(time.Second, cancel)
					}
				default:
					requireIs(t, err, true, context.Canceled)
				}
			}
			require.Equal(t, 3, n)
		},
		"its context, while there are parts": func(t *testing.T, loop iter.Seq2[[]byte, error], cancel context.CancelFunc) {
			n := 0
			for _, err := range loop {
				if n++; n == 1 {
					require.NoError(t, err)
					cancel()
				} else {
					requireIs(t, err, true, context.Canceled)
				}
			}
			require.Equal(t, 2, n)
		},
		"iter.Pull": func(t *testing.T, loop iter.Seq2[[]byte, error], _ context.CancelFunc) {
			next, stop := iter.Pull2(loop)
			part, err, ok := next()
			require.True(t, ok)
			require.NoError(t, err)
			require.Equal(t, "1", string(part))
			stop()
		},
	} {
		for _, ids := range []uint64{1, 1<<31 - 1, 1<<64 - 1} {
			t.Run(fmt.Sprint(name, " ", ids), func(t *testing.T) {
				bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
					c := w.with(fullProtocol{}, request.WithIDs(ids))
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					var id uint64
					go func() {
						id = conns[0].take("search")
						conns[0].part(id, "1", "2")
					}()
					leave(t, c.Stream(ctx, "search"), cancel)
					conns[0].canceled(t, id, "search")
					s := c.Stats()
					require.Equal(t, []uint64{1, 1}, []uint64{s.Canceled, s.Cancels})
					require.Zero(t, s.InFlight)
					require.Equal(t, ids < 1<<32, s.Abandoned == 1)

					conns[0].part(id, "3", "4")
					asked := asking(t.Context(), c, "next")
					other := conns[0].take("next")
					require.NotEqual(t, id, other)
					conns[0].reply(other, "reply")
					requireReply(t, asked, "reply")
					conns[0].reply(id, "last")
					synctest.Wait()
					s = c.Stats()
					require.EqualValues(t, 3, s.Late)
					require.Zero(t, s.Unknown)

					time.Sleep(3 * time.Minute)
					require.Zero(t, c.Stats().Abandoned)
				})
			})
		}
	}
}

func TestALoopThatIsLeftAfterTheLastPartHasComeCancelsNothing(t *testing.T) {
	for _, last := range []bool{false, true} { // has the loop learned of it?
		bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
			c := w.with(fullProtocol{}, request.WithIDs(0))
			s := streaming(t.Context(), c, "x")
			id := conns[0].take("x")
			conns[0].part(id, "1", "2", "3")
			if last {
				conns[0].reply(id, "4")
				synctest.Wait()
			}
			synctest.Wait()
			s.next <- struct{}{}
			synctest.Wait()
			if !last {
				conns[0].reply(id, "4")
				synctest.Wait()
			}
			close(s.next)
			<-s.done
			synctest.Wait()
			require.Zero(t, conns[0].unread())
			st := c.Stats()
			require.Equal(t, []uint64{1, 0, 0}, []uint64{st.Replies, st.Canceled, st.Cancels})
			require.Zero(t, st.Abandoned)
		})
	}
}

// A loop that is slow holds nobody up, and does not make memory grow: it gets what is kept for it,
// and then an error, and the request is cancelled when the bound is exceeded.
func TestAStreamThatIsTooSlowFailsAlone(t *testing.T) {
	for _, ids := range []uint64{9, 1<<64 - 1} {
		bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
			size := len(frame(kindPart, 0, "part 0")) - 2 + 64
			c := w.with(fullProtocol{}, request.WithStreamBuffer(10*size), request.WithIDs(ids), request.WithReceivers(1))
			s := streaming(t.Context(), c, "x")
			id := conns[0].take("x")
			conns[0].part(id, "part 0")
			synctest.Wait() // the loop has taken it, which counts
			for i := range 9 {
				conns[0].part(id, fmt.Sprint("part ", i+1))
			}
			synctest.Wait()
			require.Equal(t, 1, c.Stats().InFlight)
			for range 20 {
				conns[0].part(id, "excess")
			}
			conns[0].canceled(t, id, "x")
			require.Zero(t, conns[0].unread())
			require.Zero(t, c.Stats().InFlight)
			asked := asking(t.Context(), c, "next")
			conns[0].reply(conns[0].take("next"), "reply")
			requireReply(t, asked, "reply")

			s.free()
			for i := range 10 {
				s.requireParts(t, fmt.Sprint("part ", i))
			}
			err := (<-s.got).err
			requireIs(t, err, true, request.ErrSlow)
			requireConn(t, err, conns[0])
			s.requireEnd(t)
			st := c.Stats()
			require.Equal(t, []uint64{2, 1, 1, 1, 19}, []uint64{st.Requests, st.Replies, st.Failed, st.Cancels, st.Late})
		})
	}
}

// A part that is larger than the bound is delivered, if the loop keeps nothing else.
func TestAStreamThatKeepsUpMayHavePartsOfAnySize(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.with(partProtocol{}, request.WithStreamBuffer(1))
		s := streaming(t.Context(), c, "x")
		s.free()
		id := conns[0].take("x")
		for i := range 100 {
			text := strings.Repeat("x", i*100)
			conns[0].part(id, text)
			synctest.Wait()
			s.requireParts(t, text)
			synctest.Wait()
		}
		conns[0].reply(id, "")
		s.requireParts(t, "")
		s.requireEnd(t)
	})
}

// A stream that is too slow may be left, or its context end, before its loop learns of that.
func TestAStreamThatIsTooSlowMayBeLeft(t *testing.T) {
	for _, ids := range []uint64{9, 1<<64 - 1} {
		for _, left := range []bool{false, true} {
			bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
				c := w.with(fullProtocol{}, request.WithStreamBuffer(300), request.WithIDs(ids))
				ctx, cancel := context.WithCancel(t.Context())
				s := streaming(ctx, c, "x")
				id := conns[0].take("x")
				conns[0].part(id, "1")
				synctest.Wait()
				conns[0].part(id, "2", "3", "4", "5", "6", "7")
				conns[0].canceled(t, id, "x")
				cancel()
				if left {
					close(s.next)
				} else {
					s.free()
				}
				<-s.done
				synctest.Wait()
				require.Zero(t, conns[0].unread())
				require.EqualValues(t, 1, c.Stats().Failed)
				require.EqualValues(t, 1, c.Stats().Cancels)
			})
		}
	}
}

func TestDoRefusesARequestWithSeveralReplies(t *testing.T) {
	for _, ids := range []uint64{9, 1<<64 - 1} {
		for _, endless := range []bool{false, true} {
			bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
				ctx := t.Context()
				if endless {
					ctx = context.Background()
				}
				c := w.with(fullProtocol{}, request.WithIDs(ids))
				one := asking(ctx, c, "one")
				conns[0].reply(conns[0].take("one"), "reply")
				requireReply(t, one, "reply")

				many := asking(ctx, c, "many")
				id := conns[0].take("many")
				conns[0].part(id, "1", "2")
				requireError(t, many, true, request.ErrParts)
				conns[0].canceled(t, id, "many")
				conns[0].reply(id, "3")
				next := asking(ctx, c, "next")
				other := conns[0].take("next")
				require.NotEqual(t, id, other)
				conns[0].reply(other, "reply")
				requireReply(t, next, "reply")

				// The end may come at the same moment.
				for range 20 {
					both := asking(ctx, c, "both")
					id := conns[0].take("both")
					conns[0].send(frame(kindPart, id, "1"), frame(kindReply, id, "2"))
					o := <-both
					if o.err == nil {
						require.Equal(t, "2", o.text)
					} else {
						requireIs(t, o.err, true, request.ErrParts)
					}
					synctest.Wait()
					for conns[0].unread() > 0 {
						conns[0].told()
					}
				}
			})
		}
	}
}

func TestCloseEndsStreams(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.with(fullProtocol{})
		s := streaming(t.Context(), c, "x")
		conns[0].part(conns[0].take("x"), "1", "2")
		synctest.Wait()
		require.NoError(t, c.Close())
		s.free()
		s.requireParts(t, "1", "2")
		requireIs(t, (<-s.got).err, true, request.ErrClosed)
		s.requireEnd(t)
		for _, err := range c.Stream(t.Context(), "x") {
			requireIs(t, err, false, request.ErrClosed)
		}
	})
}

func TestAStreamSaysWhyItCouldNotBegin(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		errText := errors.New("text")
		c := w.with(fullProtocol{partProtocol: partProtocol{wireProtocol{appending: func(text string) error {
			if text == "bad" {
				return errText
			}

			return nil
		}}}}, request.WithInFlight(1))
		only := func(ctx context.Context, text string, target error) {
			t.Helper()
			n := 0
			for _, err := range c.Stream(ctx, text) {
				n++
				requireIs(t, err, false, target)
			}
			require.Equal(t, 1, n)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		only(ended, "x", context.Canceled)
		only(t.Context(), "bad", errText)
		busy := asking(t.Context(), c, "busy")
		id := conns[0].take("busy")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		only(ctx, "x", context.DeadlineExceeded)
		conns[0].reply(id, "reply")
		requireReply(t, busy, "reply")
		require.Zero(t, c.Stats().Cancels)
	})
}

// -------------------------------------------------------------------------------------------------
// Cancels

func TestARequestThatItsContextEndsIsCancelled(t *testing.T) {
	for _, ids := range []uint64{1, 1<<31 - 1, 1<<64 - 1} {
		bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
			c := w.with(cancelProtocol{}, request.WithIDs(ids))
			ctx, cancel := context.WithCancel(t.Context())
			asked := asking(ctx, c, "x")
			id := conns[0].take("x")
			cancel()
			requireError(t, asked, true, context.Canceled)
			conns[0].canceled(t, id, "x")
			require.EqualValues(t, 1, c.Stats().Cancels)
			require.EqualValues(t, 1, c.Stats().Writes, "a cancel is no request")

			// If the server never answers, the identifier of many is free after a while.
			for range 2 {
				time.Sleep(61 * time.Second)
			}
			require.Equal(t, ids == 1, c.Stats().Abandoned == 1)
			require.Zero(t, c.Stats().InFlight)
		})
	}
}

func TestWhatWasNotSentIsNotCancelled(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.with(cancelProtocol{})
		release := held(conns[0])
		first := asking(t.Context(), c, "first")
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		gone := asking(ctx, c, "gone")
		synctest.Wait()
		cancel()
		requireError(t, gone, false, context.Canceled)
		release()
		conns[0].reply(conns[0].take("first"), "first")
		requireReply(t, first, "first")
		synctest.Wait()
		require.Zero(t, conns[0].unread())
		require.Zero(t, c.Stats().Cancels)
	})
}

// A cancel goes behind its request, also if that is still being written, and nobody waits for it.
func TestACancelWaitsForTheWriteOfItsRequestAndNobodyForIt(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.with(cancelProtocol{}, request.WithIDs(99))
		conns[0].allow(5)
		ctx, cancel := context.WithCancel(t.Context())
		asked := asking(ctx, c, "x")
		synctest.Wait()
		time.Sleep(time.Second)
		cancel()
		requireIs(t, ended(t, asked).err, true, context.Canceled)
		synctest.Wait()
		next := asking(t.Context(), c, "next")
		conns[1].reply(conns[1].take("next"), "reply")
		requireReply(t, next, "reply")
		require.Zero(t, c.Stats().Cancels)
		conns[0].allow(-1)
		id := conns[0].take("x")
		conns[0].canceled(t, id, "x")
	})
}

// What cancels many requests at the same moment is one Write. More than a bound is dropped.
func TestCancelsAreGathered(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.with(cancelProtocol{}, request.WithIDs(1<<16-1))
		ctx, cancel := context.WithCancel(t.Context())
		const n = 3000
		var all []<-chan outcome
		ids := map[uint64]string{}
		for i := range n {
			all = append(all, asking(ctx, c, fmt.Sprintf("%050d", i)))
			synctest.Wait()
			a, _ := conns[0].next()
			ids[a.id] = a.text
		}
		release := held(conns[0])
		busy := asking(t.Context(), c, "busy")
		synctest.Wait()
		before := conns[0].Calls().Writes
		cancel()
		for _, asked := range all {
			requireError(t, asked, true, context.Canceled)
		}
		synctest.Wait()
		release()
		conns[0].reply(conns[0].take("busy"), "reply")
		requireReply(t, busy, "reply")
		synctest.Wait()
		sent := 0
		for ; conns[0].unread() > 0; sent++ {
			kind, a := conns[0].told()
			require.EqualValues(t, kindCancel, kind)
			require.Equal(t, ids[a.id], a.text)
			delete(ids, a.id)
		}
		require.Equal(t, 64<<10/len(frame(kindCancel, 0, fmt.Sprintf("%050d", 0))), sent)
		require.EqualValues(t, sent, c.Stats().Cancels)
		require.LessOrEqual(t, conns[0].Calls().Writes-before, 2)
		require.Equal(t, n, c.Stats().Abandoned)
		for id := range uint64(n) { // also those whose cancel was dropped
			conns[0].reply(id, "late")
		}
		synctest.Wait()
		require.Zero(t, c.Stats().Abandoned)
	})
}

// If a late reply freed the identifier while the cancel waits to be written, the cancel could hit the
// next request that has it.
func TestAnIdentifierIsNotUsedAgainBeforeItsCancelIsWritten(t *testing.T) {
	for _, ended := range []bool{false, true} {
		bubble(t, 2, func(t *testing.T, w *world, conns []*fakeConn) {
			c := w.with(cancelProtocol{}, request.WithIDs(0))
			ctx, cancel := context.WithCancel(t.Context())
			asked := asking(ctx, c, "x")
			synctest.Wait()
			at, other := conns[0], conns[1]
			if at.unread() == 0 {
				at, other = other, at
			}
			at.take("x")
			at.allow(0)
			cancel()
			requireError(t, asked, true, context.Canceled)
			at.reply(0, "late")
			next := asking(t.Context(), c, "next")
			requirePending(t, next)
			require.Zero(t, other.unread())
			require.EqualValues(t, 1, c.Stats().Late)
			if ended {
				at.reset()
			} else {
				at.allow(-1)
				at.canceled(t, 0, "x")
			}
			synctest.Wait()
			answer(conns, "next")
			requireReply(t, next, "reply")
		})
	}
}

// The client itself holds the writer of a full connection.
func TestARequestOnAFullConnectionIsCancelledWhichMakesRoom(t *testing.T) {
	for _, ids := range []uint64{1<<31 - 1, 1<<64 - 1} {
		for _, writing := range []bool{false, true} {
			bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
				c := w.with(cancelProtocol{}, request.WithInFlightPerConn(2), request.WithIDs(ids))
				ctx, cancel := context.WithCancel(t.Context())
				gone := asking(ctx, c, "gone")
				id := conns[0].take("gone")
				if writing {
					conns[0].allow(3)
				}
				stays := asking(t.Context(), c, "stays")
				synctest.Wait()
				next := asking(t.Context(), c, "next")
				requirePending(t, next)
				cancel()
				requireError(t, gone, true, context.Canceled)
				synctest.Wait()
				conns[0].allow(-1)
				other := conns[0].take("stays")
				conns[0].canceled(t, id, "gone") // though there is no reply that makes room
				conns[0].reply(other, "reply")
				requireReply(t, stays, "reply")
				conns[0].reply(conns[0].take("next"), "reply")
				requireReply(t, next, "reply")
			})
		}
	}
}

func TestAFullConnectionStaysFullIfACancelMakesNoRoom(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.with(cancelProtocol{}, request.WithInFlightPerConn(1), request.WithIDs(99))
		ctx, cancel := context.WithCancel(t.Context())
		gone := asking(ctx, c, "gone")
		id := conns[0].take("gone")
		next := asking(t.Context(), c, "next")
		requirePending(t, next)
		cancel()
		requireError(t, gone, true, context.Canceled)
		conns[0].canceled(t, id, "gone")
		requirePending(t, next)
		require.Zero(t, conns[0].unread(), "the server may still be at work on it")
		conns[0].reply(id, "late")
		conns[0].reply(conns[0].take("next"), "reply")
		requireReply(t, next, "reply")
	})
}

func TestWhatCannotBeCancelled(t *testing.T) {
	errCancel := errors.New("cancel")
	for name, how := range map[string]func(string) error{
		"an error":       func(string) error { return errCancel },
		"a panic":        func(string) error { panic(errCancel) },
		"runtime.Goexit": func(string) error { runtime.Goexit(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
				c := w.with(cancelProtocol{canceling: how}, request.WithIDs(0))
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan any, 1)
				go func() {
					defer func() { done <- recover() }()
					_, err := c.Do(ctx, "x")
					requireIs(t, err, true, context.Canceled)
				}()
				id := conns[0].take("x")
				cancel()
				if v := <-done; name == "a panic" {
					require.Equal(t, errCancel, v)
				}
				synctest.Wait()
				require.Zero(t, conns[0].unread())
				next := asking(t.Context(), c, "next")
				requirePending(t, next)
				conns[0].reply(id, "late")
				conns[0].reply(conns[0].take("next"), "reply")
				requireReply(t, next, "reply")
			})
		})
	}
}

func TestACancelThatThePeerDoesNotTakeCostsItsConnection(t *testing.T) {
	bubble(t, 2, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.with(cancelProtocol{}, request.WithWriteTimeout(time.Second))
		ctx, cancel := context.WithCancel(t.Context())
		gone := asking(ctx, c, "gone")
		conns[0].take("gone")
		stays := asking(t.Context(), c, "stays")
		conns[1].take("stays")
		synctest.Wait()
		both := asking(t.Context(), c, "both")
		synctest.Wait()
		at := conns[0]
		at.allow(3)
		cancel()
		requireError(t, gone, true, context.Canceled)
		time.Sleep(3 * time.Second)
		require.Equal(t, 1, at.Closes())
		requireIs(t, ended(t, both).err, true, os.ErrDeadlineExceeded)
		requirePending(t, stays)
		conns[1].fin()
		<-stays
	})
}

func TestOverDatagramsEachCancelIsOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := fakenet.NewDatagrams()
		m, err := plex.New(t.Context(), plex.WithConnections(d))
		require.NoError(t, err)
		defer m.Close()
		c, err := request.New(m, cancelProtocol{})
		require.NoError(t, err)
		defer c.Close()
		ctx, cancel := context.WithCancel(t.Context())
		all := []<-chan outcome{asking(ctx, c, "a"), asking(ctx, c, "b")}
		synctest.Wait()
		require.Len(t, d.Packets(), 2)
		d.Allow(0)
		busy := asking(ctx, c, "busy")
		synctest.Wait()
		cancel()
		for _, asked := range all {
			requireError(t, asked, true, context.Canceled)
		}
		<-busy
		d.Allow(-1)
		synctest.Wait()
		packets := d.Packets()
		require.Len(t, packets, 6)
		for _, p := range packets[3:] {
			require.EqualValues(t, kindCancel, p[2])
			require.Len(t, p, 2+int(binary.BigEndian.Uint16([]byte(p))))
		}
	})
}

func TestCloseDoesNotWaitForCancels(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.with(cancelProtocol{}, request.WithIDs(99))
		ctx, cancel := context.WithCancel(t.Context())
		gone, too := asking(ctx, c, "gone"), asking(ctx, c, "too")
		synctest.Wait()
		conns[0].allow(3)
		cancel()
		requireError(t, gone, true, context.Canceled)
		requireError(t, too, true, context.Canceled)
		synctest.Wait()
		start := time.Now()
		require.NoError(t, c.Close())
		require.Zero(t, time.Since(start))
	})
}

// -------------------------------------------------------------------------------------------------
// At random

// Streams that are slow, left, cancelled and cut off, beside requests with one reply, over
// connections that fail. Each stream is a prefix of what its server sent, whole if it ends well, and
// no part is ever another's. The server answers until it is told to stop.
func TestNoPartIsEverAnothers(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			var servers sync.WaitGroup
			var mu sync.Mutex
			set := rand.New(rand.NewPCG(seed, 1))
			serve := func(c *fakeConn) {
				mu.Lock()
				fate, after := set.IntN(5), time.Duration(set.IntN(20000))*time.Microsecond
				random := rand.New(rand.NewPCG(seed, set.Uint64()))
				mu.Unlock()
				hang := make(chan struct{})
				switch {
				case fate == 0:
					time.AfterFunc(after, c.reset)
				case fate == 1 && seed%5 == 0:
					time.AfterFunc(after, func() { close(hang) })
				}
				servers.Go(func() { partServer(c, random, hang, seed%2 == 0) })
			}
			healing(t, 3, serve, func(t *testing.T, w *world) {
				options := []request.Option{request.WithStreamBuffer(1000)}
				if seed%2 == 0 {
					options = append(options, request.WithIDs(19))
				}
				if seed%3 == 0 {
					options = append(options, request.WithInFlightPerConn(3))
				}
				if seed%4 == 1 {
					options = append(options, request.WithRandomIDs())
				}
				if seed%5 == 0 {
					options = append(options, request.WithStallTimeout(20*time.Millisecond))
				}
				if seed%7 < 3 {
					options = append(options, request.WithHeartbeat(time.Millisecond, 50*time.Millisecond))
				}
				c := w.with(allProtocol{}, options...)
				var wg sync.WaitGroup
				whole := make(chan bool, 1000)
				for caller := range 12 {
					random := rand.New(rand.NewPCG(seed, uint64(100+caller)))
					wg.Go(func() {
						for i := range 30 {
							if oneStream(t, c, random, fmt.Sprint(caller, "-", i)) {
								whole <- true
							}
						}
					})
				}
				wg.Wait()
				require.Greater(t, len(whole), 20, "the test has tested something")
				synctest.Wait()
				if seed%4 != 1 || seed%2 == 0 { // of many random ones nobody knows which have been used
					require.Zero(t, c.Stats().Unknown+c.Stats().Malformed, "%v", c.Stats().LastMalformed)
				}
				require.Zero(t, c.Stats().InFlight+c.Stats().Waiting)
				require.NoError(t, c.Close())
				require.NoError(t, w.mux.Close())
				servers.Wait()
			})
		})
	}
}

// oneStream makes one request at random, and reports whether it got all.
func oneStream(t *testing.T, c *client, random *rand.Rand, text string) bool {
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(random.IntN(15000))*time.Microsecond)
	defer cancel()
	if random.IntN(4) == 0 {
		got, err := c.Do(ctx, "one "+text)
		if err == nil {
			require.Equal(t, "one "+text, string(got))
		}

		return err == nil
	}

	leave, n, ended := random.IntN(12), 0, false
	for part, err := range c.Stream(ctx, "many "+text) {
		require.False(t, ended, "nothing comes after the last part or an error")
		if err != nil {
			ended = true

			continue
		}
		if ended = string(part) == "many "+text+" last"; !ended {
			require.Equal(t, fmt.Sprint("many ", text, " ", n), string(part))
		}
		if n++; n == leave {
			return ended
		}
		if random.IntN(8) == 0 {
			time.Sleep(time.Duration(random.IntN(3000)) * time.Microsecond)
		}
	}
	require.True(t, ended)

	return true
}

// partServer answers, a part at a time, in turns, until it is told to stop, or hangs. With confirms it
// ends what is cancelled with a reply, without which few identifiers would soon all be reserved.
func partServer(c *fakeConn, random *rand.Rand, hang <-chan struct{}, confirms bool) {
	type answer struct {
		asked
		n, of int
	}
	incoming := make(chan func(), 1000)
	var open []*answer
	go func() {
		defer close(incoming)
		for {
			kind, a := c.told()
			switch kind {
			case 0:
				return
			case kindRequest:
				of := 1
				if strings.HasPrefix(a.text, "many") {
					of = 1 + int(a.id*7+uint64(len(a.text)))%20
				}
				incoming <- func() { open = append(open, &answer{a, 0, of}) }
			case kindCancel:
				incoming <- func() {
					for i, o := range open {
						if o.asked == a {
							open = append(open[:i], open[i+1:]...)
							if confirms {
								c.reply(o.id, "cancelled")
							}

							return
						}
						if o.id == a.id {
							panic(fmt.Sprintf("%q is cancelled with the identifier of %q", a.text, o.text))
						}
					}
				}
			}
		}
	}()
	for {
		var wait <-chan time.Time
		if len(open) > 0 {
			wait = time.After(time.Duration(random.IntN(300)) * time.Microsecond)
		}
		select {
		case f, ok := <-incoming:
			if !ok {
				return
			}
			f()
		case <-hang:
			for range incoming { // until the connection ends
			}

			return
		case <-wait:
			i := random.IntN(len(open))
			o := open[i]
			switch {
			case !strings.HasPrefix(o.text, "many"):
				c.reply(o.id, o.text)
			case o.n+1 < o.of:
				c.part(o.id, fmt.Sprint(o.text, " ", o.n))
				o.n++

				continue
			default:
				c.reply(o.id, o.text+" last")
			}
			open = append(open[:i], open[i+1:]...)
		}
	}
}
