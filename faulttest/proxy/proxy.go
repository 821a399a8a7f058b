// Package proxy is a TCP proxy that does to connections what networks and servers do to them: RST, FIN, half close,
// stall, delay, single-byte segments, refused connects, connections accepted and closed, a backlog that fills, a
// restart. It stands in front of a TCP server, or runs a handler of its own in the server's place, which spares the
// second connection.
//
// What happens is scripted, connection by connection and byte by byte, or drawn from a seed, in which case it depends on
// the seed and the connection's number only, never on the clock. Every fault is in the history.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// Config says what a proxy is in front of and what it does.
type Config struct {
	// Handler is the server: it is called for each connection, and the connection is closed when it returns. It must
	// return when its connection ends. With nil, Backend is used.
	Handler func(c *Conn)
	// Backend is the address of a TCP server that connections are forwarded to.
	Backend string
	// Listen is the address to listen on; empty: a free port of loopback.
	Listen string
	// Script says what happens to connection k; nil: nothing.
	Script func(k int) Script
	// Counts tells whether an open connection counts for Peak, for those that the kernel holds for open and the test
	// knows better about; nil: all count.
	Counts func(c *Conn) bool
	// Keep is how many events the history keeps, the latest; 0: 4096.
	Keep int
}

// Event is one fault of the history.
type Event struct {
	At       time.Duration // since the proxy was started
	Kind     Kind
	Conn     int // -1: it was the listener's
	Dir      Dir
	Down, Up uint64 // bytes that the connection had passed
}

func (e Event) String() string {
	if e.Conn < 0 {
		return fmt.Sprintf("%12v  listener: %v", e.At, e.Kind)
	}
	return fmt.Sprintf("%12v  connection %d: %v (%v) after %d bytes down and %d up", e.At, e.Conn, e.Kind, e.Dir, e.Down, e.Up)
}

// Proxy is a running proxy.
type Proxy struct {
	cfg      Config
	addr     *net.TCPAddr
	started  time.Time
	stop     chan struct{}
	wg       sync.WaitGroup
	entering sync.Mutex // one connection at a time is given its number

	mu        sync.Mutex
	cond      sync.Cond
	l         *net.TCPListener // nil while connects are refused
	accepting chan struct{}    // closed when nobody accepts from the latest listener any more
	backlog   int              // of the listener; below zero: the system's
	closed    bool
	paused    bool
	conns     map[int]*Conn // open
	accepted  int
	peak      int
	events    []Event
	forgotten int // events that the history has not kept
	counts    [kinds]uint64
}

// New starts a proxy.
func New(cfg Config) (*Proxy, error) {
	if cfg.Handler == nil && cfg.Backend == "" {
		return nil, errors.New("proxy: neither a handler nor a backend")
	}
	if cfg.Keep == 0 {
		cfg.Keep = 4096
	}
	ip := net.IPv4(127, 0, 0, 1) // a backend's certificate may be for this one
	if cfg.Backend == "" {
		ip = ownIP()
	}
	l, err := listen(cfg.Listen, ip)
	if err != nil {
		return nil, err
	}
	p := &Proxy{
		cfg: cfg, addr: l.Addr().(*net.TCPAddr), started: time.Now(), stop: make(chan struct{}),
		l: l, backlog: -1, conns: make(map[int]*Conn),
	}
	p.cond.L = &p.mu
	p.acceptLocked(l)
	return p, nil
}

// listen opens the listener at address. If that is empty, it finds a port of ip that the system gives to no outgoing
// connection, so that the port is still free after the listener has been closed for a while, and nobody connects to
// himself meanwhile.
func listen(address string, ip net.IP) (*net.TCPListener, error) {
	if address != "" {
		addr, err := net.ResolveTCPAddr("tcp", address)
		if err != nil {
			return nil, err
		}
		return net.ListenTCP("tcp", addr)
	}
	for range 50 {
		port := 10000 + rand.IntN(20000)
		if l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: ip, Port: port}); err == nil {
			return l, nil
		}
	}
	return net.ListenTCP("tcp", &net.TCPAddr{IP: ip})
}

// ownIP is an address of loopback that proxies of other processes are not likely to use, so that none of them takes the
// port of a listener that is closed for a while. Where loopback has one address only, it is that.
func ownIP() net.IP {
	if runtime.GOOS != "linux" {
		return net.IPv4(127, 0, 0, 1)
	}
	pid := os.Getpid()
	return net.IPv4(127, byte(64+pid>>16&63), byte(pid>>8), byte(pid))
}

// Addr is where clients connect.
func (p *Proxy) Addr() string { return p.addr.String() }

// acceptLocked makes l the listener. p.mu is held, or nobody else knows p.
func (p *Proxy) acceptLocked(l *net.TCPListener) {
	over := make(chan struct{})
	p.l, p.backlog, p.accepting = l, -1, over
	p.wg.Go(func() {
		defer close(over)
		p.accept(l)
	})
}

// accept runs for as long as l is open.
func (p *Proxy) accept(l *net.TCPListener) {
	for {
		p.mu.Lock()
		for p.paused && p.l == l {
			p.cond.Wait()
		}
		p.mu.Unlock()
		tcp, err := l.AcceptTCP()
		if err != nil {
			if p.goesOn(l, err) {
				continue
			}
			return
		}
		p.serve(tcp)
	}
}

// goesOn reports whether there is more to accept after an error.
func (p *Proxy) goesOn(l *net.TCPListener, err error) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) { // no descriptor left, or a connection that has gone already
		time.Sleep(time.Millisecond)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.l == l
}

func (p *Proxy) serve(tcp *net.TCPConn) {
	c, script := p.enter(tcp)
	if c == nil {
		_ = tcp.SetLinger(0)
		_ = tcp.Close()
		return
	}
	k := c.Number

	p.wg.Go(func() {
		defer func() {
			_ = c.shut()
			p.mu.Lock()
			defer p.mu.Unlock()
			delete(p.conns, k)
			p.cond.Broadcast()
		}()
		switch script.Accept {
		case AcceptClose:
			if c.end(AcceptClose) {
				_ = c.shut()
			}
			return
		case AcceptReset:
			if c.end(AcceptReset) {
				_ = tcp.SetLinger(0)
				_ = c.shut()
			}
			return
		default:
		}
		c.startTimers(script)
		if p.cfg.Handler != nil {
			p.cfg.Handler(c)
		} else {
			p.forward(c)
		}
	})
}

// enter gives a connection its number and its script, or nil if the proxy is closed. Whoever sees that the connection
// is counted also finds it; the script is the user's and may ask the proxy, so it is not called under p.mu.
func (p *Proxy) enter(tcp *net.TCPConn) (*Conn, Script) {
	p.entering.Lock()
	defer p.entering.Unlock()
	k := p.Accepted()
	var script Script
	if p.cfg.Script != nil {
		script = p.cfg.Script(k)
	}
	c := newConn(p, tcp, k, script)

	p.mu.Lock()
	defer p.mu.Unlock()
	p.accepted++
	if p.closed {
		return nil, Script{}
	}
	p.conns[k] = c
	p.peak = max(p.peak, p.establishedLocked())
	p.cond.Broadcast()
	return c, script
}

// forward joins c with a connection to the backend.
func (p *Proxy) forward(c *Conn) {
	d := net.Dialer{Timeout: 10 * time.Second}
	up, err := d.Dial("tcp", p.cfg.Backend)
	if err != nil {
		c.Reset()
		return
	}
	backend := up.(*net.TCPConn)
	defer backend.Close()
	var wg sync.WaitGroup
	pipe := func(to, from net.Conn, closeWrite func() error) {
		_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, 64<<10))
		if err == nil {
			_ = closeWrite() // if it fails, there is nobody to tell
			return
		}
		// An end that is not clean is none for the other side either. What the script ended, it ended its way.
		if c.Ended() == Nothing {
			if c.dirs[Down].ends() && to == net.Conn(c) {
				return // half closed by the script: the other direction goes on
			}
			_ = c.SetLinger(0)
			_ = c.shut()
		}
		_ = backend.SetLinger(0)
		_ = backend.Close()
	}
	wg.Go(func() { pipe(c, backend, c.TCPConn.CloseWrite) })
	wg.Go(func() { pipe(backend, c, backend.CloseWrite) })
	wg.Wait()
}

func (d *direction) ends() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fin
}

// establishedLocked counts the connections that both sides hold for open.
func (p *Proxy) establishedLocked() (n int) {
	for _, c := range p.conns {
		if Established(c.TCPConn) && (p.cfg.Counts == nil || p.cfg.Counts(c)) {
			n++
		}
	}
	return n
}

// Established counts the connections that both sides hold for open at this moment.
func (p *Proxy) Established() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.establishedLocked()
}

// Peak is the most connections that were established at the moment at which one was accepted.
func (p *Proxy) Peak() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.peak
}

// Open is how many connections have been accepted and not closed on this side.
func (p *Proxy) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// Accepted is how many connections have been accepted ever.
func (p *Proxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// Conns are the open connections in the order of their numbers.
func (p *Proxy) Conns() []*Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]*Conn, 0, len(p.conns))
	for _, c := range p.conns {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b *Conn) int { return a.Number - b.Number })
	return all
}

// Conn waits until connection k has been accepted. It is nil if k has ended already, or ctx or the proxy ends first.
func (p *Proxy) Conn(ctx context.Context, k int) *Conn {
	defer context.AfterFunc(ctx, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.cond.Broadcast()
	})()
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.conns[k] == nil && p.accepted <= k && !p.closed && ctx.Err() == nil {
		p.cond.Wait()
	}
	return p.conns[k]
}

// Refuse closes the listener: connects are refused until Listen, and those in the backlog are reset.
func (p *Proxy) Refuse() {
	p.note(Refuse, nil, Down)
	p.refuse()
}

func (p *Proxy) refuse() {
	p.mu.Lock()
	l, accepting := p.l, p.accepting
	p.l = nil
	p.cond.Broadcast()
	p.mu.Unlock()
	if l != nil {
		_ = l.Close()
		<-accepting // as long as somebody is in Accept, the port is not free
	}
}

// Listen opens the listener again, on the same port.
func (p *Proxy) Listen() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.l != nil || p.closed {
		return nil
	}
	l, err := net.ListenTCP("tcp", p.addr)
	if err != nil {
		return err
	}
	p.acceptLocked(l)
	return nil
}

// PauseAccept leaves connects in the backlog until ResumeAccept. backlog is how many the system takes before it answers
// no more, 0 being one or two; below zero it is not changed. (Linux; elsewhere the system's backlog stays.)
func (p *Proxy) PauseAccept(backlog int) error {
	p.note(PauseAccept, nil, Down)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paused = true
	if p.l == nil {
		return nil
	}
	if backlog >= 0 {
		if err := setBacklog(p.l, backlog); err != nil {
			return err
		}
		p.backlog = backlog
	}
	return p.l.SetDeadline(time.Unix(1, 0))
}

// ResumeAccept accepts again, with the system's backlog.
func (p *Proxy) ResumeAccept() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paused = false
	p.cond.Broadcast()
	if p.l == nil {
		return nil
	}
	if p.backlog >= 0 {
		if err := setBacklog(p.l, 1<<16-1); err != nil {
			return err
		}
		p.backlog = -1
	}
	return p.l.SetDeadline(time.Time{})
}

// Restart ends all connections, by RST or by FIN, and refuses connects for a while. It returns when the proxy listens
// again, or has been closed.
func (p *Proxy) Restart(down time.Duration, reset bool) error {
	p.note(Restart, nil, Down)
	p.refuse()
	for _, c := range p.Conns() {
		if reset {
			c.Reset()
		} else {
			c.FIN()
		}
	}
	t := time.NewTimer(down)
	defer t.Stop()
	select {
	case <-t.C:
	case <-p.stop:
	}
	return p.Listen()
}

// ResetAll resets every open connection and returns how many that were.
func (p *Proxy) ResetAll() int {
	conns := p.Conns()
	for _, c := range conns {
		c.Reset()
	}
	return len(conns)
}

// note writes the history.
func (p *Proxy) note(kind Kind, c *Conn, dir Dir) {
	e := Event{At: time.Since(p.started), Kind: kind, Conn: -1, Dir: dir}
	if c != nil {
		e.Conn, e.Down, e.Up = c.Number, c.Passed(Down), c.Passed(Up)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts[kind]++
	if len(p.events) >= 2*p.cfg.Keep {
		p.forgotten += p.cfg.Keep
		p.events = p.events[:copy(p.events, p.events[p.cfg.Keep:])]
	}
	p.events = append(p.events, e)
}

// Counts is how many faults of each kind there were.
func (p *Proxy) Counts() map[Kind]uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	counts := make(map[Kind]uint64)
	for k, n := range p.counts {
		if n > 0 {
			counts[Kind(k)] = n
		}
	}
	return counts
}

// History is the latest faults, and how many before them it has forgotten.
func (p *Proxy) History() (events []Event, forgotten int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.events), p.forgotten
}

// Tell is the last n lines of the history, for a failure's report.
func (p *Proxy) Tell(n int) string {
	events, forgotten := p.History()
	if cut := len(events) - n; cut > 0 {
		events, forgotten = events[cut:], forgotten+cut
	}
	var b strings.Builder
	if forgotten > 0 {
		fmt.Fprintf(&b, "(%d faults before these)\n", forgotten)
	}
	for _, e := range events {
		fmt.Fprintln(&b, e)
	}
	return b.String()
}

// Close resets all connections, closes the listener, and returns when all handlers have.
func (p *Proxy) Close() {
	p.mu.Lock()
	first := !p.closed
	p.closed = true
	p.cond.Broadcast()
	p.mu.Unlock()
	if first {
		close(p.stop)
	}
	p.refuse()
	for _, c := range p.Conns() {
		_ = c.SetLinger(0)
		_ = c.shut()
	}
	p.wg.Wait()
}
