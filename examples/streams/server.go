package main

import (
	"io"
	"net"
	"sync"
)

// server sends back what it gets, until it dies.
type server struct {
	listener net.Listener
	serving  sync.WaitGroup

	mu    sync.Mutex
	limit int64 // bytes that a connection that is accepted from now on lives for; 0: for ever
}

// startServer listens on a free port of the loopback interface.
func startServer() (*server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &server{listener: listener}
	s.serving.Go(s.accept)
	return s, nil
}

func (s *server) addr() string { return s.listener.Addr().String() }

// dieAfter has the next connections end in the middle of what they are sent.
func (s *server) dieAfter(bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = bytes
}

// close stops accepting and waits for the connections, which end when the client closes them.
func (s *server) close() error {
	err := s.listener.Close()
	s.serving.Wait()
	return err
}

func (s *server) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return // the port is closed
		}
		s.mu.Lock()
		limit := s.limit
		s.mu.Unlock()
		s.serving.Go(func() { serve(conn.(*net.TCPConn), limit) })
	}
}

func serve(conn *net.TCPConn, limit int64) {
	defer conn.Close()
	if limit == 0 {
		_, _ = io.Copy(conn, conn) // to the end, however that comes
		return
	}
	_, _ = io.CopyN(io.Discard, conn, limit)
	_ = conn.SetLinger(0) // what else has arrived is thrown away, and the client is told of a reset
}
