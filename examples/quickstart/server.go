package main

import (
	"bufio"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
)

// server answers every request on the connection that it came over, with the request's id and its payload reversed.
type server struct {
	listener net.Listener
	done     sync.WaitGroup

	mu     sync.Mutex
	counts []int // requests answered, by connection
	err    error // the first failure
}

// startServer listens on a free port of the loopback interface.
func startServer() (*server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}

	s := &server{listener: listener}
	s.done.Go(s.accept)

	return s, nil
}

func (s *server) addr() string { return s.listener.Addr().String() }

// served gives the number of requests that each connection brought.
func (s *server) served() []int {
	s.mu.Lock()
	defer s.mu.Unlock()

	return slices.Clone(s.counts)
}

// close stops accepting and waits for the connections, which end when the client closes them.
func (s *server) close() error {
	err := s.listener.Close()
	s.done.Wait()

	s.mu.Lock()
	defer s.mu.Unlock()

	return errors.Join(err, s.err)
}

func (s *server) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			s.fail(err)
			return
		}

		s.mu.Lock()
		number := len(s.counts)
		s.counts = append(s.counts, 0)
		s.mu.Unlock()

		s.done.Go(func() { s.serve(conn, number) })
	}
}

func (s *server) serve(conn net.Conn, number int) {
	requests, replies := bufio.NewReader(conn), bufio.NewWriter(conn)

	var count int
	var err error
	for err == nil {
		var id uint64
		var payload []byte
		if id, payload, err = readFrame(requests); err != nil {
			break
		}

		if _, err = replies.Write(appendFrame(nil, id, reversed(payload))); err != nil {
			break
		}
		count++

		// Replies go out together while requests are waiting, and at once when none is.
		if requests.Buffered() == 0 {
			err = replies.Flush()
		}
	}
	if err != io.EOF {
		s.fail(err)
	}

	s.mu.Lock()
	s.counts[number] = count
	s.mu.Unlock()

	if err := conn.Close(); err != nil {
		s.fail(err)
	}
}

// fail keeps the first failure. That the listener was closed is how the server ends.
func (s *server) fail(err error) {
	if errors.Is(err, net.ErrClosed) {
		return
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
}

func reversed(p []byte) []byte {
	out := slices.Clone(p)
	slices.Reverse(out)

	return out
}
