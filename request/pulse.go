package request

// The pulse of a connection: whether it brings anything. It is counted only for a client that has a
// use for it, by the split function, which sees all that is read.

import (
	"bufio"
	"sync"
	"sync/atomic"

	"go.atomizer.io/plex"
)

// pulse counts how often a connection has brought something. Two figures that differ say that it
// has meanwhile.
type pulse struct{ beats atomic.Uint64 }

// pulses are those of the connections that have not ended.
type pulses struct {
	mu sync.Mutex
	of map[plex.Conn]*pulse
}

// get returns the pulse of a connection.
func (p *pulses) get(conn plex.Conn) *pulse {
	p.mu.Lock()
	defer p.mu.Unlock()
	if known := p.of[conn]; known != nil {
		return known
	}
	made := new(pulse)
	p.of[conn] = made
	conn.AfterEnd(func(error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.of, conn)
	})
	return made
}

// feel has the split functions of connections count.
func (p *pulses) feel(splitOf func(plex.Conn) bufio.SplitFunc) func(plex.Conn) bufio.SplitFunc {
	return func(conn plex.Conn) bufio.SplitFunc {
		split, beats := splitOf(conn), &p.get(conn).beats
		return func(data []byte, atEOF bool) (int, []byte, error) {
			beats.Add(1)
			return split(data, atEOF)
		}
	}
}
