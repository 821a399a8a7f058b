package message_test

// Throughput of messages, compared with a hand-written loop over the raw connections: one goroutine
// for each connection, which reads through a bufio.Reader and copies each message too. Both receive
// the same frames over the same number of loopback TCP connections, taking turns, so that both
// sides of the ratio are measured under the same conditions:
//
// go test -run '^$' -bench Messages ./message

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/message"
)

const (
	benchConnections = 8
	benchSegment     = 4 << 20 // bytes that are sent over each connection in one turn
	benchWrite       = 64 << 10
)

func BenchmarkMessages(b *testing.B) {
	for _, size := range []int{64, 1 << 10} {
		for _, goroutines := range []int{1, 4} {
			b.Run(fmt.Sprintf("%dB/%dgoroutines", size, goroutines), func(b *testing.B) {
				ours, theirs := newBenchSide(b, size), newBenchSide(b, size)
				ours.receive(b, goroutines)
				theirs.readRaw()
				var (
					took   [2]time.Duration
					ratios []float64
				)
				ours.turn() // warm
				theirs.turn()
				for b.Loop() {
					before, our, after := theirs.turn(), ours.turn(), theirs.turn()
					their := (before + after) / 2
					took[0] += our
					took[1] += their
					ratios = append(ratios, their.Seconds()/our.Seconds())
				}
				slices.Sort(ratios)
				messages := float64(b.N) * float64(ours.frames*benchConnections)
				b.ReportMetric(messages/took[0].Seconds(), "plex-msg/s")
				b.ReportMetric(messages/took[1].Seconds(), "raw-msg/s")
				b.ReportMetric(ratios[len(ratios)/2], "ratio") // the median, because single turns are noisy
			})
		}
	}
}

// benchSide is one side of the comparison: connections, and senders that send a segment of frames
// over each when told to.
type benchSide struct {
	clients []net.Conn
	orders  []chan struct{}
	got     sync.WaitGroup // counts the connections whose segment is not complete
	running sync.WaitGroup // the receivers
	size    int
	frames  int // of a segment
}

func newBenchSide(b *testing.B, size int) *benchSide {
	s := &benchSide{size: size, frames: benchSegment / (4 + size)}
	frame := make([]byte, 4+size)
	binary.BigEndian.PutUint32(frame, uint32(size))
	var segment []byte
	for range s.frames {
		segment = append(segment, frame...)
	}
	segment[len(segment)-size] = 1 // the first byte of the last message

	for range benchConnections {
		client, server := tcpPair(b)
		order := make(chan struct{})
		s.clients, s.orders = append(s.clients, client), append(s.orders, order)
		s.running.Go(func() {
			for range order {
				for rest := segment; len(rest) > 0; {
					n := min(len(rest), benchWrite)
					_, _ = server.Write(rest[:n]) // a failure shows as a turn that never ends
					rest = rest[n:]
				}
			}
			_ = server.Close()
		})
	}
	b.Cleanup(func() {
		for _, order := range s.orders {
			close(order)
		}
		s.running.Wait()
	})
	return s
}

// turn has one segment sent over each connection, and returns how long it took until all were
// received.
func (s *benchSide) turn() time.Duration {
	began := time.Now()
	s.got.Add(len(s.orders))
	for _, order := range s.orders {
		order <- struct{}{}
	}
	s.got.Wait()
	return time.Since(began)
}

// take handles a message.
func (s *benchSide) take(data []byte) {
	if data[0] == 1 {
		s.got.Done()
	}
}

// receive is plex's side.
func (s *benchSide) receive(b *testing.B, goroutines int) {
	m, err := plex.New(context.Background(), plex.WithConnections(s.clients...))
	require.NoError(b, err)
	r, err := message.New(m, message.Prefix{Bytes: 4}.Split)
	require.NoError(b, err)
	for range goroutines {
		s.running.Go(func() {
			for m, err := range r.All(context.Background()) {
				if err != nil {
					return
				}
				s.take(m.Data)
			}
		})
	}
	b.Cleanup(func() { _ = m.Close() }) // before the senders are waited for
}

// readRaw is the hand-written loop.
func (s *benchSide) readRaw() {
	for _, c := range s.clients {
		s.running.Go(func() {
			defer c.Close()
			r := bufio.NewReaderSize(c, benchWrite)
			for {
				prefix, err := r.Peek(4)
				if err != nil {
					return
				}
				data := make([]byte, binary.BigEndian.Uint32(prefix))
				_, _ = r.Discard(4)
				if _, err := io.ReadFull(r, data); err != nil {
					return
				}
				s.take(data)
			}
		})
	}
}

func tcpPair(t testing.TB) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	client, err = net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	server, err = l.Accept()
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return client, server
}

// A message takes one allocation, of its own length. A lease takes less than one on average.
func BenchmarkAllocations(b *testing.B) {
	s := newBenchSide(b, 64)
	s.receive(b, 1)
	s.turn()
	b.ReportAllocs()
	for b.Loop() {
		s.turn()
	}
	b.ReportMetric(float64(s.frames*benchConnections), "messages/op")
}
