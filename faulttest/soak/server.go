package main

// The server: it sends streams of its own and checks those that come. What it does on connection k is drawn from the
// seed and k: most connections are full in both directions, some get little, some an end in good order.

import (
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex/faulttest/oracle"
	"go.atomizer.io/plex/faulttest/proxy"
)

const kernelBuffer = 64 << 10

var buffers = sync.Pool{New: func() any { return new([256 << 10]byte) }}

// serve is the handler of the proxy.
func (s *soak) serve(c *proxy.Conn) {
	// What is on its way when a connection dies is of no use to anyone, so there shall not be too much.
	_ = c.SetWriteBuffer(kernelBuffer) // if it cannot be set, it is as it is
	_ = c.SetReadBuffer(kernelBuffer)
	var nc net.Conn = c
	if config := s.serverTLS.Load(); config != nil {
		nc = tls.Server(c, config)
	}
	s.sums.connections.Add(1)
	rng := s.Rand(0x33, uint64(c.Number))
	src := oracle.NewSource(oracle.ID(uint32(c.Number), true))
	var finished atomic.Bool // all is sent, and the FIN
	var wg sync.WaitGroup
	wg.Go(func() {
		if s.send(nc, src, rng) == nil {
			finished.Store(endOf(nc, c) == nil)
		}
	})
	a := s.receive(nc)
	// A reset that the sender has been told of looks like a clean end.
	a.clean = a.clean && (finished.Load() || proxy.State(c.TCPConn) == proxy.CloseWait)
	if !a.clean {
		_ = nc.Close() // so that the sender ends, too
	}
	wg.Wait()
	_ = c.Close()
	a.source, a.number = src, c.Number
	s.book.serverDone(c.RemoteAddr().String(), a)
}

// endOf ends what is sent in good order.
func endOf(nc net.Conn, c *proxy.Conn) error {
	if tc, ok := nc.(*tls.Conn); ok {
		if err := tc.CloseWrite(); err != nil {
			return err
		}
	}
	return c.CloseWrite()
}

// send sends what connection k gets, and returns nil if that has an end and came to it.
func (s *soak) send(nc net.Conn, src *oracle.Source, rng *rand.Rand) error {
	limit := ^uint64(0)
	pause, silence, size := time.Duration(0), time.Duration(0), 64<<10
	switch rng.IntN(10) {
	case 0: // little, then nothing for a while, and an end
		limit, size, silence = uint64(rng.IntN(1000)), 100, time.Duration(rng.IntN(20))*time.Millisecond
	case 1: // an end
		limit, size = uint64(rng.IntN(int(3<<20/s.Faults)+1)), 1+rng.IntN(64<<10)
	case 2: // a trickle
		pause, size = time.Duration(rng.IntN(1000))*time.Microsecond, 1+rng.IntN(2000)
	}
	buf := buffers.Get().(*[256 << 10]byte)
	defer buffers.Put(buf)
	for src.Sent() < limit {
		n := min(uint64(size), limit-src.Sent())
		if _, err := src.WriteNext(nc, buf[:n]); err != nil {
			return err
		}
		if pause > 0 && !s.mercy.Load() {
			time.Sleep(pause)
		}
	}
	time.Sleep(silence)
	return nil
}

// receive checks what comes until it ends.
func (s *soak) receive(nc net.Conn) (a arrival) {
	in := oracle.NewAdopter()
	buf := buffers.Get().(*[256 << 10]byte)
	defer buffers.Put(buf)
	var err error
	for err == nil {
		var n int
		n, err = nc.Read(buf[:])
		if in.Check(buf[:n]) == nil {
			s.sums.verified.Add(uint64(n))
		}
	}
	if wrong := in.End(); wrong != nil {
		s.damaged(in.Result())
		s.fail(nil, errors.Join(errors.New("at the server, from "+nc.RemoteAddr().String()), wrong))
	}
	a.id, a.known = in.ID()
	a.got, a.clean = in.Received(), err == io.EOF // a TLS stream that was cut ends in another error
	return a
}
