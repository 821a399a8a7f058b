package cases

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/bench/harness"
	"go.atomizer.io/plex/bench/peer"
	"go.atomizer.io/plex/message"
)

// messages is what receiving is about.
var messages = harness.Metric{Key: "messages/s", Title: "messages", Unit: harness.PerSecond, Higher: true}

// byHand is a loop without plex.
const byHand = "by hand"

// messageReceivers is how many goroutines range over the messages.
const messageReceivers = 4

func messageCases(p *peer.Process) []*harness.Case {
	return []*harness.Case{receiving(p, peer.Messages64), receiving(p, peer.Messages1K), sending(p)}
}

// receiving compares package message with what one would write by hand: a
// goroutine for each connection, which reads through a bufio.Reader. Both give
// each message memory of its own.
func receiving(p *peer.Process, service peer.Service) *harness.Case {
	size := peer.MessageSizes[service]
	dial := p.Dialer(service, peer.TCP)
	return &harness.Case{
		Group: GroupMessage,
		Name:  fmt.Sprintf("message/%d", size),
		Title: "messages of " + harness.Size.Format(float64(size)),
		Compares: fmt.Sprintf("messages of %s behind a length of 4 bytes, which come as fast as they can over %d connections: %s that range over the messages of all, or one for each connection that reads through a bufio.Reader",
			harness.Size.Format(float64(size)), connections, plural(messageReceivers, "goroutine")),
		Metrics: []harness.Metric{messages, harness.Allocs, harness.Bytes},
		Targets: []harness.Target{harness.AtLeast(0.9, byHand, messages.Key)},
		Turn:    150 * time.Millisecond,
		Rounds:  11,
		Subjects: []harness.Subject{
			{Name: "plex", Open: func() (harness.Work, error) { return receiveAll(dial) }},
			{Name: byHand, Open: func() (harness.Work, error) { return receiveByHand(dial) }},
		},
	}
}

func receiveAll(dial dialer) (harness.Work, error) {
	mux, err := plex.New(context.Background(), plex.WithConnector(plex.DialFunc(dial)),
		plex.WithMinConnections(connections), plex.WithMaxCapacity(connections))
	if err != nil {
		return harness.Work{}, err
	}
	r, err := message.New(mux, message.Prefix{Bytes: 4, Order: binary.BigEndian}.Split)
	if err != nil {
		_ = mux.Close() // it returns nil
		return harness.Work{}, err
	}
	return harness.Work{
		Run: func(n int) (harness.Sample, error) {
			var left atomic.Int64
			left.Store(int64(n))
			return harness.Throughput(n, messages.Key, func() (harness.Sample, error) {
				return harness.Sample{}, parallel(messageReceivers, n, func(int, int) error {
					if left.Load() <= 0 {
						return nil
					}
					for _, err := range r.All(context.Background()) {
						if err != nil {
							return err
						}
						if left.Add(-1) <= 0 {
							return nil
						}
					}
					return io.ErrUnexpectedEOF
				})
			})
		},
		Close: func() { _ = mux.Close() },
	}, nil
}

func receiveByHand(dial dialer) (harness.Work, error) {
	conns, err := dialMany(dial, connections)
	if err != nil {
		return harness.Work{}, err
	}
	readers := make([]*bufio.Reader, len(conns))
	for i, nc := range conns {
		readers[i] = bufio.NewReaderSize(nc, chunk)
	}
	return harness.Work{
		Run: func(n int) (harness.Sample, error) {
			var left atomic.Int64
			left.Store(int64(n))
			return harness.Throughput(n, messages.Key, func() (harness.Sample, error) {
				return harness.Sample{}, parallel(len(conns), n, func(i, _ int) error {
					for left.Add(-1) >= 0 {
						if _, err := readFrame(readers[i]); err != nil {
							return err
						}
					}
					return nil
				})
			})
		},
		Close: func() { closeAll(conns) },
	}, nil
}

func readFrame(r *bufio.Reader) ([]byte, error) {
	prefix, err := r.Peek(4)
	if err != nil {
		return nil, err
	}
	frame := make([]byte, binary.BigEndian.Uint32(prefix))
	if _, err := r.Discard(4); err != nil {
		return nil, err
	}
	_, err = io.ReadFull(r, frame)
	return frame, err
}

func closeAll(conns []net.Conn) {
	for _, nc := range conns {
		_ = nc.Close() // it is not used any more, whatever it says
	}
}
