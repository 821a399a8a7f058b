package main

import (
	"crypto/tls"
	"io"
	"net"
	"sync"
)

// server sends back what it gets, over TLS.
type server struct {
	listener net.Listener
	serving  sync.WaitGroup

	mu     sync.Mutex
	conns  map[*tls.Conn]struct{} // being served
	spoken map[string]int         // connections, by what was agreed in their handshakes
}

// startServer listens on a free port of the loopback interface.
func startServer(config *tls.Config) (*server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &server{
		listener: tls.NewListener(listener, config),
		conns:    make(map[*tls.Conn]struct{}), spoken: make(map[string]int),
	}
	s.serving.Go(s.accept)

	return s, nil
}

func (s *server) addr() string { return s.listener.Addr().String() }

// close stops accepting and waits for the connections, which end when the client closes them.
func (s *server) close() error {
	err := s.listener.Close()
	s.serving.Wait()

	return err
}

// resetOne breaks a connection beneath TLS.
func (s *server) resetOne() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.conns { // in no particular order
		raw := conn.NetConn().(*net.TCPConn)
		_ = raw.SetLinger(0)
		_ = raw.Close()

		return
	}
}

func (s *server) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return // the port is closed
		}
		s.serving.Go(func() { s.serve(conn.(*tls.Conn)) })
	}
}

func (s *server) serve(conn *tls.Conn) {
	defer conn.Close()
	if err := conn.Handshake(); err != nil {
		return // the client does not trust the certificate, and is told so where it dials
	}

	agreed := conn.ConnectionState()
	s.mu.Lock()
	s.conns[conn] = struct{}{}
	s.spoken[tls.VersionName(agreed.Version)+", "+tls.CipherSuiteName(agreed.CipherSuite)]++
	s.mu.Unlock()

	_, _ = io.Copy(conn, conn) // to the end, however that comes

	s.mu.Lock()
	delete(s.conns, conn)
	s.mu.Unlock()
}
