package check

// The service at the other end: it sends an endless stream of the oracle's bytes, or so many, and checks the stream
// that comes.

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"

	"go.atomizer.io/plex/faulttest/oracle"
	"go.atomizer.io/plex/faulttest/proxy"
)

// Peer serves connections. The fields are set before the first.
type Peer struct {
	// Bytes is how many bytes are sent on connection k, after which the peer sends its FIN and goes on reading; nil: as
	// many as the client takes.
	Bytes func(k uint32) uint64
	// Chunk is the size of a write; 0: 4 KiB.
	Chunk int
	// Deaf peers do not read.
	Deaf bool

	next  atomic.Uint32
	sum   atomic.Uint64 // bytes got and found right
	mu    sync.Mutex
	sent  map[uint32]*oracle.Source // by stream
	got   map[uint32]arrival        // by stream, of connections that have ended
	wrong []error
}

// arrival is what has come of a client's stream.
type arrival struct {
	bytes uint64
	clean bool // it ended with a FIN
}

// Serve serves c until it ends.
func (p *Peer) Serve(c net.Conn) {
	k := p.next.Add(1)
	chunk := p.Chunk
	if chunk == 0 {
		chunk = 4 << 10
	}
	src := oracle.NewSource(oracle.ID(k, true))
	p.mu.Lock()
	if p.sent == nil {
		p.sent, p.got = make(map[uint32]*oracle.Source), make(map[uint32]arrival)
	}
	p.sent[src.ID()] = src
	p.mu.Unlock()

	var wg sync.WaitGroup
	var finished atomic.Bool // all is sent, and the FIN
	wg.Go(func() {
		limit := ^uint64(0)
		if p.Bytes != nil {
			limit = p.Bytes(k)
		}
		if src.Send(c, limit, make([]byte, chunk)) != nil {
			return
		}
		if cw, ok := c.(interface{ CloseWrite() error }); ok {
			finished.Store(cw.CloseWrite() == nil)
		}
	})
	wg.Go(func() {
		if p.Deaf {
			return
		}
		in, buf := oracle.NewAdopter(), make([]byte, 32<<10)
		var err error
		for err == nil {
			var n int
			n, err = c.Read(buf)
			if wrong := in.Check(buf[:n]); wrong == nil {
				p.sum.Add(uint64(n))
			}
		}
		// A reset that the sender has been told of looks like a clean end here.
		clean := errors.Is(err, io.EOF) && (finished.Load() || stateOf(c) == proxy.CloseWait)
		wrong := in.End()
		id, known := in.ID()
		p.mu.Lock()
		defer p.mu.Unlock()
		if known {
			if _, again := p.got[id]; again {
				wrong = errors.Join(wrong, fmt.Errorf("check: stream %d has come on two connections", id))
			}
			p.got[id] = arrival{in.Received(), clean}
		}
		if wrong != nil && len(p.wrong) < most {
			p.wrong = append(p.wrong, fmt.Errorf("check: at the peer: %w", wrong))
		}
		if err != io.EOF {
			_ = c.Close() // so that the sender ends, too
		}
	})
	wg.Wait()
}

func stateOf(c net.Conn) proxy.TCPState {
	switch c := c.(type) {
	case *proxy.Conn:
		return proxy.State(c.TCPConn)
	case *net.TCPConn:
		return proxy.State(c)
	}
	return proxy.Closed
}

// Sent is how many bytes the peer has sent of one of its streams.
func (p *Peer) Sent(id uint32) (uint64, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, ok := p.sent[id]
	if !ok {
		return 0, false
	}
	return s.Sent(), true
}

// Got is how many bytes have come of a client's stream, and whether it ended with a FIN.
func (p *Peer) Got(id uint32) (n uint64, clean, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a, ok := p.got[id]
	return a.bytes, a.clean, ok
}

// Total is how many bytes have come and were right.
func (p *Peer) Total() uint64 { return p.sum.Load() }

// Err is what was wrong with the streams that have ended.
func (p *Peer) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return errors.Join(slices.Clone(p.wrong)...)
}

func (p *Peer) errIfAny() error {
	if p == nil {
		return nil
	}
	return p.Err()
}
