package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// This file and stream.go are all that a program needs: take them as a template.

// Dialer opens streams to a server. They are streams of one QUIC connection; when that has died, the next stream is one
// of a new connection, which is dialled once, however many ask for a stream meanwhile.
//
// All methods may be called from any number of goroutines. Give DialStream to plex:
//
//	plex.WithConnector(plex.DialFunc(dialer.DialStream))
type Dialer struct {
	address   string
	tls       *tls.Config
	config    *quic.Config
	socket    *net.UDPConn
	transport *quic.Transport // on the socket, for all connections
	ctx       context.Context // ends with Close
	cancel    context.CancelFunc
	dialing   sync.WaitGroup

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

// dialTimeout is how long a dial may take. It is nobody's in particular, so no caller's context bounds it.
const dialTimeout = 5 * time.Second

// NewDialer makes a dialer that connects from local, as in "127.0.0.1:0" or ":0", to address. The certificate has to be
// good for the host in it, unless the TLS configuration has a ServerName. It does not dial yet.
func NewDialer(local, address string, tlsConfig *tls.Config, config *quic.Config) (*Dialer, error) {
	tlsConfig = tlsConfig.Clone()
	if tlsConfig.ServerName == "" {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		tlsConfig.ServerName = host
	}
	from, err := net.ResolveUDPAddr("udp", local)
	if err != nil {
		return nil, err
	}
	socket, err := net.ListenUDP("udp", from)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())

	return &Dialer{
		address: address, tls: tlsConfig, config: config,
		socket: socket, transport: &quic.Transport{Conn: socket}, ctx: ctx, cancel: cancel,
	}, nil
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

	var err error
	if latest != nil && latest.conn != nil {
		err = latest.conn.CloseWithError(0, "") // so that the server need not find out
	}

	return errors.Join(err, d.transport.Close(), d.socket.Close())
}

// DialStream opens a stream. The server learns of it when something is written.
func (d *Dialer) DialStream(ctx context.Context) (net.Conn, error) {
	// A connection may turn out to be dead; the next one is new. Should that die at once as well, then there is more
	// wrong than a dialer can mend, and the error is for plex, which knows how long to wait before it tries again.
	var failed error
	for range 2 {
		conn, err := d.connection(ctx)
		if err != nil {
			return nil, err
		}
		s, err := conn.OpenStreamSync(ctx) // waits if there are as many as the server allows
		if err == nil {
			return &stream{Stream: s, conn: conn}, nil
		}
		failed = fmt.Errorf("quic: open a stream to %s: %w", d.address, err)
		if ctx.Err() != nil || conn.Context().Err() == nil {
			return nil, failed
		}
	}

	return nil, failed
}

// connection returns the live connection, or waits for the dial of another.
func (d *Dialer) connection(ctx context.Context) (*quic.Conn, error) {
	d.mu.Lock()
	if d.ctx.Err() != nil {
		d.mu.Unlock()
		return nil, fmt.Errorf("quic: the dialer is closed: %w", net.ErrClosed)
	}
	if d.latest == nil || d.latest.over() {
		d.dials++
		a := &attempt{done: make(chan struct{})}
		d.latest = a
		d.dialing.Go(func() {
			defer close(a.done)
			a.conn, a.err = d.dial()
		})
	}
	latest := d.latest
	d.mu.Unlock()

	select {
	case <-latest.done:
		return latest.conn, latest.err
	case <-ctx.Done():
		return nil, fmt.Errorf("quic: dial %s: %w", d.address, context.Cause(ctx))
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

// dial connects. The name in the address is resolved anew each time.
func (d *Dialer) dial() (*quic.Conn, error) {
	ctx, cancel := context.WithTimeout(d.ctx, dialTimeout)
	defer cancel()
	addr, err := net.ResolveUDPAddr("udp", d.address)
	if err != nil {
		return nil, fmt.Errorf("quic: dial %s: %w", d.address, err)
	}
	conn, err := d.transport.Dial(ctx, addr, d.tls, d.config)
	if err != nil {
		return nil, fmt.Errorf("quic: dial %s: %w", d.address, err)
	}

	return conn, nil
}
