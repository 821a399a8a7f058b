package main

import (
	"bytes"
	"net"
	"sync"
	"sync/atomic"
)

// server answers each datagram with its id and its payload in capitals. It can go away and come back.
type server struct {
	address string
	socket  net.PacketConn
	serving sync.WaitGroup

	asked   atomic.Int64 // datagrams
	largest atomic.Int64 // bytes
}

// up listens, at first on a free port of the loopback interface and later on the same one.
func (s *server) up() error {
	socket, err := net.ListenPacket("udp", s.address)
	if err != nil {
		return err
	}
	s.address, s.socket = socket.LocalAddr().String(), socket
	s.serving.Go(func() { s.serve(socket) })

	return nil
}

// down closes the port. Whoever sends to it is told that nobody listens.
func (s *server) down() error {
	err := s.socket.Close()
	s.serving.Wait()

	return err
}

func (s *server) serve(socket net.PacketConn) {
	datagram := make([]byte, 64<<10)
	for {
		n, from, err := socket.ReadFrom(datagram)
		if err != nil {
			return // the port is closed
		}
		if n < idSize {
			continue // no request
		}
		s.asked.Add(1)
		s.largest.Store(max(s.largest.Load(), int64(n))) // one goroutine serves
		answer := append(datagram[:idSize:idSize], bytes.ToUpper(datagram[idSize:n])...)
		_, _ = socket.WriteTo(answer, from) // if it cannot be sent it is lost, as any datagram may be
	}
}
