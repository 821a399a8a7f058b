package main

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// server takes what it is sent, and counts.
type server struct {
	listener net.Listener
	serving  sync.WaitGroup

	bytes atomic.Int64
	open  atomic.Int64 // connections
	peak  atomic.Int64 // the most that were open at the same time
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

		s.peak.Store(max(s.peak.Load(), s.open.Add(1))) // one goroutine accepts
		s.serving.Go(func() {
			defer s.open.Add(-1)
			n, _ := io.Copy(io.Discard, conn) // to the end, however that came
			s.bytes.Add(n)
			_ = conn.Close()
		})
	}
}
