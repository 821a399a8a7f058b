package model

// Connections in memory: what happens in them happens at once, so that under testing/synctest all is quiet as soon as
// it can be. They send what the oracle says, check what plex writes, and say afterwards what they have told plex.

import (
	"fmt"
	"net"
	"sync"
	"syscall"

	"go.atomizer.io/plex/faulttest/oracle"
	"go.atomizer.io/plex/internal/fakenet"
)

// network is all connections of one test.
type network struct {
	mu    sync.Mutex
	conns []*memConn
}

func (n *network) dial() *memConn {
	fake, peer := fakenet.Pair()
	send := func(p []byte) { _, _ = peer.Write(p) }
	return n.add(&memConn{Conn: fake, network: "memory", fake: fake, peer: peer, deliver: send, end: func() { _ = peer.CloseWrite() }})
}

// dialDatagrams makes a connection that keeps the boundaries of what is sent.
func (n *network) dialDatagrams() *memConn {
	d := fakenet.NewDatagrams()
	send := func(p []byte) { d.Deliver(string(p)) }
	return n.add(&memConn{Conn: d, network: "unixgram", fake: d.Conn, peer: d.Peer(), deliver: send, end: d.End})
}

func (n *network) add(c *memConn) *memConn {
	n.mu.Lock()
	defer n.mu.Unlock()
	c.id = uint32(len(n.conns) + 1)
	c.checker = oracle.NewChecker(oracle.ID(c.id, false))
	n.conns = append(n.conns, c)
	return c
}

// open is how many connections the client has not closed.
func (n *network) open() (open int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.conns {
		if c.fake.Closes() == 0 {
			open++
		}
	}
	return open
}

// memConn is the end that plex gets. It has the methods of a net.Conn and no others.
type memConn struct {
	net.Conn

	id      uint32
	network string
	fake    *fakenet.Conn
	peer    *fakenet.Peer
	deliver func([]byte) // sends
	end     func()       // ends what the peer sends

	mu      sync.Mutex      // held for moments only
	err     error           // what the connection has died of
	sent    uint64          // by the peer, and not lost since
	written uint64          // by the client
	reads   int             // the client's, under way
	checker *oracle.Checker // judges what the client writes
	wrong   error           // its verdict
}

// state is that of a connection.
type state struct {
	fin     bool   // the peer has sent its end
	err     error  // what the connection has died of
	credit  int    // how many bytes the client may still write before it blocks; below zero, there is no bound
	sent    uint64 // by the peer
	written uint64 // by the client
	torn    bool   // the client's last write that wrote anything was short
	looks   bool   // a Read with a deadline is under way; one without is a parked one, or a consumer's
	eofTold bool   // plex knows of fin
	errTold bool   // and of err
	errRead bool   // first by a Read
	closes  int
}

// peek is the present state.
func (c *memConn) peek() state {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.receiveLocked()
	told := c.fake.Told()
	until, _ := c.fake.DeadlinesLeft()
	return state{
		fin: c.peer.Ended(), err: c.err, credit: c.peer.Allowed(), sent: c.sent, written: c.written, torn: c.fake.Written().Torn,
		looks: c.reads > 0 && !until.IsZero(), eofTold: told.EOF, errTold: told.Err != 0, errRead: told.Err == fakenet.Reads, closes: c.fake.Closes(),
	}
}

// receiveLocked takes what the client has written.
func (c *memConn) receiveLocked() {
	p := []byte(c.peer.ReadN(len(c.peer.Unread())))
	c.written += uint64(len(p))
	if err := c.checker.Check(p); c.wrong == nil {
		c.wrong = err
	}
}

// verdict is what was wrong with the bytes that the client wrote.
func (c *memConn) verdict() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.receiveLocked()
	return c.wrong
}

// send has the peer send n bytes.
func (c *memConn) send(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := make([]byte, n)
	oracle.Fill(oracle.ID(c.id, true), c.sent, p)
	c.sent += uint64(n)
	c.deliver(p)
}

// reset kills the connection. What has arrived and was not read can be lost with it.
func (c *memConn) reset(err error, keep bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !keep {
		c.sent -= uint64(c.peer.Drop()) // as if it had never been
	}
	c.err = err
	c.peer.Break(err, true)
}

// loseUnread is told of a connection that was closed while it was well: what it has inside itself is lost with it, and
// what the client had read before is not.
func (c *memConn) loseUnread() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent -= uint64(c.peer.Drop())
}

// allow bounds what the client can write.
func (c *memConn) allow(n int) { c.peer.Allow(n) }

// Read counts as under way until it returns.
func (c *memConn) Read(p []byte) (int, error) {
	c.reading(1)
	defer c.reading(-1)
	return c.Conn.Read(p)
}

func (c *memConn) reading(more int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reads += more
}

// LocalAddr and RemoteAddr have the number that the connection has in its network.
func (c *memConn) LocalAddr() net.Addr  { return memAddr{c.network, fmt.Sprintf("client-%d", c.id)} }
func (c *memConn) RemoteAddr() net.Addr { return memAddr{c.network, fmt.Sprintf("peer-%d", c.id)} }

type memAddr struct{ network, name string }

func (a memAddr) Network() string { return a.network }
func (a memAddr) String() string  { return a.name }

// resetError is a different one for each connection, so that a cause can be told from another.
type resetError uint32

func (e resetError) Error() string        { return fmt.Sprintf("connection %d reset by peer", uint32(e)) }
func (e resetError) Is(target error) bool { return target == syscall.ECONNRESET }
