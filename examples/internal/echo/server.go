// Package echo is what the examples about healing and about several addresses have in common: a server that sends back
// what it gets, and can go away and come back, the protocol that is spoken with it, and callers.
package echo

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
)

// Server sends back every byte that it gets, over the connection that it came over. Its connections can be broken, and
// it can go away and come back.
type Server struct {
	Address string // once it is up

	mu       sync.Mutex
	listener net.Listener // nil while the server is down
	conns    map[net.Conn]bool
	serving  sync.WaitGroup
}

// Up starts the server, on a free port the first time and on the same one from then on. It is a port that the system
// gives to no outgoing connection, so that it is free when the server comes back.
func (s *Server) Up() (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Address != "" {
		s.listener, err = net.Listen("tcp", s.Address)
	}
	for try := 0; s.Address == "" && try < 50; try++ {
		address := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000))
		if s.listener, err = net.Listen("tcp", address); err == nil {
			s.Address = address
		}
	}
	if err != nil {
		return err
	}
	listener := s.listener
	s.conns = make(map[net.Conn]bool)
	s.serving.Go(func() {
		for conn, err := listener.Accept(); err == nil; conn, err = listener.Accept() {
			s.serving.Go(func() { s.serve(conn) })
		}
	})
	return nil
}

// Down closes the port and every connection, as the end of a process does.
func (s *Server) Down() {
	s.mu.Lock()
	if s.listener != nil {
		_ = s.listener.Close()
	}
	for conn := range s.conns {
		_ = conn.Close()
	}
	s.conns = nil
	s.mu.Unlock()
	s.serving.Wait()
}

// BreakOne breaks a connection: the client sees a reset or, in good order, an EOF.
func (s *Server) BreakOne(reset bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.conns { // in no particular order
		if reset {
			_ = conn.(*net.TCPConn).SetLinger(0)
		}
		_ = conn.Close()
		return
	}
}

func (s *Server) serve(conn net.Conn) {
	defer conn.Close()
	s.mu.Lock()
	if s.conns == nil { // the server has gone down meanwhile
		s.mu.Unlock()
		return
	}
	s.conns[conn] = true
	s.mu.Unlock()

	// What is hidden from io.Copy is that it could have the kernel do the work.
	_, _ = io.Copy(struct{ io.Writer }{conn}, struct{ io.Reader }{conn})
	s.mu.Lock()
	delete(s.conns, conn)
	s.mu.Unlock()
}

// Protocol tells package request what is spoken: an identifier, by which the reply is found, and a number that comes back.
type Protocol struct{}

func (Protocol) Append(dst []byte, id, number uint64) ([]byte, error) {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(dst, id), number), nil
}

func (Protocol) Split(data []byte, _ bool) (advance int, token []byte, err error) {
	if len(data) < 16 {
		return 0, nil, nil
	}
	return 16, data[:16:16], nil
}

func (Protocol) Parse(message []byte) (id, number uint64, err error) {
	return binary.BigEndian.Uint64(message), binary.BigEndian.Uint64(message[8:]), nil
}
