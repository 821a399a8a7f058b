package cases

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/bench/harness"
	"go.atomizer.io/plex/bench/peer"
)

const (
	chunk = 64 << 10
	// buffered is how many bytes the channel of a stream of bytes holds.
	buffered = 4 << 10
	// bareChannel is a channel of bytes with nothing behind it.
	bareChannel = "channel"
	// freshMemory is a net.Conn read by a goroutine that hands over each chunk
	// in memory of its own, as a stream has to: the limit of any such stream.
	freshMemory = "net.Conn, fresh memory"
)

// throughput is what a stream is about. The harness measures the time; this is
// the same the other way round.
var throughput = harness.Metric{Key: "B/s", Title: "throughput", Unit: harness.BytesPerSecond, Higher: true}

func streamCases(p *peer.Process) []*harness.Case {
	return []*harness.Case{recvChunks(p), sendChunks(p), recvSmall(p), recv(p), send(p)}
}

func recvChunks(p *peer.Process) *harness.Case {
	dial := p.Dialer(peer.Flood, peer.TCP)
	return timed(&harness.Case{
		Name:     "recvchunks",
		Title:    "RecvChunks, 64 KiB",
		Compares: "RecvChunks in chunks of 64 KiB with a loop that reads into one buffer of 64 KiB, and with one that reads into fresh memory each time and hands it over, over tcp on loopback",
		Targets:  []harness.Target{harness.AtLeast(0.9, bare, throughput.Key)},
		Subjects: []harness.Subject{
			{Name: "plex", Open: ofReader(dial, func(r plex.Reader, n int) error {
				ch, err := r.RecvChunks(context.Background(), chunk)
				if err != nil {
					return err
				}
				for left := n * chunk; left > 0; {
					c, ok := <-ch
					if !ok {
						return errEnded(r.Err())
					}
					left -= len(c)
				}
				return nil
			})},
			{Name: bare, Open: ofConn(dial, func(nc net.Conn, n int) error {
				buf := make([]byte, chunk)
				for left := n * chunk; left > 0; {
					k, err := nc.Read(buf)
					if err != nil {
						return err
					}
					left -= k
				}
				return nil
			})},
			{Name: freshMemory, Open: ofConn(dial, func(nc net.Conn, n int) error {
				chunks, failed := make(chan []byte, 4), make(chan error, 1)
				go func() {
					defer close(chunks)
					for left := n * chunk; left > 0; {
						buf := make([]byte, chunk)
						k, err := nc.Read(buf)
						if err != nil {
							failed <- err
							return
						}
						left -= k
						chunks <- buf[:k]
					}
				}()
				for range chunks {
				}
				select {
				case err := <-failed:
					return err
				default:
					return nil
				}
			})},
		},
	}, chunk)
}

func sendChunks(p *peer.Process) *harness.Case {
	dial := p.Dialer(peer.Sink, peer.TCP)
	message := make([]byte, chunk)
	return timed(&harness.Case{
		Name:     "sendchunks",
		Title:    "SendChunks, 64 KiB",
		Compares: "SendChunks of chunks of 64 KiB with a loop that writes 64 KiB, over tcp on loopback",
		Targets:  []harness.Target{harness.AtLeast(0.9, bare, throughput.Key)},
		Subjects: []harness.Subject{
			{Name: "plex", Open: ofWriter(dial, func(w plex.Writer, n int) error {
				ch, err := w.SendChunks(context.Background(), chunk)
				if err != nil {
					return err
				}
				for range n {
					ch <- message
				}
				close(ch)
				return nil // the lease's Close waits until all is written
			})},
			{Name: bare, Open: ofConn(dial, func(nc net.Conn, n int) error {
				for range n {
					if _, err := nc.Write(message); err != nil {
						return err
					}
				}
				return nil
			})},
		},
	}, chunk)
}

// recvSmall shows what a small message costs in a stream of large chunks.
func recvSmall(p *peer.Process) *harness.Case {
	dial := p.Dialer(peer.Echo, peer.TCP)
	request := peer.NewFrame(0, 0)
	return &harness.Case{
		Group:    GroupStream,
		Name:     "recvchunks/small",
		Title:    "RecvChunks, messages of 64 B",
		Compares: "one message of 64 B at a time, there and back, received as a chunk of at most 64 KiB, or by a Read: what the chunk costs",
		Metrics:  []harness.Metric{harness.Time, harness.Bytes, harness.Allocs},
		Targets:  []harness.Target{harness.Below(256, harness.BytesPerOp)},
		Subjects: []harness.Subject{
			{Name: "plex", Open: ofMux(dial, func(mux *plex.Multiplexer, n int) error {
				ctx := context.Background()
				w, err := mux.Writer(ctx, 0)
				if err != nil {
					return err
				}
				r, err := mux.Reader(ctx, 0)
				if err != nil {
					return err
				}
				ch, err := r.RecvChunks(ctx, chunk)
				if err != nil {
					return err
				}
				for range n {
					if _, err := w.Write(request[:]); err != nil {
						return err
					}
					for left := peer.FrameSize; left > 0; {
						c, ok := <-ch
						if !ok {
							return errEnded(r.Err())
						}
						left -= len(c)
					}
				}
				return errors.Join(r.Close(), w.Close())
			})},
			{Name: bare, Open: ofConn(dial, func(nc net.Conn, n int) error {
				buf := make([]byte, peer.FrameSize)
				for range n {
					if _, err := nc.Write(request[:]); err != nil {
						return err
					}
					if _, err := io.ReadFull(nc, buf); err != nil {
						return err
					}
				}
				return nil
			})},
		},
	}
}

func recv(p *peer.Process) *harness.Case {
	return timed(&harness.Case{
		Name:     "recv",
		Title:    "Recv, byte by byte",
		Compares: fmt.Sprintf("Recv with a buffer of %d bytes, over tcp on loopback, with as many bytes passed from one goroutine to another by such a channel", buffered),
		Targets:  []harness.Target{harness.AtLeast(0.85, bareChannel, throughput.Key)},
		Subjects: []harness.Subject{
			{Name: "plex", Open: ofReader(p.Dialer(peer.Flood, peer.TCP), func(r plex.Reader, n int) error {
				ch, err := r.Recv(context.Background(), buffered)
				if err != nil {
					return err
				}
				for range n {
					if _, ok := <-ch; !ok {
						return errEnded(r.Err())
					}
				}
				return nil
			})},
			passBytes,
		},
	}, 1)
}

func send(p *peer.Process) *harness.Case {
	return timed(&harness.Case{
		Name:     "send",
		Title:    "Send, byte by byte",
		Compares: fmt.Sprintf("Send with a buffer of %d bytes, over tcp on loopback, with as many bytes passed from one goroutine to another by such a channel", buffered),
		Targets:  []harness.Target{harness.AtLeast(0.85, bareChannel, throughput.Key)},
		Subjects: []harness.Subject{
			{Name: "plex", Open: ofWriter(p.Dialer(peer.Sink, peer.TCP), func(w plex.Writer, n int) error {
				ch, err := w.Send(context.Background(), buffered)
				if err != nil {
					return err
				}
				for i := range n {
					ch <- byte(i)
				}
				close(ch)
				return nil // the lease's Close waits until all is written
			})},
			passBytes,
		},
	}, 1)
}

// passBytes is the limit of any stream of bytes.
var passBytes = harness.Subject{Name: bareChannel, Open: func() (harness.Work, error) {
	return harness.Work{
		Run: func(n int) (harness.Sample, error) {
			ch := make(chan byte, buffered)
			go func() {
				defer close(ch)
				for i := range n {
					ch <- byte(i)
				}
			}()
			for range ch {
			}
			return harness.Sample{}, nil
		},
		Close: func() {},
	}, nil
}}

// timed completes a case of which each operation moves so many bytes.
func timed(c *harness.Case, size int) *harness.Case {
	c.Group = GroupStream
	c.Metrics = []harness.Metric{throughput, harness.Allocs, harness.Bytes}
	for i, s := range c.Subjects {
		c.Subjects[i].Open = func() (harness.Work, error) {
			w, err := s.Open()
			if err != nil {
				return w, err
			}
			run := w.Run
			w.Run = func(n int) (harness.Sample, error) {
				return harness.Throughput(n*size, throughput.Key, func() (harness.Sample, error) { return run(n) })
			}
			return w, nil
		}
	}
	return c
}

// errEnded is the error of a stream that has ended too early.
func errEnded(cause error) error {
	return fmt.Errorf("the stream has ended: %w", errors.Join(io.ErrUnexpectedEOF, cause))
}
