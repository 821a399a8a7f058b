package proxy

// One connection as the server's side sees it, with its faults. Reading from it takes what the client sends, writing
// sends to the client; both stop where the script says and do what it says there.

import (
	"cmp"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Conn is the server's end of one connection. Its Read and Write carry out the script; the methods that are named after
// faults cause them at once. All may be called from any goroutine, but only one at a time may Read, and one Write.
type Conn struct {
	*net.TCPConn
	Number int // the connection's place in the order of accepting, from 0

	p        *Proxy
	accepted time.Time
	dirs     [2]direction
	timers   []*time.Timer
	closed   chan struct{}
	once     sync.Once
	ended    atomic.Int32 // the Kind of its end
}

// direction is the state of the bytes that go one way.
type direction struct {
	mu     sync.Mutex
	passed uint64
	steps  []Step        // to come, by bytes
	delay  time.Duration // of each piece
	slice  int           // bytes of a piece; 0: any
	open   chan struct{} // closed when a stall ends; nil if there is none
	fin    bool          // (Down) no more is sent
}

var errFault = errors.New("proxy: a fault has ended the connection")

func newConn(p *Proxy, tcp *net.TCPConn, number int, script Script) *Conn {
	c := &Conn{TCPConn: tcp, Number: number, p: p, accepted: time.Now(), closed: make(chan struct{})}
	for _, step := range script.Steps {
		if step.At == 0 {
			d := &c.dirs[step.Dir]
			d.steps = append(d.steps, step)
		}
	}
	for i := range c.dirs {
		slices.SortStableFunc(c.dirs[i].steps, func(a, b Step) int { return cmp.Compare(a.After, b.After) })
	}
	return c
}

// startTimers begins the steps that happen at a time.
func (c *Conn) startTimers(script Script) {
	c.dirs[Down].mu.Lock()
	defer c.dirs[Down].mu.Unlock()
	for _, step := range script.Steps {
		if step.At > 0 {
			c.timers = append(c.timers, time.AfterFunc(step.At, func() { c.do(step) }))
		}
	}
}

// Passed is how many bytes have gone in one direction.
func (c *Conn) Passed(dir Dir) uint64 {
	d := &c.dirs[dir]
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.passed
}

// Done is closed when the connection has ended on this side.
func (c *Conn) Done() <-chan struct{} { return c.closed }

// Ended is the fault that ended the connection, Nothing if it was no fault, or it has not ended.
func (c *Conn) Ended() Kind { return Kind(c.ended.Load()) }

// Read reads what the client has sent, up to where the next fault is due.
func (c *Conn) Read(p []byte) (int, error) {
	most, err := c.next(Up, len(p))
	if err != nil {
		return 0, err
	}
	n, err := c.TCPConn.Read(p[:most])
	c.pass(Up, n)
	return n, c.told(err)
}

// Write sends p to the client, cut at the faults that are due within it.
func (c *Conn) Write(p []byte) (int, error) {
	sent := 0
	for {
		most, err := c.next(Down, len(p)-sent)
		if err != nil {
			return sent, err
		}
		n, err := c.TCPConn.Write(p[sent : sent+most])
		sent += n
		c.pass(Down, n)
		if err != nil || sent == len(p) {
			return sent, c.told(err)
		}
	}
}

// ReadFrom hides that of net.TCPConn, which knows no faults.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{c}, r)
}

// WriteTo hides that of net.TCPConn.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{c})
}

func (c *Conn) told(err error) error {
	if err != nil && c.Ended() != Nothing {
		return errFault
	}
	return err
}

// next does what is due in a direction and returns how many of want bytes may go then.
func (c *Conn) next(dir Dir, want int) (int, error) {
	d := &c.dirs[dir]
	for {
		d.mu.Lock()
		if d.open != nil {
			open := d.open
			d.mu.Unlock()
			select {
			case <-open:
			case <-c.closed:
				return 0, c.told(net.ErrClosed)
			}
			continue
		}
		if len(d.steps) > 0 && d.steps[0].After <= d.passed {
			step := d.steps[0]
			d.steps = d.steps[1:]
			d.mu.Unlock()
			c.do(step)
			continue
		}
		if len(d.steps) > 0 {
			want = int(min(uint64(want), d.steps[0].After-d.passed))
		}
		if d.slice > 0 {
			want = min(want, d.slice)
		}
		delay, fin := d.delay, d.fin
		d.mu.Unlock()
		if fin {
			return 0, errFault
		}
		if delay > 0 && !c.sleep(delay) {
			return 0, c.told(net.ErrClosed)
		}
		return want, nil
	}
}

func (c *Conn) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.closed:
		return false
	}
}

func (c *Conn) pass(dir Dir, n int) {
	d := &c.dirs[dir]
	d.mu.Lock()
	d.passed += uint64(n)
	d.mu.Unlock()
}

// do causes a fault.
func (c *Conn) do(step Step) {
	select {
	case <-c.closed:
		return
	default:
	}
	switch step.Do {
	case Reset:
		c.Reset()
	case FIN:
		c.FIN()
	case HalfClose:
		c.HalfClose()
	case Stall:
		c.Stall(step.Dir)
		if step.For > 0 {
			d := &c.dirs[Down]
			d.mu.Lock()
			c.timers = append(c.timers, time.AfterFunc(step.For, func() { c.Resume(step.Dir) }))
			d.mu.Unlock()
		}
	case Delay:
		c.Delay(step.Dir, step.For)
	case Slice:
		c.Slice(step.Dir, step.Size)
	default:
	}
}

// Reset sends an RST.
func (c *Conn) Reset() {
	if c.end(Reset) {
		_ = c.SetLinger(0) // it fails if the connection is gone already
		c.shut()
	}
}

// FIN closes the connection. What was sent is delivered first; if there is anything that the client has sent and nobody
// has read, the kernel sends an RST instead, as it does for any server.
func (c *Conn) FIN() {
	if c.end(FIN) {
		c.shut()
	}
}

// HalfClose sends a FIN to the client; what the client sends still arrives.
func (c *Conn) HalfClose() {
	d := &c.dirs[Down]
	d.mu.Lock()
	first := !d.fin
	d.fin = true
	d.mu.Unlock()
	if first {
		c.p.note(HalfClose, c, Down)
		_ = c.CloseWrite() // it fails if the connection is gone already
	}
}

// Stall stops the bytes of one direction. A Read or Write that is blocked in the kernel already still ends.
func (c *Conn) Stall(dir Dir) {
	d := &c.dirs[dir]
	d.mu.Lock()
	first := d.open == nil
	if first {
		d.open = make(chan struct{})
	}
	d.mu.Unlock()
	if first {
		c.p.note(Stall, c, dir)
	}
}

// Resume ends a stall.
func (c *Conn) Resume(dir Dir) {
	d := &c.dirs[dir]
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open != nil {
		close(d.open)
		d.open = nil
	}
}

// Delay makes each piece of one direction take longer.
func (c *Conn) Delay(dir Dir, by time.Duration) {
	d := &c.dirs[dir]
	d.mu.Lock()
	d.delay = by
	d.mu.Unlock()
	c.p.note(Delay, c, dir)
}

// Slice cuts what goes in one direction into pieces of size bytes, each a segment of its own.
func (c *Conn) Slice(dir Dir, size int) {
	d := &c.dirs[dir]
	d.mu.Lock()
	d.slice = size
	d.mu.Unlock()
	c.p.note(Slice, c, dir)
}

// end notes the fault that ends the connection; it reports false if it has ended.
func (c *Conn) end(kind Kind) bool {
	select {
	case <-c.closed:
		return false
	default:
	}
	if !c.ended.CompareAndSwap(int32(Nothing), int32(kind)) {
		return false
	}
	c.p.note(kind, c, Down)
	return true
}

// Faulted reports whether a fault has ended the connection, or half of it.
func (c *Conn) Faulted() bool { return c.Ended() != Nothing || c.dirs[Down].ends() }

// Close ends the connection without a fault.
func (c *Conn) Close() error { return c.shut() }

func (c *Conn) shut() error {
	err := net.ErrClosed
	c.once.Do(func() {
		err = c.TCPConn.Close()
		close(c.closed)
		d := &c.dirs[Down]
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, t := range c.timers {
			t.Stop()
		}
	})
	return err
}

// TCPState is a state of the kernel's, by its number there.
type TCPState int

// The states that matter here.
const (
	Open      TCPState = 1 // established: neither side has sent its FIN
	Closed    TCPState = 7 // reset, or closed on both sides
	CloseWait TCPState = 8 // the peer has sent its FIN, we have not
)

// Established reports whether the kernel holds the connection for open on both sides: neither has sent its FIN, and
// there was no reset.
func Established(c *net.TCPConn) bool { return State(c) == Open }
