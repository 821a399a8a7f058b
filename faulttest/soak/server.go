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

// served is one connection of the server's.
type served struct {
	*lane
	p   *setup
	rng *rand.Rand
	c   *proxy.Conn
	nc  net.Conn // over c
	src *oracle.Source

	heard chan struct{} // closed when all that the client sends has come
	// polite says that it ends its side when the client has. Otherwise it goes on until the connection is gone.
	polite   bool
	finished atomic.Bool // all is sent, and the FIN
}

// serve is the handler of the proxy.
func (s *lane) serve(c *proxy.Conn) {
	// What is on its way when a connection dies is of no use to anyone, so there shall not be too much.
	_ = c.SetWriteBuffer(kernelBuffer) // if it cannot be set, it is as it is
	_ = c.SetReadBuffer(kernelBuffer)
	sd := &served{
		lane: s, p: s.present.Load(), rng: s.Rand(0x33, uint64(c.Number)), c: c, nc: c,
		src: oracle.NewSource(oracle.ID(uint32(c.Number), true)), heard: make(chan struct{}),
	}
	if sd.p.kind == overTLS {
		sd.nc = tls.Server(c, s.ServerTLS)
	}
	s.sums.connections.Add(1)
	sd.polite = sd.p.kind == overForeign || sd.rng.IntN(2) == 0
	busy := !s.mercy.Load() && sd.rng.IntN(50*sd.p.life.rare()) == 0
	var wg sync.WaitGroup
	wg.Go(func() {
		if busy {
			sd.busy()
			return
		}
		if sd.send() == nil {
			sd.finished.Store(endOf(sd.nc, c) == nil)
		}
	})
	a := s.receive(sd.nc)
	// A reset that the sender has been told of looks like a clean end.
	ended := sd.finished.Load()
	a.clean = a.clean && (ended || proxy.State(c.TCPConn) == proxy.CloseWait)
	a.unharmed = !busy && !ended && !c.Faulted()
	if !a.clean {
		_ = sd.nc.Close() // so that the sender ends, too
	}
	close(sd.heard)
	wg.Wait()
	_ = c.Close()
	a.source, a.number = sd.src, c.Number
	s.book.serverDone(c.RemoteAddr().String(), a)
}

// busy sends a line, so to say, and hangs up at once or a moment later.
func (sd *served) busy() {
	sd.sums.foreign[saidBusy].Add(1)
	var line [24]byte
	if _, err := sd.src.WriteNext(sd.nc, line[:]); err == nil && sd.rng.IntN(2) == 0 {
		time.Sleep(time.Duration(sd.rng.IntN(50)) * time.Millisecond)
	}
	_ = sd.nc.Close()
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

var errRude = errors.New("the server does not end its side")

// send sends what the connection gets, and returns nil if that has an end and came to it.
func (sd *served) send() error {
	limit := ^uint64(0)
	pause, silence, size := time.Duration(0), time.Duration(0), 64<<10
	way := sd.rng.IntN(10)
	if way == 0 && sd.rng.IntN(sd.p.life.rare()) != 0 {
		way = 1
	}
	switch way {
	case 0: // little, then nothing for a while, and an end
		limit, size, silence = uint64(sd.rng.IntN(1000)), 100, time.Duration(sd.rng.IntN(20))*time.Millisecond
	case 1: // an end
		limit = sd.p.life.spared() + uint64(sd.rng.IntN(int(3<<20/sd.p.life.faults(sd.Faults))+1))
		size = 1 + sd.rng.IntN(64<<10)
	case 2: // a trickle
		pause, size = time.Duration(sd.rng.IntN(1000))*time.Microsecond, 1+sd.rng.IntN(2000)
	}
	if sd.p.greets {
		limit, pause, silence = 1+uint64(sd.rng.IntN(600)), 0, 0
	}
	buf := buffers.Get().(*[256 << 10]byte)
	defer buffers.Put(buf)
	for sd.src.Sent() < limit {
		n := min(uint64(size), limit-sd.src.Sent())
		if _, err := sd.src.WriteNext(sd.nc, buf[:n]); err != nil {
			return err
		}
		if sd.polite {
			select {
			case <-sd.heard:
				return nil
			default:
			}
		}
		if pause > 0 && !sd.mercy.Load() {
			time.Sleep(pause)
		}
	}
	time.Sleep(silence)
	if sd.p.greets {
		sd.sums.foreign[greeted].Add(1)
		<-sd.heard
		if !sd.polite {
			time.Sleep(20 * time.Millisecond)
			return errRude
		}
	}
	return nil
}

// receive checks what comes until it ends.
func (s *lane) receive(nc net.Conn) (a arrival) {
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
