package layers_test

// Messages, and connections that end: within a message, at every byte, half closed, many at once.

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/layers"
	"go.atomizer.io/plex/faulttest/proxy"
	"go.atomizer.io/plex/message"
)

// A connection is cut within a message: what had come of it is reported, with the cause, and the next message, over
// another connection, is whole.
// Catches: a beginning that is dropped silently, delivered as a message, or put in front of another connection's bytes.
func TestFaultCutWithinAMessage(t *testing.T) {
	for _, kind := range []proxy.Kind{proxy.FIN, proxy.HalfClose} {
		t.Run(kind.String(), func(t *testing.T) {
			frame := layers.AppendMessage(nil, 0, 0, 50)
			cutAt := uint64(len(frame) + 20) // within the second
			begin := make(chan struct{})
			talker := &layers.Talker{
				Begin: begin, Size: func(uint32, uint32) int { return 50 },
				Messages: func(k uint32) uint32 { return []uint32{2, 1}[min(k, 1)] },
			}
			p := serve(t, proxy.Config{Handler: func(c *proxy.Conn) { talker.Serve(c) }, Script: func(k int) (s proxy.Script) {
				if k == 0 {
					s.Steps = []proxy.Step{{Do: kind, After: cutAt}}
				}
				return s
			}})
			m := mux(t, p, 1)
			var mu sync.Mutex
			var order []string
			var cut *message.CutError
			h := hear(t, m, 1, talker.Size, func(msg message.Message, err error) {
				mu.Lock()
				defer mu.Unlock()
				switch k, seq, _ := layers.CheckMessage(msg.Data); {
				case errors.As(err, &cut):
					order = append(order, "cut")
				case err == nil:
					order = append(order, fmt.Sprint(k, ":", seq))
				}
			})
			h.listening()
			close(begin)
			eventually(t, func() bool { return h.Messages.Load() == 2 && h.Cut.Load() == 1 },
				"two messages and one that is cut off")
			h.all(talker, p, true)
			mu.Lock()
			got, end := slices.Clone(order), cut // a failure below must not hold the mutex, which the loop still needs
			mu.Unlock()
			require.ElementsMatch(t, []string{"0:0", "cut", "1:0"}, got)
			require.Less(t, slices.Index(got, "0:0"), slices.Index(got, "cut"),
				"a connection's messages come before its end")
			require.Equal(t, layers.AppendMessage(nil, 0, 1, 50)[:20], end.Data)
			require.ErrorIs(t, end, io.ErrUnexpectedEOF)
			h.over(talker, p)
		})
	}
}

// shortStream is four messages, and where they end.
func shortStream() (size func(_, seq uint32) int, stream []byte, ends []int) {
	size = func(_, seq uint32) int { return layers.LeastMessage + int(seq%3)*3 }
	for seq := range uint32(4) {
		stream = layers.AppendMessage(stream, 0, seq, size(0, seq))
		ends = append(ends, len(stream))
	}
	return size, stream, ends
}

// wholeAt is how many messages are whole after so many bytes, and how many bytes are left.
func wholeAt(ends []int, at int) (whole, rest int) {
	rest = at
	for i, end := range ends {
		if end <= at {
			whole, rest = i+1, at-end
		}
	}
	return whole, rest
}

// FIN and half close after every byte of a short stream, many at the same time: the whole messages before it come, and
// the beginning of the next is reported, to the byte. Nothing is reported for an end between two messages.
// Catches: an off-by-one in what is whole; an end within the prefix, or just behind it, that is taken for a clean one.
func TestFaultFINAtEveryByteOfAStream(t *testing.T) {
	size, stream, ends := shortStream()
	for _, kind := range []proxy.Kind{proxy.FIN, proxy.HalfClose} {
		t.Run(kind.String(), func(t *testing.T) {
			// The pool's first connections make room for those that end, as New may fail by one of these.
			const first = 8
			positions := len(stream) + 1
			talker := &layers.Talker{Size: size, Messages: func(k uint32) uint32 {
				if k >= first && int(k) < first+positions {
					return 5
				}
				return 0
			}}
			p := serve(t, proxy.Config{Handler: func(c *proxy.Conn) { talker.Serve(c) }, Script: func(k int) (s proxy.Script) {
				if at := k - first; at >= 0 && at < positions {
					s.Steps = []proxy.Step{{Do: kind, After: uint64(at)}}
				}
				return s
			}})
			m := mux(t, p, first)
			var mu sync.Mutex
			cuts := map[int]int{} // by length
			h := hear(t, m, 4, size, func(_ message.Message, err error) {
				var cut *message.CutError
				if errors.As(err, &cut) {
					mu.Lock()
					defer mu.Unlock()
					cuts[len(cut.Data)]++
				}
			})
			wantCuts, wholes, cut := map[int]int{}, 0, 0
			for at := range positions {
				whole, rest := wholeAt(ends, at)
				wholes += whole
				if rest > 0 {
					wantCuts[rest]++
					cut++
				}
			}
			eventually(t, func() bool { return p.Accepted() == first }, "the first ones")
			p.ResetAll()
			eventually(t, func() bool { return p.Accepted() >= positions+2*first }, "all have come and gone")
			eventually(t, func() bool { return int(h.Messages.Load()) == wholes && int(h.Cut.Load()) == cut },
				"%d messages and %d that are cut off", wholes, cut)
			require.GreaterOrEqual(t, h.all(talker, p, true), positions)
			mu.Lock()
			require.Equal(t, wantCuts, cuts)
			mu.Unlock()
			h.over(talker, p)
		})
	}
}

// RST after every byte of a short stream, when these bytes have been seen by the split function. (What nobody has read
// when a reset comes is lost with the connection.)
// Catches: a beginning that is dropped when its connection ends hard; a cause that is lost.
func TestFaultRSTAtEveryByteOfAStream(t *testing.T) {
	size, stream, ends := shortStream()
	var read atomic.Int64 // by the split function, of one message
	positions := make(chan int)
	p := serve(t, proxy.Config{Handler: func(c *proxy.Conn) {
		select {
		case at := <-positions:
			read.Store(0)
			whole, rest := wholeAt(ends, at)
			var out []byte
			for seq := range uint32(whole + 1) {
				out = layers.AppendMessage(out, uint32(c.Number), seq, size(0, seq))
			}
			if _, err := c.Write(out[:at]); err != nil {
				t.Error(err)
			}
			for end := time.Now().Add(patience); rest > 0 && read.Load() != int64(rest) && time.Now().Before(end); {
				time.Sleep(100 * time.Microsecond)
			}
			positions <- -1
			if <-positions == -1 {
				c.Reset()
			}
		case <-c.Done():
		}
	}})
	m := mux(t, p, 1)
	var mu sync.Mutex
	var cut *message.CutError
	split := func(data []byte, atEOF bool) (int, []byte, error) {
		advance, token, err := layers.Framing.Split(data, atEOF)
		if token == nil {
			read.Store(int64(len(data)))
		}
		return advance, token, err
	}
	h := hearBy(t, m, split, 2, size, func(_ message.Message, err error) {
		mu.Lock()
		defer mu.Unlock()
		errors.As(err, &cut)
	})
	var wholes uint64
	for at := range len(stream) + 1 {
		whole, rest := wholeAt(ends, at)
		wholes += uint64(whole)
		positions <- at
		require.Equal(t, -1, <-positions)
		eventually(t, func() bool { return h.Messages.Load() == wholes }, "%d messages", wholes)
		before := h.Cut.Load()
		positions <- -1
		if rest == 0 {
			continue
		}
		eventually(t, func() bool { return h.Cut.Load() == before+1 }, "the message is reported as cut off")
		mu.Lock()
		got := cut
		mu.Unlock()
		require.Len(t, got.Data, rest)
		require.ErrorIs(t, got, syscall.ECONNRESET)
	}
	require.NoError(t, h.Err())
	p.ResetAll()
	h.over(&layers.Talker{}, p)
}

// The server restarts, again and again, with everyone connected, by RST and by FIN. The messages of the connections
// that healing adds come as those before.
// Catches: a receiver that reads only the connections that it has begun with; beginnings that pile up.
func TestFaultServerRestartUnderMessages(t *testing.T) {
	for _, reset := range []bool{true, false} {
		t.Run(map[bool]string{true: "RST", false: "FIN"}[reset], func(t *testing.T) {
			talker := &layers.Talker{Size: layers.Mixed, Batch: 4 << 10}
			p := serve(t, proxy.Config{Handler: func(c *proxy.Conn) { talker.Serve(c) }})
			m := mux(t, p, 6)
			h := hear(t, m, 3, layers.Mixed, nil)
			for range 6 {
				before := h.Messages.Load()
				eventually(t, func() bool { return h.Messages.Load() > before+3000 }, "messages")
				require.NoError(t, p.Restart(2*time.Millisecond, reset))
			}
			before := h.Messages.Load()
			eventually(t, func() bool { return h.Messages.Load() > before+3000 }, "messages after the last restart")
			eventually(t, func() bool { return p.Established() == 6 && m.Stats().Open == 6 }, "the pool is whole")
			require.GreaterOrEqual(t, h.all(talker, p, true), map[bool]int{true: 6, false: 8}[reset])
			h.over(talker, p)
		})
	}
}

// Each connection brings one message and ends, 300 times over: whatever healing brings is read, at once.
// Catches: an end that overtakes the message before it; a new connection that nobody comes to.
func TestFaultOneMessageForEachConnection(t *testing.T) {
	const conns = 300
	begin := make(chan struct{})
	talker := &layers.Talker{Messages: func(uint32) uint32 { return 1 }, Close: true, Begin: begin}
	p := serve(t, proxy.Config{Handler: func(c *proxy.Conn) { talker.Serve(c) }})
	m := mux(t, p, 4)
	h := hear(t, m, 2, nil, nil)
	h.listening()
	close(begin)
	eventually(t, func() bool { return h.Messages.Load() >= conns }, "%d messages", conns)
	require.GreaterOrEqual(t, h.all(talker, p, false), conns/2, "connections that have ended as they should")
	h.over(talker, p)
	require.Zero(t, h.Cut.Load())
}

// Peers that have closed their own direction, and still read: their messages come, what is sent goes on over others,
// and none of it is lost within a message.
// Catches: a half closed connection that is written to by a new lease; its end that takes the messages before it along.
func TestFaultHalfClosedPeersAndMessages(t *testing.T) {
	begin := make(chan struct{})
	talker := &layers.Talker{
		Size: layers.Mixed, Messages: func(k uint32) uint32 { return 20 + k%30 }, Close: true, Batch: 1000, Begin: begin,
	}
	p := serve(t, proxy.Config{Handler: func(c *proxy.Conn) { talker.Serve(c) }})
	m := mux(t, p, 4)
	h := hear(t, m, 2, layers.Mixed, nil)
	h.listening()
	close(begin)
	frame := layers.AppendMessage(nil, 1, 1, 40)
	for range 200 {
		var failed *message.SendError
		if err := message.Send(t.Context(), m, patience, frame); err != nil {
			require.ErrorAs(t, err, &failed) // the peer may have gone meanwhile
			require.NotErrorIs(t, err, plex.ErrTimeout)
		}
	}
	eventually(t, func() bool { return h.Messages.Load() > 5000 }, "messages")
	require.Greater(t, h.all(talker, p, false), 50, "connections that have ended as they should")
	h.over(talker, p)
}

// A connection is killed by who writes to it, when half of a message has come and nobody has it in hands: the half is
// reported, and the next connection's messages are whole.
// Catches: a beginning that is forgotten because no read finds the end.
func TestFaultKilledWithinAMessage(t *testing.T) {
	var sent atomic.Int64      // bytes, of the present connection, each of which brings one more
	var read [1000]atomic.Bool // so many bytes have been seen by the split function
	var whole atomic.Bool
	p := serve(t, proxy.Config{Handler: func(c *proxy.Conn) {
		frame := layers.AppendMessage(nil, uint32(c.Number), 0, 50)
		if !whole.Load() {
			frame = frame[:10+min(c.Number, 50)]
		}
		sent.Store(int64(len(frame)))
		_, _ = c.Write(frame) // it fails when the test is over
		_, _ = io.Copy(io.Discard, struct{ io.Reader }{c})
	}})
	m := mux(t, p, 1)
	split := func(data []byte, atEOF bool) (int, []byte, error) {
		read[len(data)].Store(true)
		return layers.Framing.Split(data, atEOF)
	}
	var mu sync.Mutex
	var cut *message.CutError
	h := hearBy(t, m, split, 2, func(uint32, uint32) int { return 50 }, func(_ message.Message, err error) {
		mu.Lock()
		defer mu.Unlock()
		errors.As(err, &cut)
	})
	const kills = 20
	var half int
	for k := range kills {
		unread := func() bool { return int(sent.Load()) == half || !read[sent.Load()].Load() }
		for end := time.Now().Add(patience); unread() || m.Stats().LeasedReaders > 0; {
			if time.Now().After(end) {
				require.FailNow(t, "half a message is not read", "%d: %d bytes sent, %d connections; %+v",
					k, sent.Load(), p.Accepted(), m.Stats())
			}
			time.Sleep(time.Millisecond)
		}
		half = int(sent.Load())
		whole.Store(k == kills-1)
		w, err := m.Writer(t.Context(), patience)
		require.NoError(t, err)
		require.NoError(t, w.Kill())
		eventually(t, func() bool { return int(h.Cut.Load()) == k+1 }, "it is reported")
		mu.Lock()
		got := cut
		mu.Unlock()
		require.Len(t, got.Data, half)
		require.ErrorIs(t, got, plex.ErrKilled)
	}
	eventually(t, func() bool { return h.Messages.Load() == 1 }, "the next one")
	require.NoError(t, h.Err())
	h.over(&layers.Talker{}, p)
}
