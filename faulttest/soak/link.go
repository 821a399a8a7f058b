package main

// The soak's own book of connections: who has which half, what each of them sent and got, and whether the two ends
// agree when both are done. It remembers only what is not done yet, so that a soak may go on for days.

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"go.atomizer.io/plex/faulttest/oracle"
	"go.atomizer.io/plex/faulttest/proxy"
)

// link is a connection of the pool's, from its dial to its close.
type link struct {
	*net.TCPConn
	number uint32
	addr   linkAddr
	book   *book
	log    trail
	quirks *quirks

	read, write side

	// in checks what the read leases get, out is what the write leases send. Whoever has the side's turn may use them.
	in  *oracle.Checker
	out *oracle.Source

	sawEnd bool                  // a read lease was told io.EOF; guarded by the read side's turn
	end    *arrival              // what the server knows, when both ends are done; guarded likewise
	cause  atomic.Pointer[error] // the first error that was its own
	closes atomic.Int32
	// hurt says that it has failed, was killed, or has ended with the whole pool: something that was written may be lost.
	hurt atomic.Bool
	bye  atomic.Bool // the pool has ended its writing, or all of it
	eof  atomic.Bool // the pool was told of the server's end
	// extra says that it is open without the pool's knowledge, so that the capacity is not the pool's to keep.
	extra    atomic.Bool
	detached atomic.Bool // a consumer has taken it out of the pool
}

// side is the state of one half.
type side struct {
	leased atomic.Bool // as plex has it: from acquire until just before Close
	torn   atomic.Bool // the last write of a lease was cut short
	// turn is held from acquire until all that the lease got or wrote is accounted for, which may be a moment after its
	// Close, if that was called while the lease was in use.
	turn sync.Mutex
}

// linkAddr leads from a lease to its link.
type linkAddr struct {
	net.Addr
	link *link
}

func (l *link) LocalAddr() net.Addr { return &l.addr }

// linkOf is the link that a lease is on.
func linkOf(lease interface{ LocalAddr() net.Addr }) *link {
	if a, ok := lease.LocalAddr().(*linkAddr); ok {
		return a.link
	}
	return nil
}

// book is all connections that are not done.
type book struct {
	s *lane

	mu      sync.Mutex
	next    uint32
	open    map[*link]struct{}
	dialing int
	peak    int
	hidden  map[string]bool    // local addresses of extra links
	closed  map[string]*link   // by local address, those that the pool has closed and the server has yet to end
	served  map[string]arrival // by the same, those that the server has ended and the pool has yet to close
}

// arrival is what the server knows of a connection that has ended there.
type arrival struct {
	id    uint32 // of the client's stream, if known
	known bool
	got   uint64
	clean bool // the client's end came as a FIN
	// unharmed says that the server has read to the end, whatever that was, and until then nothing had ended the
	// connection on its side.
	unharmed bool
	source   *oracle.Source
	number   int // of the connection, at the proxy
}

func newBook(s *lane) *book {
	return &book{
		s: s, open: make(map[*link]struct{}), hidden: make(map[string]bool), closed: make(map[string]*link), served: make(map[string]arrival),
	}
}

// beginDial counts, at the moment at which a connect begins, those under way and the connections that are established.
func (b *book) beginDial(capacity int) {
	b.mu.Lock()
	b.dialing++
	n := b.dialing
	for l := range b.open {
		if !l.extra.Load() && proxy.Established(l.TCPConn) {
			n++
		}
	}
	b.peak = max(b.peak, n)
	b.mu.Unlock()
	if n > capacity {
		b.s.fail(nil, fmt.Errorf("capacity %d: %d connections open and being connected", capacity, n))
	}
}

func (b *book) dialFailed() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dialing--
}

// enter makes a link of a connection that was dialled; dialing is 1 if it was counted as such, and extra says that the
// pool does not know of it.
func (b *book) enter(tcp *net.TCPConn, p *setup, dialing int, extra bool) *link {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dialing -= dialing
	b.next++
	l := &link{
		TCPConn: tcp, number: b.next, book: b,
		in: oracle.NewAdopter(), out: oracle.NewSource(oracle.ID(b.next, false)),
	}
	l.addr = linkAddr{tcp.LocalAddr(), l}
	l.log.start = b.s.Start
	l.extra.Store(extra)
	if !extra {
		l.quirks = b.s.drawQuirks(p, l.number)
	}
	b.open[l] = struct{}{}
	if extra {
		b.hidden[l.addr.Addr.String()] = true
	}
	delete(b.closed, tcp.LocalAddr().String()) // the address is used again, and the server has not seen the former end
	delete(b.served, tcp.LocalAddr().String())
	return l
}

// known says that the pool knows of the link now.
func (b *book) known(l *link) {
	l.extra.Store(false)
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.hidden, l.addr.Addr.String())
}

// counts reports whether the pool holds the connection for open, for the proxy.
func (b *book) counts(c *proxy.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if addr, ok := c.RemoteAddr().(*net.TCPAddr); ok && ownAddresses && addr.IP.To4()[1] == extraNet {
		return false // also before it has been hidden
	}
	key := c.RemoteAddr().String()
	_, closed := b.closed[key]
	return !closed && !b.hidden[key]
}

func (b *book) clientDone(l *link) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.open, l)
	key := l.addr.Addr.String()
	if a, ok := b.served[key]; ok {
		delete(b.served, key)
		b.s.reconcile(l, a)
		return
	}
	b.closed[key] = l
}

func (b *book) serverDone(key string, a arrival) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l, ok := b.closed[key]; ok {
		delete(b.closed, key)
		b.s.reconcile(l, a)
		return
	}
	b.served[key] = a
}

// settle is called between two pools, when all connections of the former have ended at both ends. Those whose dial the
// server has never seen are forgotten.
func (b *book) settle() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := len(b.open)
	for l := range b.open {
		b.s.fail(l, errors.New("the pool has not closed it"))
	}
	clear(b.open)
	clear(b.hidden)
	clear(b.closed)
	clear(b.served)
	if n > 0 {
		return fmt.Errorf("%d connections were left open", n)
	}
	return nil
}

// reconcile compares the two ends of a connection that has ended at both. The client's account is complete when the
// turns of both halves are free, which may be a moment later.
func (s *lane) reconcile(l *link, a arrival) {
	s.accounts.Go(func() {
		l.read.turn.Lock()
		defer l.read.turn.Unlock()
		l.write.turn.Lock()
		defer l.write.turn.Unlock()
		s.closeAccount(l, a)
	})
}

func (s *lane) closeAccount(l *link, a arrival) {
	sent, got := l.out.Sent(), a.got
	switch {
	case a.known && a.id != l.out.ID():
		s.fail(l, fmt.Errorf("the server got stream %d of it, whose own is %d", a.id, l.out.ID()))
	case got > sent:
		s.sums.doubled.Add(got - sent)
		s.fail(l, fmt.Errorf("the server got %d bytes, though only %d were written", got, sent))
	case a.clean && got != sent:
		s.sums.lost.Add(sent - got)
		s.fail(l, fmt.Errorf("%d bytes were written, and the server got %d and a clean end", sent, got))
	case a.unharmed && !l.hurt.Load() && got != sent:
		s.sums.lost.Add(sent - got)
		s.fail(l, fmt.Errorf("it has ended in good order after %d bytes were written, and the server got %d", sent, got))
	case a.unharmed && !l.hurt.Load() && sent > 0:
		s.sums.graceful.Add(1)
	}
	l.end = &a
	s.checkRead(l)
}

// checkRead compares what the readers got with what the server has sent, as far as both are known. The caller has the
// read side's turn. What a connection left to be read can be read when both its ends are done.
func (s *lane) checkRead(l *link) {
	if l.end == nil || l.in.Err() != nil {
		return // damage has been reported when it came
	}
	id, known := l.in.ID()
	got, sent := l.in.Received(), l.end.source.Sent()
	switch {
	case known && id != l.end.source.ID():
		s.sums.misdelivered.Add(got)
		s.fail(l, fmt.Errorf("its readers got stream %d, the server has sent stream %d on it", id, l.end.source.ID()))
	case got > sent:
		s.sums.doubled.Add(got - sent)
		s.fail(l, fmt.Errorf("its readers got %d bytes, though the server has sent only %d", got, sent))
	case l.sawEnd && got != sent && (l.eof.Load() || !l.bye.Load()): // what the pool ends may end before the server does
		s.sums.lost.Add(sent - got)
		s.fail(l, fmt.Errorf("the server has sent %d bytes, and its readers got %d and then io.EOF", sent, got))
	}
}
