// Package streams makes streams of QUIC connections into a pool's connections. Take it as a template:
//
//	dialer := streams.NewDialer("192.0.2.9:4433", tlsConfig, &quic.Config{KeepAlivePeriod: 5 * time.Second})
//	pool, err := plex.New(ctx, plex.WithConnector(plex.DialFunc(dialer.DialStream)), plex.WithMinConnections(8))
package streams

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"

	"github.com/quic-go/quic-go"
)

// Dialer opens streams to a server. They are streams of one QUIC connection; when that has died, the next stream is one
// of a new connection, which is dialled once, however many ask for a stream meanwhile.
//
// All methods may be called from any number of goroutines.
type Dialer struct {
	address string
	tls     *tls.Config
	config  *quic.Config
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	dialing sync.WaitGroup

	mu     sync.Mutex
	latest *attempt // to connect; nil before the first
	dials  int
}

// attempt is a dial that is under way, or what came of it.
type attempt struct {
	done chan struct{} // closed when the other two are set
	conn *quic.Conn
	err  error
}

// NewDialer makes a dialer. It does not dial yet.
func NewDialer(address string, tlsConfig *tls.Config, config *quic.Config) *Dialer {
	ctx, cancel := context.WithCancel(context.Background())
	return &Dialer{address: address, tls: tlsConfig, config: config, ctx: ctx, cancel: cancel}
}

// Dials is how many QUIC connections have been dialled.
func (d *Dialer) Dials() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dials
}

// Close ends the QUIC connection, with what streams it has, and the dialer. Close the multiplexer first.
func (d *Dialer) Close() error {
	d.mu.Lock()
	d.cancel()
	latest := d.latest
	d.mu.Unlock()
	d.dialing.Wait()
	if latest == nil || latest.conn == nil {
		return nil
	}
	return latest.conn.CloseWithError(0, "") // so that the server need not find out
}

// DialStream opens a stream. The server learns of it when something is written.
func (d *Dialer) DialStream(ctx context.Context) (net.Conn, error) {
	conn, err := d.connection(ctx)
	if err != nil {
		return nil, fmt.Errorf("quic: dial %s: %w", d.address, err)
	}
	s, err := conn.OpenStreamSync(ctx) // waits if there are as many as the server allows
	if err != nil {
		return nil, fmt.Errorf("quic: open a stream to %s: %w", d.address, err)
	}
	return Conn(conn, s), nil
}

// connection returns the live connection, or waits for the dial of another. The dial is nobody's in particular, so no
// caller's context bounds it; quic.Config's HandshakeIdleTimeout does.
func (d *Dialer) connection(ctx context.Context) (*quic.Conn, error) {
	d.mu.Lock()
	if d.ctx.Err() != nil {
		d.mu.Unlock()
		return nil, net.ErrClosed
	}
	if d.latest == nil || d.latest.over() {
		d.dials++
		a := &attempt{done: make(chan struct{})}
		d.latest = a
		d.dialing.Go(func() {
			defer close(a.done)
			a.conn, a.err = quic.DialAddr(d.ctx, d.address, d.tls, d.config)
		})
	}
	latest := d.latest
	d.mu.Unlock()

	select {
	case <-latest.done:
		return latest.conn, latest.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// over reports whether there is nothing more to be had from an attempt.
func (a *attempt) over() bool {
	select {
	case <-a.done:
		return a.err != nil || a.conn.Context().Err() != nil
	default:
		return false
	}
}

// Conn makes a net.Conn of a stream: it gets the addresses of its connection, and a Close that means all of it.
func Conn(conn *quic.Conn, s *quic.Stream) net.Conn { return &stream{Stream: s, conn: conn} }

type stream struct {
	*quic.Stream
	conn    *quic.Conn
	writing sync.Mutex // held during a Write
}

func (s *stream) LocalAddr() net.Addr  { return addr{s.conn.LocalAddr()} }
func (s *stream) RemoteAddr() net.Addr { return addr{s.conn.RemoteAddr()} }

// addr does not say that it is one of UDP. plex goes by the network of the local address, and of UDP it expects datagrams,
// of which what does not fit into the buffer of a Read is lost.
type addr struct{ net.Addr }

func (addr) Network() string { return "quic" }

// Write writes all of p or says why not. Of several at once one waits for the other, so that each is whole.
func (s *stream) Write(p []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.Stream.Write(p)
}

// CloseWrite tells the peer that nothing more follows. It can still send.
func (s *stream) CloseWrite() error { return s.Stream.Close() }

// Close ends both directions. What has been written is still delivered, and the peer then reads io.EOF. Blocked calls end.
//
// The Close of quic.Stream ends the sending alone: the stream would stay among those that the peer allows, until there are
// no more to be had. It must not be called while a Write is under way, either.
func (s *stream) Close() error {
	s.CancelRead(0)
	if !s.writing.TryLock() {
		s.CancelWrite(0) // which gives up the rest of that Write
		return nil
	}
	defer s.writing.Unlock()
	_ = s.Stream.Close() // it fails if there is nothing left to close
	return nil
}
