package main

// The connector: it dials the proxy, from addresses of its own so that no port is used up, and does wrong what
// faults.go draws.

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"time"

	"go.atomizer.io/plex"
)

// ownAddresses says that all of 127/8 is this machine's.
const ownAddresses = runtime.GOOS == "linux"

// extraNet is the second byte of the addresses of connections that the pool does not know of, see link.extra.
const extraNet = 2

var (
	errConnector = errors.New("the connector fails")
	errBusy      = errors.New("the service says that it is busy")
)

// handshakeTimeout is how long a connector waits for how the stream begins.
const handshakeTimeout = 150 * time.Millisecond

// connect is a plex.Connect for a pool of the given set-up.
func (s *lane) connect(p *setup, service *cluster) plex.Connect {
	return func(ctx context.Context, conn net.Conn) error {
		n := s.dials.Add(1)
		fault := s.drawConnectorFault(n)
		if fault != connectorWell {
			s.sums.connector[fault].Add(1)
		}
		s.book.beginDial(p.Capacity)
		switch fault {
		case connectorFails:
			s.book.dialFailed()
			return errConnector
		case connectorPanics:
			s.book.dialFailed()
			panic(errConnector)
		case connectorEndsGoroutine:
			s.book.dialFailed()
			runtime.Goexit()
		case connectorHangs:
			<-ctx.Done()
			s.book.dialFailed()
			return ctx.Err()
		case connectorAttachesNothing:
			s.book.dialFailed()
			return nil
		case connectorAttachesNil:
			s.book.dialFailed()
			return plex.Attach(conn, (*net.TCPConn)(nil))
		}

		if err := service.reach(ctx, conn); err != nil {
			s.book.dialFailed()
			return err
		}
		tcp, err := s.dial(ctx, n, fault == connectorAttachesLate)
		if err != nil {
			s.book.dialFailed()
			return err
		}
		l := s.book.enter(tcp, p, 1, fault == connectorAttachesLate)
		if fault == connectorAttachesLate {
			s.beside.Go(func() {
				time.Sleep(50 * time.Millisecond) // plex has noticed the return by then, on a busy machine too
				if err := plex.Attach(conn, l); err == nil {
					s.fail(l, errors.New("attached after Connect had returned"))
				}
			})
			return nil
		}
		if err := plex.Attach(conn, s.transport(l, p)); err != nil {
			return err
		}
		if p.kind == overTLS {
			// The handshake is plex's to do, at the latest. It is bounded by the connect timeout.
			l.log.add("attached")
		}
		if fault == connectorIsToldBusy || fault == connectorWell && p.handshake {
			if err := s.handshake(conn, l); err != nil {
				return err
			}
		}
		switch fault {
		case connectorIsToldBusy:
			return errBusy
		case connectorAttachesAndFails:
			return errConnector
		case connectorAttachesTwice:
			// It is beyond the capacity, which is the connector's doing; plex closes it at once.
			second, err := s.dial(ctx, n, true)
			if err != nil {
				return err
			}
			return plex.Attach(conn, s.book.enter(second, p, 0, true))
		}
		return nil
	}
}

// transport is what the pool is given for a link.
func (s *lane) transport(l *link, p *setup) net.Conn {
	switch p.kind {
	case overTLS:
		return tls.Client(l, s.ClientTLS)
	case overForeign:
		return &foreign{l: l}
	default:
		return l
	}
}

// handshake reads how the stream begins, as a connector does that waits for a greeting, and leaves a deadline behind.
func (s *lane) handshake(conn net.Conn, l *link) error {
	l.read.turn.Lock()
	defer l.read.turn.Unlock()
	if err := conn.SetReadDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return err
	}
	var begin [8]byte
	n, err := io.ReadFull(conn, begin[:])
	l.log.note("handshake", n, err)
	if wrong := l.in.Check(begin[:n]); wrong != nil {
		s.damaged(l.in.Result())
		s.fail(l, wrong)
	}
	return err
}

// dial connects from an address drawn from n, another one if the pool does not know of the connection.
func (s *lane) dial(ctx context.Context, n uint64, extra bool) (*net.TCPConn, error) {
	var d net.Dialer
	if ownAddresses {
		second := byte(1)
		if extra {
			second = extraNet
		}
		d.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, second, byte(n>>8), byte(n))}
	}
	nc, err := d.DialContext(ctx, "tcp", s.proxy.Addr())
	if err != nil {
		return nil, err
	}
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		return nil, fmt.Errorf("a %T", nc)
	}
	_ = tcp.SetWriteBuffer(kernelBuffer) // as at the server
	_ = tcp.SetReadBuffer(kernelBuffer)
	return tcp, nil
}
