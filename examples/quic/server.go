package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// service answers each request with its payload reversed, on the stream that it came over. It can close the QUIC
// connections of its clients, and go away without a word and come back on the same port.
type service struct {
	tls      *tls.Config
	config   *quic.Config
	resetKey quic.StatelessResetKey // the same after it has come back, so that it can disown what it does not know any more

	connections atomic.Int64 // accepted
	streams     atomic.Int64 // being served
	accepted    atomic.Int64 // streams

	mu        sync.Mutex
	address   string
	socket    *net.UDPConn
	transport *quic.Transport // nil while it is down
	conns     map[*quic.Conn]struct{}
	serving   sync.WaitGroup
}

// newService makes a service that is down.
func newService(tlsConfig *tls.Config) (*service, error) {
	s := &service{tls: tlsConfig, config: &quic.Config{MaxIdleTimeout: idleTimeout}}
	if _, err := rand.Read(s.resetKey[:]); err != nil {
		return nil, err
	}
	var err error
	s.address, err = freeAddress()

	return s, err
}

// freeAddress finds a free port that the system gives to no other socket by itself, so that it is free when the server
// comes back to it.
func freeAddress() (string, error) {
	var err error
	for range 50 {
		address := fmt.Sprintf("127.0.0.1:%d", 10_000+mathrand.IntN(20_000))
		var socket net.PacketConn
		if socket, err = net.ListenPacket("udp", address); err == nil {
			return address, socket.Close()
		}
	}

	return "", err
}

// up starts the service.
func (s *service) up() error {
	addr, err := net.ResolveUDPAddr("udp", s.address)
	if err != nil {
		return err
	}
	socket, err := net.ListenUDP("udp", addr)
	if err != nil {
		return err
	}
	transport := &quic.Transport{Conn: socket, StatelessResetKey: &s.resetKey}
	listener, err := transport.Listen(s.tls, s.config)
	if err != nil {
		return errors.Join(err, socket.Close())
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	s.socket, s.transport, s.conns = socket, transport, make(map[*quic.Conn]struct{})
	s.serving.Go(func() { s.accept(listener) })

	return nil
}

// down ends the service as the end of its process would: no client is told.
func (s *service) down() error {
	s.mu.Lock()
	transport, socket := s.transport, s.socket
	s.transport = nil
	s.mu.Unlock()
	if transport == nil {
		return nil
	}
	err := errors.Join(transport.Close(), socket.Close())
	s.serving.Wait()

	return err
}

// closeOne closes the QUIC connection of a client, with all its streams, and tells it. It reports whether there was one.
func (s *service) closeOne() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.conns {
		if conn.Context().Err() == nil {
			_ = conn.CloseWithError(1, "closed by the example") // the error is that it has ended already
			return true
		}
	}

	return false
}

func (s *service) accept(listener *quic.Listener) {
	for {
		conn, err := listener.Accept(context.Background())
		if err != nil {
			return // the service is down
		}
		s.connections.Add(1)
		s.mu.Lock()
		s.conns[conn] = struct{}{}
		s.mu.Unlock()
		s.serving.Go(func() {
			s.serve(conn)
			s.mu.Lock()
			delete(s.conns, conn)
			s.mu.Unlock()
		})
	}
}

// serve serves the streams of one connection, until it ends.
func (s *service) serve(conn *quic.Conn) {
	var serving sync.WaitGroup
	defer serving.Wait()
	for {
		accepted, err := conn.AcceptStream(context.Background())
		if err != nil {
			return
		}
		s.accepted.Add(1)
		s.streams.Add(1)
		serving.Go(func() {
			defer s.streams.Add(-1)
			answer(&stream{Stream: accepted, conn: conn})
		})
	}
}

// answer answers the requests of one stream, until it ends.
func answer(conn net.Conn) {
	defer conn.Close()
	requests, replies := bufio.NewScanner(conn), bufio.NewWriter(conn)
	requests.Split(prefix.Split)
	for requests.Scan() {
		id, payload, err := protocol{}.Parse(requests.Bytes())
		if err != nil {
			return
		}
		slices.Reverse(payload)
		reply, err := protocol{}.Append(replies.AvailableBuffer(), id, payload)
		if err != nil {
			return
		}
		if _, err := replies.Write(reply); err != nil {
			return
		}
		if err := replies.Flush(); err != nil {
			return
		}
	}
}

const (
	idleTimeout = time.Second // after so long without a packet, a QUIC connection is dead
	keepAlive   = idleTimeout / 4
)
