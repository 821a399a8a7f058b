package peer

// The server whose connections die.

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Server accepts connections on loopback, greets each with one byte, and counts
// what it is sent. Who has read the greeting in a lease has shown that the
// connection is of use: plex takes a service that accepts and hangs up for
// one that fails, and connects again under a backoff.
type Server struct {
	address  string // constant
	received atomic.Int64
	users    sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener // nil while it is down
	conns    []net.Conn
	places   map[net.Conn]int // in conns
	killed   int
}

// NewServer starts a server.
func NewServer() (*Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{address: l.Addr().String(), places: make(map[net.Conn]int)}
	s.serveAll(l)
	return s, nil
}

// Start brings it up again, at the same address.
func (s *Server) Start() error {
	l, err := net.Listen("tcp", s.address)
	if err != nil {
		return err
	}
	s.serveAll(l)
	return nil
}

func (s *Server) serveAll(l net.Listener) {
	s.mu.Lock()
	s.listener = l
	s.mu.Unlock()
	s.users.Go(func() { s.acceptAll(l) })
}

// Stop closes its listener and all connections, as the end of its process would.
func (s *Server) Stop() {
	s.mu.Lock()
	l, conns := s.listener, append([]net.Conn(nil), s.conns...)
	s.listener = nil
	s.mu.Unlock()
	if l != nil {
		_ = l.Close() // it is not used any more, whatever it says
	}
	for _, nc := range conns {
		_ = nc.Close()
	}
	s.users.Wait()
}

// Address is where it listens.
func (s *Server) Address() string { return s.address }

// Received is how many bytes have come, over all connections.
func (s *Server) Received() int64 { return s.received.Load() }

// Killed is how many connections Kill has closed.
func (s *Server) Killed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.killed
}

// Kill closes one connection, chosen at random: with a reset, or with the
// ordinary FIN. It returns the address of the client's end and when it was
// closed, and "" if there is no connection.
func (s *Server) Kill(reset bool) (client string, at time.Time) {
	s.mu.Lock()
	if len(s.conns) == 0 {
		s.mu.Unlock()
		return "", time.Now()
	}
	nc := s.conns[rand.IntN(len(s.conns))]
	s.killed++
	s.forgetLocked(nc)
	s.mu.Unlock()
	if reset {
		_ = nc.(*net.TCPConn).SetLinger(0) // fails only if it is dead already
	}
	client = nc.RemoteAddr().String()
	at = time.Now()
	_ = nc.Close()
	return client, at
}

func (s *Server) acceptAll(l net.Listener) {
	for {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.listener != l {
			s.mu.Unlock()
			_ = nc.Close()
			return
		}
		s.places[nc] = len(s.conns)
		s.conns = append(s.conns, nc)
		s.users.Go(func() { s.serve(nc) })
		s.mu.Unlock()
	}
}

// serverBuffer is how much the system keeps for a connection of the server.
const serverBuffer = 64 << 10

func (s *Server) serve(nc net.Conn) {
	defer func() {
		s.mu.Lock()
		s.forgetLocked(nc)
		s.mu.Unlock()
		_ = nc.Close()
	}()
	if _, err := nc.Write([]byte{'!'}); err != nil {
		return
	}
	// The system would let the buffers of a connection grow with its age, and
	// an old one would be another thing than a new one.
	_ = nc.(*net.TCPConn).SetReadBuffer(serverBuffer) // fails only if it is dead already
	buf := make([]byte, 16<<10)
	for {
		n, err := nc.Read(buf)
		s.received.Add(int64(n))
		if err != nil {
			return
		}
	}
}

func (s *Server) forgetLocked(nc net.Conn) {
	i, ok := s.places[nc]
	if !ok {
		return
	}
	last := len(s.conns) - 1
	s.conns[i] = s.conns[last]
	s.places[s.conns[i]] = i
	s.conns = s.conns[:last]
	delete(s.places, nc)
}

// Dialer connects to it. closed, if it is not nil, is called when the client's
// end is closed.
func (s *Server) Dialer(closed func(client string)) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) { return DialObserved(ctx, s.address, closed) }
}
