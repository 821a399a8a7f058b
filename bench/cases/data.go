package cases

import (
	"context"
	"fmt"
	"net"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/bench/harness"
	"go.atomizer.io/plex/bench/peer"
)

// bare is the subject that plex is compared with where bytes are moved.
const bare = "net.Conn"

// DataSizes are the sizes of the messages that are read and written.
var DataSizes = []int{64, 4 << 10, 64 << 10}

// DataNetworks are the networks that they go over.
var DataNetworks = []string{peer.TCP, peer.Unix, peer.TLS}

// DataName is the name of the case for an operation, "read" or "write".
func DataName(operation, network string, size int) string {
	return fmt.Sprintf("%s/%s/%d", operation, network, size)
}

func dataCases(p *peer.Process) []*harness.Case {
	var cases []*harness.Case
	for _, network := range DataNetworks {
		for _, size := range DataSizes {
			cases = append(cases, write(p, network, size), read(p, network, size))
		}
	}
	return append(cases, writeLeases(p))
}

func dataCase(operation, network string, size int) *harness.Case {
	c := &harness.Case{
		Group:    GroupData,
		Name:     DataName(operation, network, size),
		Title:    fmt.Sprintf("%s of %s, %s", operation, harness.Size.Format(float64(size)), network),
		Compares: fmt.Sprintf("a %s of %s through a lease and on the bare connection, over %s on loopback", operation, harness.Size.Format(float64(size)), network),
		Metrics:  []harness.Metric{harness.Time, harness.Allocs},
		Rounds:   21,
	}
	if network == peer.TCP && size != 4<<10 {
		c.Targets = []harness.Target{harness.AtMost(1.03, bare, harness.TimePerOp)}
	}
	return c
}

// write compares Write. The peer reads all that comes; small messages it lets
// come together, since whether each of them has to wake it is a matter of
// chance, and makes a Write twice as long.
func write(p *peer.Process, network string, size int) *harness.Case {
	service := peer.Sink
	if size < 1<<10 {
		service = peer.Drain
	}
	dial := p.Dialer(service, network)
	message := make([]byte, size)
	c := dataCase("write", network, size)
	c.Subjects = []harness.Subject{
		{Name: "plex", Open: ofWriter(dial, func(w plex.Writer, n int) error {
			for range n {
				if _, err := w.Write(message); err != nil {
					return err
				}
			}
			return nil
		})},
		{Name: bare, Open: ofConn(dial, func(nc net.Conn, n int) error {
			for range n {
				if _, err := nc.Write(message); err != nil {
					return err
				}
			}
			return nil
		})},
	}
	return c
}

// read compares Read. The peer writes without end, so a Read never waits, or
// not for long.
func read(p *peer.Process, network string, size int) *harness.Case {
	dial := p.Dialer(peer.Flood, network)
	c := dataCase("read", network, size)
	c.Subjects = []harness.Subject{
		{Name: "plex", Open: func() (harness.Work, error) {
			buf := make([]byte, size)
			return ofReader(dial, func(r plex.Reader, n int) error {
				for left := n * size; left > 0; {
					k, err := r.Read(buf[:min(size, left)])
					if err != nil {
						return err
					}
					left -= k
				}
				return nil
			})()
		}},
		{Name: bare, Open: func() (harness.Work, error) {
			buf := make([]byte, size)
			return ofConn(dial, func(nc net.Conn, n int) error {
				for left := n * size; left > 0; {
					k, err := nc.Read(buf[:min(size, left)])
					if err != nil {
						return err
					}
					left -= k
				}
				return nil
			})()
		}},
	}
	return c
}

// writeLeases compares Write with a lease for each message.
func writeLeases(p *peer.Process) *harness.Case {
	c := write(p, peer.TCP, 64)
	c.Name = "write/tcp/64/lease"
	c.Title = "a lease for each write of 64 B, tcp"
	c.Compares = "a Writer acquired, a write of 64 B, and the Writer closed, with a write on the bare connection"
	c.Targets = nil
	c.Subjects[0].Open = ofMux(p.Dialer(peer.Drain, peer.TCP), func(mux *plex.Multiplexer, n int) error {
		message := make([]byte, 64)
		ctx := context.Background()
		for range n {
			w, err := mux.Writer(ctx, 0)
			if err != nil {
				return err
			}
			if _, err := w.Write(message); err != nil {
				return err
			}
			if err := w.Close(); err != nil {
				return err
			}
		}
		return nil
	})
	return c
}

type dialer = func(context.Context) (net.Conn, error)

// ofConn makes work of a bare connection.
func ofConn(dial dialer, run func(net.Conn, int) error) func() (harness.Work, error) {
	return func() (harness.Work, error) {
		nc, err := dial(context.Background())
		if err != nil {
			return harness.Work{}, err
		}
		return harness.Work{
			Run:   func(n int) (harness.Sample, error) { return harness.Sample{}, run(nc, n) },
			Close: func() { _ = nc.Close() },
		}, nil
	}
}

// ofMux makes work of a multiplexer with one connection.
func ofMux(dial dialer, run func(*plex.Multiplexer, int) error) func() (harness.Work, error) {
	return func() (harness.Work, error) {
		mux, err := plex.New(context.Background(), plex.WithConnector(plex.DialFunc(dial)), plex.WithMinConnections(1))
		if err != nil {
			return harness.Work{}, err
		}
		return harness.Work{
			Run:   func(n int) (harness.Sample, error) { return harness.Sample{}, run(mux, n) },
			Close: func() { _ = mux.Close() },
		}, nil
	}
}

// ofWriter and ofReader make work of a lease.
func ofWriter(dial dialer, run func(plex.Writer, int) error) func() (harness.Work, error) {
	return ofMux(dial, func(mux *plex.Multiplexer, n int) error {
		w, err := mux.Writer(context.Background(), 0)
		if err != nil {
			return err
		}
		if err := run(w, n); err != nil {
			return err
		}
		return w.Close()
	})
}

func ofReader(dial dialer, run func(plex.Reader, int) error) func() (harness.Work, error) {
	return ofMux(dial, func(mux *plex.Multiplexer, n int) error {
		r, err := mux.Reader(context.Background(), 0)
		if err != nil {
			return err
		}
		if err := run(r, n); err != nil {
			return err
		}
		return r.Close()
	})
}
