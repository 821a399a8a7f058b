package main

import (
	"net"
	"sync"

	"github.com/quic-go/quic-go"
)

// stream makes a net.Conn of a stream of a QUIC connection. A stream has everything that a net.Conn has but addresses,
// for which those of its connection stand, and a Close that means all of it.
//
// plex has no descriptor to watch. That a stream has died, with its QUIC connection as a rule, is found when it is used;
// and ready readers, as packages message and request have them, look at each stream that is idle at most 20 ms apart.
type stream struct {
	*quic.Stream
	conn *quic.Conn

	writing sync.Mutex // held during a Write
}

func (s *stream) LocalAddr() net.Addr  { return addr{s.conn.LocalAddr()} }
func (s *stream) RemoteAddr() net.Addr { return addr{s.conn.RemoteAddr()} }

// addr is the address of a QUIC connection. It is one of UDP, but a stream must not say so: plex goes by the network of
// the local address, and of UDP it expects datagrams, of which what does not fit into the buffer of a Read is lost.
type addr struct{ net.Addr }

func (addr) Network() string { return "quic" }

// Write writes all of p or says why not. Of several at once one waits for the other, so that each is whole.
func (s *stream) Write(p []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()

	return s.Stream.Write(p)
}

// CloseWrite tells the peer that nothing more follows. It can still send.
func (s *stream) CloseWrite() error { return s.Stream.Close() }

// Close ends both directions. What has been written is still delivered, and the peer then reads io.EOF. A Read that
// blocks ends, and so does a Write, whose rest is given up; the peer is told that nobody reads any more.
//
// That of quic.Stream ends the sending alone: the stream would stay with both sides, and with it its place among those
// that the peer allows. It must not be called while a Write is under way, either.
func (s *stream) Close() error {
	s.CancelRead(0)
	if !s.writing.TryLock() {
		s.CancelWrite(0)
		return nil
	}
	defer s.writing.Unlock()
	// It fails when the peer has refused the rest, or the stream has ended already: then there is nothing left to close.
	_ = s.Stream.Close()

	return nil
}
