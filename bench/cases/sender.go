package cases

// message.Sender beside the buffer with a flusher that every client writes by hand.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/bench/harness"
	"go.atomizer.io/plex/bench/peer"
	"go.atomizer.io/plex/message"
)

// sendingSize is the length of a message that is sent.
const sendingSize = 64

// sending compares message.Sender with the way of nats.go: messages are appended to a buffer under a
// mutex, whoever fills it writes it, and else a flusher does, which is kicked through a channel. The
// way by hand knows no lost connections, policies or counts.
func sending(p *peer.Process) *harness.Case {
	const goroutines = 64
	dial := p.Dialer(peer.Sink, peer.TCP)
	data := make([]byte, sendingSize)
	return &harness.Case{
		Group: GroupMessage,
		Name:  "sender/64",
		Title: plural(goroutines, "goroutine") + " that queue messages",
		Compares: fmt.Sprintf("%s that each queue messages of %d bytes on a message.Sender over 1 connection; and on a buffer under a mutex with a flusher, as in nats.go, which forgets what it cannot write",
			plural(goroutines, "goroutine"), sendingSize),
		Metrics: []harness.Metric{messages, harness.Allocs},
		Targets: []harness.Target{harness.AtLeast(0.9, byHand, messages.Key)},
		Turn:    150 * time.Millisecond,
		Rounds:  11,
		Subjects: []harness.Subject{
			{Name: "plex", Open: func() (harness.Work, error) {
				mux, err := plex.New(context.Background(), plex.WithConnector(plex.DialFunc(dial)),
					plex.WithMinConnections(1), plex.WithMaxCapacity(1))
				if err != nil {
					return harness.Work{}, err
				}
				sender, err := message.NewSender(mux)
				if err != nil {
					return harness.Work{}, err
				}
				return harness.Work{
					Run: sendAll(goroutines, func() error {
						err := sender.Queue(data)
						for errors.Is(err, message.ErrFull) { // the peer is slower
							_ = sender.Flush(context.Background())
							err = sender.Queue(data)
						}
						return err
					}, func() error { return sender.Flush(context.Background()) }),
					Close: func() { _, _ = sender.Close(context.Background()), mux.Close() }, // nothing is left
				}, nil
			}},
			{Name: byHand, Open: func() (harness.Work, error) {
				nc, err := dial(context.Background())
				if err != nil {
					return harness.Work{}, err
				}
				s := &kicked{nc: nc, kick: make(chan struct{}, 1)}
				s.flusher.Go(s.flushAll)
				return harness.Work{Run: sendAll(goroutines, func() error { return s.queue(data) }, s.flush), Close: s.close}, nil
			}},
		},
	}
}

// sendAll divides messages among goroutines, and waits until all are written.
func sendAll(goroutines int, queue, flush func() error) func(n int) (harness.Sample, error) {
	return func(n int) (harness.Sample, error) {
		start := time.Now()
		err := parallel(goroutines, n, func(_, n int) error {
			for range n {
				if err := queue(); err != nil {
					return err
				}
			}
			return nil
		})
		err = errors.Join(err, flush())
		return harness.Sample{Figures: map[string]float64{messages.Key: float64(n) / time.Since(start).Seconds()}}, err
	}
}

// kicked is the sender written by hand.
type kicked struct {
	nc      net.Conn
	kick    chan struct{}
	flusher sync.WaitGroup

	mu  sync.Mutex
	buf []byte
	err error
}

func (k *kicked) queue(data []byte) error {
	const most = 32 << 10 // as in nats.go
	k.mu.Lock()
	defer k.mu.Unlock()
	k.buf = append(k.buf, data...)
	if len(k.buf) >= most {
		k.flushLocked()
		return k.err
	}
	select {
	case k.kick <- struct{}{}:
	default:
	}
	return k.err
}

func (k *kicked) flushAll() {
	for range k.kick {
		_ = k.flush() // kept
	}
}

func (k *kicked) flush() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.flushLocked()
	return k.err
}

func (k *kicked) flushLocked() {
	if len(k.buf) > 0 && k.err == nil {
		_, k.err = k.nc.Write(k.buf)
	}
	k.buf = k.buf[:0]
}

func (k *kicked) close() {
	close(k.kick)
	k.flusher.Wait()
	closeAll([]net.Conn{k.nc})
}
