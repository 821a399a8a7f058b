package layers

// The books of a Sender, and of replies in order, have to find what is wrong.

import (
	"context"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex/message"
	"go.atomizer.io/plex/request"
)

func TestShippedFindsWhatIsWrong(t *testing.T) {
	m, _ := pool(t, 1)
	frame := AppendMessage(nil, 7, 0, Short(7, 0))
	failed := func(maybe bool) error { return &message.SendError{MaybeSent: maybe, Err: context.Canceled} }
	for name, c := range map[string]struct {
		says string
		do   func(b *Shipped, k *Taker, tap *Tap)
	}{
		"nothing": {"", func(_ *Shipped, k *Taker, tap *Tap) {
			k.take(7, 0, Alone)
			tap.note(7, 0, func(w *wrote) { w.whole++ })
		}},
		"lost on the way": {"", func(_ *Shipped, _ *Taker, tap *Tap) {
			tap.note(7, 0, func(w *wrote) { w.whole++ })
		}},
		"never written": {"it is lost", func(*Shipped, *Taker, *Tap) {}},
		"come twice": {"has come twice", func(_ *Shipped, k *Taker, _ *Tap) {
			k.take(7, 0, Alone)
			k.take(7, 0, Alone)
		}},
		"written twice": {"it was written twice", func(_ *Shipped, _ *Taker, tap *Tap) {
			tap.note(7, 0, func(w *wrote) { w.whole += 2 })
		}},
		"handed back as not sent, and come": {"handed back as not sent, and has come 1 times", func(b *Shipped, k *Taker, _ *Tap) {
			b.handedBack(frame, failed(false))
			k.take(7, 0, Alone)
		}},
		"handed back as not sent, and begun": {"(handed back as not sent): it was written", func(b *Shipped, _ *Taker, tap *Tap) {
			b.handedBack(frame, failed(false))
			tap.note(7, 0, func(w *wrote) { w.cut++ })
		}},
		"handed back twice": {"has ended twice", func(b *Shipped, _ *Taker, _ *Tap) {
			b.end(7, 0, Queued, Cut)
			b.end(7, 0, Queued, Cut)
		}},
		"damaged":     {"are handed back", func(b *Shipped, _ *Taker, _ *Tap) { b.handedBack(make([]byte, 20), failed(true)) }},
		"never given": {"the sender's figures", func(b *Shipped, _ *Taker, _ *Tap) { b.end(7, 0, Queued, Full) }},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := NewShipped(m)
			require.NoError(t, err)
			b.next(7, Queued)
			k, tap := new(Taker), new(Tap)
			copied := append([]byte{}, frame...)
			c.do(b, k, tap)
			copy(frame, copied)
			var fates [Fates]uint64
			var places [Fates][Places]uint64
			err = b.Compare(k, tap, &fates, &places)
			if c.says != "" {
				require.ErrorContains(t, err, c.says)
				return
			}
			// The Sender itself knows nothing of the message, which is all that is wrong.
			require.ErrorContains(t, err, "the sender's figures are not its callers'")
			require.NotContains(t, err.Error(), "message 0")
		})
	}
}

func TestTheTapSeesWhatIsWritten(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	conn, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	tap := new(Tap)
	wrapped := tap.Wrap(conn.(*net.TCPConn))
	frames := AppendMessage(AppendMessage(nil, 1, 0, 50), 1, 1, 50)
	for _, part := range [][]byte{frames[:3], frames[3:60], frames[60:80]} {
		_, err := wrapped.Write(part)
		require.NoError(t, err)
	}
	require.NoError(t, wrapped.Close())
	require.Empty(t, tap.check(1, 0, Delivered))
	require.Empty(t, tap.check(1, 1, Cut))
	require.NotEmpty(t, tap.check(1, 1, Delivered))
	require.NotEmpty(t, tap.check(1, 1, Unsent))
	require.NotEmpty(t, tap.check(1, 0, GivenUp))
	require.Empty(t, tap.check(2, 9, GivenUp))
}

func TestTheExecutorFindsWhatIsAmongASession(t *testing.T) {
	e := &Executor{Ordered: true}
	x, y := &executing{e: e}, &executing{e: e}
	step := func(x *executing, session uint64, step uint8, last bool) error {
		return x.exclusive(asked{Ask: Ask{Session: session, Step: step, Last: last}})
	}
	require.NoError(t, step(x, 0, 0, false))
	require.NoError(t, step(x, 1, 0, false))
	require.NoError(t, step(x, 1, 2, true))
	require.NoError(t, step(x, 0, 0, false))
	require.NoError(t, step(x, 2, 1, false))
	require.ErrorContains(t, step(x, 0, 0, false), "is between those of session 2")
	require.ErrorContains(t, step(x, 3, 0, false), "is between those of session 2")
	require.ErrorContains(t, step(x, 2, 1, false), "has come behind step 1")
	require.ErrorContains(t, step(y, 1, 3, false), "over two connections")
}

// A reply that is parsed with another's request is found, and so is a request that takes a reply for its own which is extra.
func TestTurnsFindWhatIsWrong(t *testing.T) {
	p := new(Turns)
	reply := func(kind byte) []byte { return appendAnswer(nil, kind, 0, 5, 9)[prefixSize:] }
	_, err := p.Parse(reply(kindReply), Ask{Unique: 5, Size: 1})
	require.NoError(t, err)
	require.Zero(t, p.Crossed.Load())
	_, err = p.Parse(reply(kindReply), Ask{Unique: 6, Size: 1})
	require.NoError(t, err)
	require.EqualValues(t, 1, p.Crossed.Load())
	_, err = p.Parse(reply(kindExtra), Ask{})
	require.NoError(t, err)
	_, err = p.Parse(reply(kindExtra), Ask{Size: 1})
	require.ErrorIs(t, err, ErrMalformed)
	_, err = p.Parse(reply(kindEvent), Ask{Size: 1})
	require.ErrorIs(t, err, request.ErrNotReply)
}
