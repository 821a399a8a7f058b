package layers_test

// Messages over connections that live: cut to pieces, stalled, too long, without sense, one-sided, and over TLS.

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/layers"
	"go.atomizer.io/plex/faulttest/proxy"
	"go.atomizer.io/plex/faulttest/scaffold"
	"go.atomizer.io/plex/message"
)

// Segments of one byte, on all connections: each byte may be a lease of its own, by another goroutine.
// Catches: a rest that is lost or doubled between two leases; a prefix that is read in two parts.
func TestFaultMessagesByteByByte(t *testing.T) {
	talker := &layers.Talker{Messages: func(uint32) uint32 { return 40 }}
	p := serve(t, proxy.Config{Handler: func(c *proxy.Conn) { talker.Serve(c) }, Script: func(int) proxy.Script {
		return proxy.Script{Steps: []proxy.Step{{Do: proxy.Slice, Size: 1}}}
	}})
	m := mux(t, p, 4)
	h := hear(t, m, 4, nil, nil)
	eventually(t, func() bool { return h.Messages.Load() == 160 }, "all messages")
	require.Equal(t, 4, h.all(talker, p, true))
	h.over(talker, p)
}

// One connection stalls in the middle of a message: the others go on, and when it does, its message is whole.
// Catches: a goroutine that waits within a lease for the rest; a beginning that is given up.
func TestFaultStallWithinAMessage(t *testing.T) {
	const stalled = 1
	talker := &layers.Talker{Size: layers.Short}
	p := serve(t, proxy.Config{Handler: func(c *proxy.Conn) { talker.Serve(c) }, Script: func(k int) (s proxy.Script) {
		if k == stalled {
			for i := range uint64(20) { // again and again, at other places
				s.Steps = append(s.Steps, proxy.Step{Do: proxy.Stall, After: 1003 * (i + 1)})
			}
		}
		return s
	}})
	m := mux(t, p, 3)
	h := hear(t, m, 1, layers.Short, nil) // a single loop: were it to wait for one connection, all would
	server := p.Conn(t.Context(), stalled)
	require.NotNil(t, server)
	for i := range uint64(20) {
		eventually(t, func() bool { return server.Passed(proxy.Down) == 1003*(i+1) }, "the stall")
		before := h.Messages.Load()
		eventually(t, func() bool { return h.Messages.Load() > before+1000 }, "the others go on")
		server.Resume(proxy.Down)
	}
	require.Equal(t, 3, h.all(talker, p, true))
	require.Zero(t, h.Cut.Load())
	h.over(talker, p)
}

// A message that is too long costs its connection, whether its prefix says so or it only grows and grows; the others go
// on, and healing brings another.
// Catches: memory without end; a receiver that ends; the rest of the long one read as messages.
func TestFaultMessageThatIsTooLong(t *testing.T) {
	const bad = 1
	for name, say := range map[string]func(c io.Writer) error{
		"by its prefix": func(c io.Writer) error {
			_, err := c.Write(binary.BigEndian.AppendUint32(nil, 1<<31))
			return err
		},
		"by its length": func(c io.Writer) error {
			line := make([]byte, 1000)
			for {
				if _, err := c.Write(line); err != nil {
					return nil // killed, as it should be
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			talker := &layers.Talker{}
			said := make(chan error, 1)
			p := serve(t, proxy.Config{Handler: func(c *proxy.Conn) {
				if c.Number == bad {
					said <- say(c)
					_, _ = io.Copy(io.Discard, struct{ io.Reader }{c})
					return
				}
				talker.Serve(c)
			}})
			m := mux(t, p, 3)
			var mu sync.Mutex
			var tooLong []*message.TooLongError
			split := layers.Framing.Split
			if name == "by its length" {
				split = func(data []byte, atEOF bool) (int, []byte, error) {
					if len(data) >= 4 && binary.BigEndian.Uint32(data) == 0 {
						return 0, nil, nil // it wants more and more
					}
					return layers.Framing.Split(data, atEOF)
				}
			}
			h := hearBy(t, m, split, 2, nil, func(_ message.Message, err error) {
				var e *message.TooLongError
				if errors.As(err, &e) {
					mu.Lock()
					defer mu.Unlock()
					tooLong = append(tooLong, e)
				}
			}, message.WithMaxSize(layers.MaxSize))
			eventually(t, func() bool { return h.TooLong.Load() == 1 && m.Stats().Healed >= 1 }, "it is reported, and healed")
			require.NoError(t, <-said)
			before := h.Messages.Load()
			eventually(t, func() bool { return h.Messages.Load() > before+1000 }, "the others go on")
			mu.Lock()
			require.Len(t, tooLong, 1)
			require.Equal(t, layers.MaxSize, tooLong[0].Max)
			require.Greater(t, tooLong[0].Size, uint64(layers.MaxSize))
			require.Equal(t, p.Addr(), tooLong[0].Conn.RemoteAddr().String())
			mu.Unlock()
			require.EqualValues(t, 1, m.Stats().Lost)
			require.Equal(t, 3, h.all(talker, p, true))
			h.over(talker, p)
		})
	}
}

// Bytes that the split function refuses, or panics over, cost their connection and nothing else.
// Catches: a panic that takes the loop down; a message read from behind garbage.
func TestFaultGarbageForTheSplitFunction(t *testing.T) {
	errGarbage := errors.New("garbage")
	talker := &layers.Talker{}
	const rounds = 30
	garbage := func(k int) bool { return k >= 4 && k < 4+rounds }
	p := serve(t, proxy.Config{Handler: func(c *proxy.Conn) {
		if garbage(c.Number) { // whole messages, garbage, and what looks like a message
			out := layers.AppendMessage(nil, uint32(c.Number), 0, layers.Short(uint32(c.Number), 0))
			out = append(out, []byte{0xff, 0xff, 0xff, byte(c.Number)}...)
			_, _ = c.Write(layers.AppendMessage(out, uint32(c.Number), 1, layers.Short(uint32(c.Number), 1)))
			_, _ = io.Copy(io.Discard, struct{ io.Reader }{c})
			return
		}
		talker.Serve(c)
	}})
	m := mux(t, p, 4)
	var mu sync.Mutex
	var splits, panics int
	h := hearBy(t, m, func(data []byte, atEOF bool) (int, []byte, error) {
		if len(data) >= 4 && data[0] == 0xff {
			if data[3]%2 == 0 {
				panic(errGarbage)
			}
			return 0, nil, errGarbage
		}
		return layers.Framing.Split(data, atEOF)
	}, 2, nil, func(_ message.Message, err error) {
		var e *message.SplitError
		if errors.As(err, &e) {
			mu.Lock()
			defer mu.Unlock()
			if errors.Is(err, errGarbage) {
				splits++
			} else {
				panics++
			}
		}
	})
	eventually(t, func() bool { return p.Accepted() == 4 }, "all connections are in the proxy's books")
	for i := range rounds { // one connection gives way to one with garbage, and so on
		if i%3 == 0 {
			for _, c := range p.Conns() {
				if !garbage(c.Number) {
					c.Reset()
					break
				}
			}
		}
		eventually(t, func() bool { return int(h.Split.Load()) > i/3 }, "garbage %d is reported", i)
	}
	eventually(t, func() bool { return h.Split.Load() == rounds }, "all garbage is reported")
	h.all(talker, p, true)
	mu.Lock()
	got := [2]int{splits, panics}
	mu.Unlock()
	require.Equal(t, [2]int{rounds / 2, rounds / 2}, got)
	h.over(talker, p)
}

// One connection brings messages without end; those that the others bring now and then come all the same.
// Catches: a loop that goes on with a connection for as long as it has something.
func TestFaultChattyBesideQuietConnections(t *testing.T) {
	const quiet, each = 15, 20
	var chatty atomic.Uint64 // messages of the chatty one delivered
	next := make(chan struct{})
	talker := &layers.Talker{Batch: 64 << 10, Messages: func(k uint32) uint32 {
		if k == 0 {
			return ^uint32(0)
		}
		return each
	}}
	slow := &layers.Talker{Messages: talker.Messages, Begin: next, Pause: time.Millisecond}
	p := serve(t, proxy.Config{Handler: func(c *proxy.Conn) {
		if c.Number == 0 {
			talker.Serve(c)
		} else {
			slow.Serve(c)
		}
	}})
	m := mux(t, p, 1+quiet)
	var rest atomic.Uint64
	h := hear(t, m, 1, nil, func(msg message.Message, err error) {
		if k, _, _ := layers.CheckMessage(msg.Data); err == nil && k == 0 {
			chatty.Add(1)
		} else if err == nil {
			rest.Add(1)
		}
	})
	eventually(t, func() bool { return chatty.Load() > 10_000 }, "the chatty one")
	close(next)
	eventually(t, func() bool { return rest.Load() == quiet*each }, "the quiet ones, %d of %d messages", &rest, quiet*each)
	before := chatty.Load()
	eventually(t, func() bool { return chatty.Load() > before+1000 }, "the chatty one has not starved either")
	require.Equal(t, 1, h.all(talker, p, true))
	require.Equal(t, quiet, h.all(slow, p, true))
	h.over(talker, p)
}

// Over TLS: records that hold many messages, and parts of them, so that there are bytes that the kernel knows nothing
// of; and ends with and without a close_notify, within a message and between two.
// Catches: messages that wait inside TLS for the next record to come; an end without close_notify taken for a clean
// one.
func TestFaultMessagesOverTLS(t *testing.T) {
	client, server, err := scaffold.Certificates()
	require.NoError(t, err)
	const perConn, conns = 50, 60
	size := layers.Mixed
	// What is sent on connection k: its messages, and part of one more for every second.
	stream := func(k uint32) (out []byte, rest int) {
		for seq := range uint32(perConn) {
			out = layers.AppendMessage(out, k, seq, size(k, seq))
		}
		if k%2 == 1 {
			more := layers.AppendMessage(nil, k, perConn, size(k, perConn))
			rest = 1 + int(k)%(len(more)-1)
			out = append(out, more[:rest]...)
		}
		return out, rest
	}
	begin := make(chan struct{})
	var whole, partly atomic.Int64 // connections that all has been sent on: those that end between messages, and within one
	p := serve(t, proxy.Config{Handler: func(c *proxy.Conn) {
		s := tls.Server(c, server)
		if s.Handshake() != nil {
			return
		}
		select {
		case <-begin:
		case <-c.Done():
			return
		}
		k := uint32(c.Number)
		out, rest := stream(k)
		rng := rand.New(rand.NewPCG(testSeed(t), uint64(k)))
		for len(out) > 0 {
			n := min(len(out), 1+rng.IntN(30_000))
			if _, err := s.Write(out[:n]); err != nil {
				return
			}
			out = out[n:]
		}
		if rest == 0 {
			whole.Add(1)
		} else {
			partly.Add(1)
		}
		switch k % 4 {
		case 0, 1:
			_ = s.CloseWrite()
		default:
			_ = c.TCPConn.CloseWrite()
		}
		_, _ = io.Copy(io.Discard, s)
	}})
	m := mux(t, p, 4, plex.WithConnector(plex.DialContext(&tls.Dialer{Config: client}, "tcp", p.Addr())))
	var mu sync.Mutex
	cuts := map[uint32]error{} // by what was next, which its bytes tell
	var short []int
	h := hear(t, m, 2, size, func(_ message.Message, err error) {
		var cut *message.CutError
		if errors.As(err, &cut) {
			mu.Lock()
			defer mu.Unlock()
			if len(cut.Data) >= 8 {
				cuts[binary.BigEndian.Uint32(cut.Data[4:])] = cut.Err
			} else {
				short = append(short, len(cut.Data))
			}
		}
	})
	h.listening()
	close(begin)
	eventually(t, func() bool { return h.Messages.Load() >= perConn*conns }, "messages")
	p.Refuse() // what has been accepted ends by itself
	eventually(t, func() bool { return m.Stats().Open == 0 && p.Open() == 0 }, "all have ended")
	// The loops may be behind with what the ended ones have left.
	eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return int64(h.Messages.Load()) == perConn*(whole.Load()+partly.Load()) &&
			int64(len(cuts)+len(short)) == partly.Load()
	}, "all messages, and all parts of one")
	h.over(&layers.Talker{}, p)
	for k, err := range cuts {
		_, rest := stream(k)
		require.NotZero(t, rest, "connection %d: %v", k, err)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	}
	require.NotEmpty(t, cuts)
	require.NotContains(t, short, 0)
}

// Loops are left and begun anew all the time, by break, by the end of their ctx and by a channel that nobody takes from
// any more: what had been read is the next one's, and it comes once.
// Catches: messages that are dropped with a buffer, or delivered again, when a loop is left.
func TestFaultLoopsThatAreLeft(t *testing.T) {
	talker := &layers.Talker{Size: layers.Mixed, Batch: 8 << 10}
	p := serve(t, proxy.Config{Handler: func(c *proxy.Conn) { talker.Serve(c) }})
	m := mux(t, p, 6)
	receiver, err := message.New(m, layers.Framing.Split, message.WithMaxSize(layers.MaxSize))
	require.NoError(t, err)
	h := &layers.Heard{Size: layers.Mixed}
	until := time.Now().Add(500 * time.Millisecond)
	var all sync.WaitGroup
	for i := range 3 {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(testSeed(t), uint64(i)))
			ear := h.Ear()
			for n := 0; time.Now().Before(until); n++ {
				ctx, cancel := context.WithCancel(context.Background())
				left := rng.IntN(200)
				if n%3 == 1 {
					time.AfterFunc(time.Duration(rng.IntN(2000))*time.Microsecond, cancel)
					left = -1
				}
				for msg, err := range receiver.All(ctx) {
					if ear.Take(msg, err); left == 0 {
						break
					}
					left--
				}
				cancel()
			}
		})
	}
	within("a loop that is left", all.Wait)
	// One channel at a time: what two have in their buffers would come in any order.
	rng := rand.New(rand.NewPCG(testSeed(t), 99))
	ear := h.Ear()
	for range 200 {
		ctx, cancel := context.WithCancel(context.Background())
		ch := receiver.Channel(ctx, rng.IntN(10))
		for range rng.IntN(50) {
			got := <-ch
			ear.Take(got.Message, got.Err)
		}
		cancel()
		for got := range ch { // what is in the buffer
			ear.Take(got.Message, got.Err)
		}
	}
	require.NoError(t, h.Err())
	hh := &hearing{TB: t, Heard: h, m: m, receiver: receiver, end: func() {}}
	talker.Quiet()
	ctx, cancel := context.WithCancel(context.Background())
	all.Go(func() {
		for msg, err := range receiver.All(ctx) {
			ear.Take(msg, err)
		}
	})
	require.Equal(t, 6, hh.all(talker, p, true))
	cancel()
	within("the last loop", all.Wait)
	hh.over(talker, p)
}

// The multiplexer is closed with messages arriving on all connections and loops in all states: they end, with
// ErrClosed, and nothing is left.
// Catches: a loop that sleeps for ever; a beginning that stays in the receiver.
func TestFaultCloseUnderMessages(t *testing.T) {
	for i := range 20 {
		talker := &layers.Talker{Size: layers.Mixed, Batch: 8 << 10}
		p := serve(t, proxy.Config{Handler: func(c *proxy.Conn) { talker.Serve(c) }})
		m := mux(t, p, 8)
		h := hear(t, m, 1+i%4, layers.Mixed, nil)
		eventually(t, func() bool { return h.Messages.Load() > uint64(random(t).IntN(3000)) }, "messages")
		within("Close", func() {
			if i%2 == 0 {
				require.NoError(t, m.Close())
			} else {
				require.NoError(t, m.Shutdown(t.Context()))
			}
		})
		within("a loop after Close", h.loops.Wait)
		for _, err := range h.stop() {
			require.ErrorIs(t, err, plex.ErrClosed)
			require.ErrorIs(t, err, net.ErrClosed)
		}
		h.over(talker, p)
	}
}

// Connections are retired for their age, and because nobody needs them, while messages arrive in two halves with a long
// pause between: none is cut off, and none of those whose first half has been read is lost.
// Catches: a connection retired in the middle of a message; one that is never retired because somebody once pinned it.
func TestFaultRetiringUnderMessages(t *testing.T) {
	for name, opts := range map[string][]plex.Option{
		"age": {plex.WithMaxLifetime(20 * time.Millisecond)},
		"surplus": {
			plex.WithMinConnections(0), plex.WithAutoScaling(time.Millisecond),
			plex.WithIdleTimeout(10 * time.Millisecond),
		},
	} {
		t.Run(name, func(t *testing.T) {
			const messages = 5
			var seen sync.Map // first halves that the split function has had, by connection and message
			type half struct{ k, seq uint32 }
			var lost atomic.Uint64
			p := serve(t, proxy.Config{Handler: func(c *proxy.Conn) {
				k := uint32(c.Number)
				gone := make(chan struct{})
				go func() {
					defer close(gone)
					_, _ = io.Copy(io.Discard, struct{ io.Reader }{c})
				}()
				defer func() { _ = c.Close(); <-gone }()
				for seq := range uint32(messages) {
					frame := layers.AppendMessage(nil, k, seq, 60)
					if _, err := c.Write(frame[:30]); err != nil {
						return // retired between two messages
					}
					pause := time.NewTimer(80 * time.Millisecond) // four lives
					read := false
					for over := false; !over; {
						if _, ok := seen.Load(half{k, seq}); ok {
							read = true
						}
						select {
						case <-gone:
							if _, ok := seen.Load(half{k, seq}); ok || read {
								lost.Add(1)
							}
							pause.Stop()
							_, _ = c.Write(frame[30:]) // what it has begun when the client says goodbye, it finishes
							return
						case <-pause.C:
							over = true
						case <-time.After(time.Millisecond):
						}
					}
					if _, err := c.Write(frame[30:]); err != nil && read {
						lost.Add(1)
						return
					}
				}
				<-gone
			}})
			m := mux(t, p, 6, opts...)
			grow := func() { // callers who wait: what they add is surplus soon
				var all sync.WaitGroup
				for range 6 {
					all.Go(func() {
						w, err := m.Writer(t.Context(), patience)
						if err != nil {
							t.Error(err)
							return
						}
						time.Sleep(3 * time.Millisecond)
						_ = w.Close()
					})
				}
				all.Wait()
			}
			h := hearBy(t, m, func(data []byte, atEOF bool) (int, []byte, error) {
				if len(data) >= 12 && len(data) < 64 {
					seen.Store(half{binary.BigEndian.Uint32(data[4:]), binary.BigEndian.Uint32(data[8:])}, true)
				}
				return layers.Framing.Split(data, atEOF)
			}, 2, func(uint32, uint32) int { return 60 }, nil)
			began := time.Now()
			for !enough(began, time.Second, func() bool { return h.Messages.Load() > 20 }) {
				if name == "surplus" {
					grow()
				} else {
					time.Sleep(10 * time.Millisecond)
				}
			}
			require.Zero(t, lost.Load(), "a connection was retired in the middle of a message")
			require.Zero(t, h.Cut.Load(), "a message was cut off though nothing has failed")
			s := m.Stats()
			require.Zero(t, s.Lost)
			require.Greater(t, h.Messages.Load(), uint64(20))
			eventually(t, func() bool {
				s := m.Stats()
				return name == "age" && s.Expired >= 12 || name == "surplus" && s.ScaledDown >= 6
			}, "what is not in the middle of a message is retired: %+v", s)
			h.over(&layers.Talker{}, p)
		})
	}
}

// Messages are sent by many at once, whole, over connections that are reset, and a send that fails says whether the
// peer may have it.
// Catches: two messages mixed on the wire; a beginning followed by another message; a wrong MaybeSent.
func TestFaultSendUnderFaults(t *testing.T) {
	rng := random(t)
	talkers := [2]uint64{rng.Uint64(), rng.Uint64()}
	var mu sync.Mutex
	got := map[[2]uint32]int{}
	var glued []error
	p := serve(t, proxy.Config{Handler: func(c *proxy.Conn) {
		var buf []byte
		in := make([]byte, 32<<10)
		for {
			n, err := c.Read(in)
			buf = append(buf, in[:n]...)
			for {
				advance, body, bad := layers.Framing.Split(buf, false)
				if bad == nil && body == nil {
					break
				}
				k, seq, wrong := uint32(0), uint32(0), bad
				if bad == nil {
					k, seq, wrong = layers.CheckMessage(body)
				}
				mu.Lock()
				if wrong != nil {
					glued = append(glued, wrong)
				}
				got[[2]uint32{k, seq}]++
				mu.Unlock()
				if bad != nil {
					return
				}
				buf = buf[advance:]
			}
			if err != nil {
				return
			}
		}
	}, Script: proxy.Random(talkers[0], proxy.Rates{
		Reset: 0.5, FIN: 0.4, Stall: 0.3, Slice: 0.2, Bytes: 5 << 10,
		Longer: time.Millisecond,
	})})
	m := mux(t, p, 4)
	const senders, each = 16, 300
	outcome := [senders][each]int8{} // 0: sent, 1: maybe, 2: not
	var all sync.WaitGroup
	for i := range senders {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(talkers[1], uint64(i)))
			for seq := range each {
				ctx, cancel := context.WithCancel(context.Background())
				switch seq % 10 {
				case 0:
					cancel()
				case 1, 2:
					time.AfterFunc(time.Duration(rng.IntN(500))*time.Microsecond, cancel)
				}
				frame := layers.AppendMessage(nil, uint32(i), uint32(seq), layers.Mixed(uint32(i), uint32(seq)))
				err := message.Send(ctx, m, patience, frame)
				cancel()
				var failed *message.SendError
				switch {
				case err == nil:
				case !errors.As(err, &failed):
					t.Error(err)
				case failed.MaybeSent:
					outcome[i][seq] = 1
				default:
					outcome[i][seq] = 2
				}
			}
		})
	}
	within("Send", all.Wait)
	require.NoError(t, m.Close())
	within("the server", p.Close)
	require.Empty(t, glued, p.Tell(20))
	counts := map[int8]int{}
	for i := range senders {
		for seq := range each {
			n := got[[2]uint32{uint32(i), uint32(seq)}]
			counts[outcome[i][seq]]++
			require.LessOrEqual(t, n, 1, "message %d of sender %d has come twice", seq, i)
			if outcome[i][seq] == 2 {
				require.Zero(t, n, "message %d of sender %d was not sent, it was said, and has come", seq, i)
			}
		}
	}
	require.Greater(t, counts[0], senders*each/2, "%v", counts)
	require.GreaterOrEqual(t, counts[2], senders*each/10, "%v", counts)
}

// Loops that each take one message of many that came at once: the next loop has the next one at hand, though nothing
// more comes over the connection.
// Catches: messages that wait for the next byte to arrive.
func TestFaultLoopLeftWithMessagesInHand(t *testing.T) {
	const messages = 30
	talker := &layers.Talker{Messages: func(uint32) uint32 { return messages }, Batch: 1 << 20}
	p := serve(t, proxy.Config{Handler: func(c *proxy.Conn) { talker.Serve(c) }})
	m := mux(t, p, 2)
	receiver, err := message.New(m, layers.Framing.Split)
	require.NoError(t, err)
	h := &layers.Heard{}
	within("a loop for one message", func() {
		ear := h.Ear()
		for h.Messages.Load() < 2*messages {
			for msg, err := range receiver.All(t.Context()) {
				ear.Take(msg, err)
				break
			}
		}
	})
	require.NoError(t, h.Err())
	n, err := h.Compare(talker, layers.Strict{Finished: true, Closed: true, Live: true})
	require.NoError(t, err)
	require.Equal(t, 2, n)
	nothingLeft(t, receiver)
}
