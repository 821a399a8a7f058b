package main

import (
	"io"
	"net"
	"sync"
)

// server sends back every byte that it gets, over the connection that it came over. Its connections can be broken, and
// it can go away and come back.
type server struct {
	address string

	mu       sync.Mutex
	listener net.Listener          // nil while the server is down
	conns    map[net.Conn]struct{} // being served
	serving  sync.WaitGroup
}

// up starts the server, at first on a free port of the loopback interface and later on the same one.
func (s *server) up() error {
	s.mu.Lock()
	defer s.mu.Unlock()

	listener, err := net.Listen("tcp", s.address)
	if err != nil {
		return err
	}
	s.address = listener.Addr().String()
	s.listener = listener
	s.conns = make(map[net.Conn]struct{})
	s.serving.Go(func() { s.accept(listener) })

	return nil
}

// down closes the port and every connection, as the end of a process does.
func (s *server) down() {
	s.mu.Lock()
	_ = s.listener.Close()
	for conn := range s.conns {
		_ = conn.Close()
	}
	s.mu.Unlock()

	s.serving.Wait()
}

// breakOne breaks a connection: the client sees a reset, or, in good order, an end.
func (s *server) breakOne(reset bool) {
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

func (s *server) accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return // the port is closed
		}

		s.mu.Lock()
		s.conns[conn] = struct{}{}
		s.mu.Unlock()

		s.serving.Go(func() {
			// What is hidden from io.Copy is that it could have the kernel do the work.
			_, _ = io.Copy(struct{ io.Writer }{conn}, struct{ io.Reader }{conn})

			s.mu.Lock()
			delete(s.conns, conn)
			s.mu.Unlock()
			_ = conn.Close()
		})
	}
}
