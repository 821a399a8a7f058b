// Package fakenet holds scripted connections, dialers and listeners for tests.
//
// A [Pair] is a connection in memory: a [Conn], which is given to the code under test and behaves as a
// TCP socket does, and a [Peer], with which the test says what arrives, how much can be written and how
// the connection dies. The Conn's faults are scripted too: see [Conn.OnRead], [Conn.OnWrite],
// [Conn.OnClose], [Conn.TreatDeadlines] and [OneMutex]. It also counts: see [Conn.Calls],
// [Conn.Written] and [Conn.Told]. [Datagrams] keep the boundaries of packets.
//
// A [Dialer] blocks each dial until the test answers it, and a [Listener] hands out the other ends.
// [Books] say which connections were not closed exactly once; those of [NewBooks] fail the test for it.
//
// Everything works inside a testing/synctest bubble and outside of one: all waits are on a sync.Cond
// or a channel, and mutexes are held for moments only, [OneMutex] excepted.
package fakenet

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex/internal/sock"
)

// Addr is the address of a fake. No two connections of a process share one.
type Addr string

// Network returns "fake".
func (Addr) Network() string { return "fake" }

func (a Addr) String() string { return string(a) }

var numbers atomic.Int64

// NewAddr makes an address that nothing else has: the prefix, a dash and a number.
func NewAddr(prefix string) Addr { return Addr(fmt.Sprintf("%s-%d", prefix, numbers.Add(1))) }

// Deadlines says how a Conn treats deadlines.
type Deadlines int

const (
	DeadlinesKept    Deadlines = iota // as a socket does
	DeadlinesRefused                  // an error and no effect, as an SSH channel does
	DeadlinesIgnored                  // no error and no effect
)

// Half is one half of a Conn, or both.
type Half int

const (
	Reads  Half = 1 << iota // the half that Read uses
	Writes                  // the half that Write uses

	Both = Reads | Writes
)

// Hooks are called at the start of the Conn's method that they are named after. No lock is held, so
// they may block. Set them before the connection is in use.
type Hooks struct {
	Read, Write      func(p []byte)
	Close            func()
	SetReadDeadline  func(time.Time)
	SetWriteDeadline func(time.Time)
}

// IO takes the place of a Conn's Read or Write. It may call do, which is the original, as often as
// it likes.
type IO func(p []byte, do func(p []byte) (int, error)) (int, error)

// Calls counts the calls of a Conn's methods.
type Calls struct {
	Reads, Writes                 int
	ReadDeadlines, WriteDeadlines int
	Closes, CloseWrites           int

	// The most Reads and the most Writes that were under way at once.
	PeakReads, PeakWrites int
}

// All is the sum of the calls.
func (c Calls) All() int {
	return c.Reads + c.Writes + c.ReadDeadlines + c.WriteDeadlines + c.Closes + c.CloseWrites
}

// Told is what a Conn's Read and Write have returned of its end.
type Told struct {
	EOF bool // that the peer has sent its FIN
	Err Half // which half was the first to return what the connection died of; 0 if none
}

// Written is an account of Writes.
type Written struct {
	Bytes   int
	Largest int  // the size of the largest Write
	Torn    bool // the last Write that wrote anything was short
}

// wire is what the two ends of a connection share. mu is held for moments only; cond is signalled
// on every change.
type wire struct {
	mu   sync.Mutex
	cond sync.Cond

	in     []segment // sent by the peer, not yet read by the Conn
	inEOF  bool      // the peer has sent its FIN
	out    []byte    // written by the Conn, not yet read by the peer
	outEOF bool      // the Conn has closed its write side, or all
	credit int       // bytes that the Conn may still write before it blocks; below zero: no bound
	gone   bool      // the peer has closed both sides: the next write is accepted and answered with a reset

	err     error // what the connection died of
	tell    Half  // the halves that are told err
	sticky  bool  // they are told it each time; otherwise the first to ask is told, and others get EOF and EPIPE
	errSeen bool  // err has been told
	told    Told

	writing bool // a Write is under way, others wait for their turn

	treatment Deadlines
	closed    bool
	done      chan struct{} // closed with the first Close
	closeErr  error         // what the first Close returns
	onClose   []func()      // called after the first Close
	rd, wd    deadline

	onRead, onWrite IO
	closing         func(do func() error) error

	calls                Calls
	nowReads, nowWrites  int
	written              Written
	arrived, sentPackets [][]byte // of Datagrams
	readErrs             []error  // of Datagrams
}

// segment is data that one Read does not read past.
type segment struct {
	data   []byte
	closed bool // what is sent next starts a segment of its own
}

// deadline is one half's deadline; wire.mu protects it.
type deadline struct {
	t       time.Time // as last set, whatever the treatment
	passed  bool
	changes int // how often it was set; a timer that belongs to an earlier change means nothing
	timer   *time.Timer
}

// Conn is the end of a connection that the code under test gets. It is a net.Conn with a
// CloseWrite.
type Conn struct {
	Hooks

	w      *wire
	number int64
}

// Peer is the test's end of a connection. It is a net.Conn without deadlines, so that it can echo
// with io.Copy.
type Peer struct {
	w    *wire
	conn *Conn
}

// Pair makes a connection.
func Pair() (*Conn, *Peer) {
	w := &wire{credit: -1, done: make(chan struct{})}
	w.cond.L = &w.mu
	c := &Conn{w: w, number: numbers.Add(1)}

	return c, &Peer{w: w, conn: c}
}

// change changes the state under the lock, and wakes all who wait.
func (w *wire) change(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()

	f()
	w.cond.Broadcast()
}

// look reads the state under the lock.
func look[T any](w *wire, f func() T) T {
	w.mu.Lock()
	defer w.mu.Unlock()

	return f()
}

func (c *Conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "fake", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// enter counts a Read or Write, and returns what takes its place and what counts its end.
func (w *wire) enter(calls, peak, now *int, io *IO) (IO, func()) {
	w.mu.Lock()
	defer w.mu.Unlock()

	*calls++
	*now++
	*peak = max(*peak, *now)

	return *io, func() { w.change(func() { *now-- }) }
}

// Read reads what the peer sent. The order of precedence is: closed, deadline, data, the error,
// EOF.
func (c *Conn) Read(p []byte) (int, error) {
	w := c.w
	instead, leave := w.enter(&w.calls.Reads, &w.calls.PeakReads, &w.nowReads, &w.onRead)
	defer leave()

	if c.Hooks.Read != nil {
		c.Hooks.Read(p)
	}

	if instead != nil {
		return instead(p, c.read)
	}

	return c.read(p)
}

func (c *Conn) read(p []byte) (int, error) {
	w := c.w
	w.mu.Lock()
	defer w.mu.Unlock()

	for {
		switch {
		case w.closed:
			return 0, c.opError("read", net.ErrClosed)
		case w.rd.passed:
			return 0, c.opError("read", os.ErrDeadlineExceeded)
		case len(p) == 0:
			return 0, nil
		case len(w.in) > 0:
			n := copy(p, w.in[0].data)
			if w.in[0].data = w.in[0].data[n:]; len(w.in[0].data) == 0 {
				w.in = w.in[1:]
			}

			w.cond.Broadcast()

			return n, nil
		case w.tells(Reads):
			return 0, c.opError("read", w.err)
		case w.err != nil && w.tell&Reads != 0:
			return 0, io.EOF
		case w.inEOF:
			w.told.EOF = true

			return 0, io.EOF
		}

		w.cond.Wait()
	}
}

// tells says whether this half is told the error now, and notes that it was.
func (w *wire) tells(half Half) bool {
	if w.err == nil || w.tell&half == 0 || w.errSeen && !w.sticky {
		return false
	}

	if w.errSeen = true; w.told.Err == 0 {
		w.told.Err = half
	}

	return true
}

// Write blocks while the peer allows nothing. A deadline, a reset or a Close meanwhile makes it
// short.
func (c *Conn) Write(p []byte) (int, error) {
	w := c.w
	instead, leave := w.enter(&w.calls.Writes, &w.calls.PeakWrites, &w.nowWrites, &w.onWrite)
	defer leave()

	if c.Hooks.Write != nil {
		c.Hooks.Write(p)
	}

	if instead != nil {
		return instead(p, c.write)
	}

	return c.write(p)
}

func (c *Conn) write(p []byte) (n int, err error) {
	w := c.w
	w.mu.Lock()
	defer w.mu.Unlock()

	for w.writing {
		w.cond.Wait()
	}

	w.writing = true
	defer func() {
		w.writing = false
		w.note(n, len(p))
		w.cond.Broadcast()
	}()

	for {
		switch {
		case w.closed:
			return n, c.opError("write", net.ErrClosed)
		case w.wd.passed:
			return n, c.opError("write", os.ErrDeadlineExceeded)
		case w.tells(Writes):
			return n, c.opError("write", w.err)
		case w.err != nil && w.tell&Writes != 0, w.outEOF:
			return n, c.opError("write", sock.Pipe)
		case w.gone:
			w.err, w.tell = sock.Reset, Both // learnt by whoever asks next

			return len(p), nil
		}

		k := len(p) - n
		if w.credit >= 0 {
			k = min(k, w.credit)
			w.credit -= k
		}

		w.out = append(w.out, p[n:n+k]...)
		n += k
		w.cond.Broadcast()

		if n == len(p) {
			return n, nil
		}

		w.cond.Wait()
	}
}

func (w *wire) note(n, of int) {
	w.written.Bytes += n
	w.written.Largest = max(w.written.Largest, of)

	if n > 0 {
		w.written.Torn = n < of
	}
}

// Close closes the connection. A second Close returns net.ErrClosed.
func (c *Conn) Close() error {
	if c.Hooks.Close != nil {
		c.Hooks.Close()
	}

	if f := look(c.w, func() func(func() error) error { return c.w.closing }); f != nil {
		return f(c.close)
	}

	return c.close()
}

func (c *Conn) close() error {
	w := c.w
	w.mu.Lock()

	w.calls.Closes++
	if w.closed {
		w.mu.Unlock()

		return c.opError("close", net.ErrClosed)
	}

	w.closed, w.outEOF = true, true
	for _, d := range []*deadline{&w.rd, &w.wd} {
		if d.timer != nil {
			d.timer.Stop()
		}
	}

	close(w.done)
	w.cond.Broadcast()
	err, then := w.closeErr, w.onClose
	w.mu.Unlock()

	for _, f := range then {
		f()
	}

	return err
}

// CloseWrite sends a FIN, as (*net.TCPConn).CloseWrite does.
func (c *Conn) CloseWrite() error {
	w := c.w
	w.mu.Lock()
	defer w.mu.Unlock()

	w.calls.CloseWrites++
	if w.closed {
		return c.opError("close", net.ErrClosed)
	}

	w.outEOF = true
	w.cond.Broadcast()

	return nil
}

// LocalAddr is an Addr that no other connection has.
func (c *Conn) LocalAddr() net.Addr { return Addr(fmt.Sprintf("client-%d", c.number)) }

// RemoteAddr is an Addr with the same number as that of LocalAddr.
func (c *Conn) RemoteAddr() net.Addr { return Addr(fmt.Sprintf("peer-%d", c.number)) }

// SetReadDeadline interrupts Reads at t, a blocked one included.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.w.change(func() { c.w.calls.ReadDeadlines++ })

	if c.Hooks.SetReadDeadline != nil {
		c.Hooks.SetReadDeadline(t)
	}

	return c.set(&c.w.rd, t)
}

// SetWriteDeadline interrupts Writes at t, a blocked one included.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.w.change(func() { c.w.calls.WriteDeadlines++ })

	if c.Hooks.SetWriteDeadline != nil {
		c.Hooks.SetWriteDeadline(t)
	}

	return c.set(&c.w.wd, t)
}

// SetDeadline is both.
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}

	return c.SetWriteDeadline(t)
}

func (c *Conn) set(d *deadline, t time.Time) error {
	w := c.w
	w.mu.Lock()
	defer w.mu.Unlock()

	switch {
	case w.closed:
		return c.opError("set", net.ErrClosed)
	case w.treatment == DeadlinesRefused:
		return c.opError("set", os.ErrNoDeadline)
	}

	d.t = t
	if w.treatment == DeadlinesIgnored {
		return nil
	}

	if d.timer != nil {
		d.timer.Stop()
	}

	d.changes++
	d.passed = !t.IsZero() && !time.Now().Before(t)
	if !t.IsZero() && !d.passed {
		n := d.changes
		d.timer = time.AfterFunc(time.Until(t), func() { w.expire(d, n) })
	}

	w.cond.Broadcast()

	return nil
}

// expire is called by the timer of a deadline. Another deadline may have taken its place meanwhile.
func (w *wire) expire(d *deadline, change int) {
	w.change(func() { d.passed = d.passed || d.changes == change })
}

// -------------------------------------------------------------------------------------------------
// What a test sets, and asks

// TreatDeadlines says how the connection treats deadlines from now on.
func (c *Conn) TreatDeadlines(how Deadlines) { c.w.change(func() { c.w.treatment = how }) }

// OnRead has f take the place of Read, from the next call on. Nil takes it away.
func (c *Conn) OnRead(f IO) { c.w.change(func() { c.w.onRead = f }) }

// OnWrite has f take the place of Write, from the next call on. Nil takes it away.
func (c *Conn) OnWrite(f IO) { c.w.change(func() { c.w.onWrite = f }) }

// OnClose has f take the place of Close. Only the calls of do, which is the original, count as
// closes.
func (c *Conn) OnClose(f func(do func() error) error) { c.w.change(func() { c.w.closing = f }) }

// FailClose has the first Close return err. It closes all the same.
func (c *Conn) FailClose(err error) { c.w.change(func() { c.w.closeErr = err }) }

// AfterClose has f called after the first Close, by whoever calls that. It is false if that has
// been already.
func (c *Conn) AfterClose(f func()) bool {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()

	if !c.w.closed {
		c.w.onClose = append(c.w.onClose, f)
	}

	return !c.w.closed
}

// Calls says how often the methods have been called.
func (c *Conn) Calls() Calls { return look(c.w, func() Calls { return c.w.calls }) }

// Closes says how often Close was called.
func (c *Conn) Closes() int { return c.Calls().Closes }

// Number is the number in the connection's addresses.
func (c *Conn) Number() int64 { return c.number }

// DeadlinesLeft returns the deadlines as they were last set, whether or not they had an effect.
func (c *Conn) DeadlinesLeft() (read, write time.Time) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()

	return c.w.rd.t, c.w.wd.t
}

// Told is what the connection has told of its end so far.
func (c *Conn) Told() Told { return look(c.w, func() Told { return c.w.told }) }

// Written is what the Writes that have returned have written.
func (c *Conn) Written() Written { return look(c.w, func() Written { return c.w.written }) }

// -------------------------------------------------------------------------------------------------
// The peer

// Conn is the other end.
func (p *Peer) Conn() *Conn { return p.conn }

// Write sends b to the Conn; it never blocks. Once the connection is dead or closed it returns
// EPIPE.
func (p *Peer) Write(b []byte) (int, error) { return len(b), p.deliver(b, false) }

// Send sends s to the Conn. What is sent by several calls may be read by one Read.
func (p *Peer) Send(s string) { _ = p.deliver([]byte(s), false) }

// SendSegments sends data that is read in these pieces: no Read returns data of two of them.
func (p *Peer) SendSegments(segments ...string) {
	for _, s := range segments {
		_ = p.deliver([]byte(s), true)
	}
}

func (p *Peer) deliver(b []byte, alone bool) error {
	w := p.w
	w.mu.Lock()
	defer w.mu.Unlock()

	if w.closed || w.err != nil || w.inEOF {
		return sock.Pipe
	}

	if len(b) == 0 {
		return nil
	}

	if last := len(w.in) - 1; last >= 0 && !alone && !w.in[last].closed {
		w.in[last].data = append(w.in[last].data, b...)
	} else {
		w.in = append(w.in, segment{data: bytes.Clone(b), closed: alone})
	}

	w.cond.Broadcast()

	return nil
}

// Read reads what the Conn wrote. It returns io.EOF once the Conn has closed or the connection is
// dead.
func (p *Peer) Read(b []byte) (int, error) {
	w := p.w
	w.mu.Lock()
	defer w.mu.Unlock()

	for len(w.out) == 0 && len(b) > 0 {
		if w.outEOF || w.err != nil || w.gone {
			return 0, io.EOF
		}

		w.cond.Wait()
	}

	n := copy(b, w.out)
	w.out = w.out[n:]

	return n, nil
}

// ReadN reads exactly n bytes, fewer only when the Conn has closed.
func (p *Peer) ReadN(n int) string {
	b := make([]byte, n)
	k, _ := io.ReadFull(p, b)

	return string(b[:k])
}

// ReadAll reads until the Conn has closed its write side.
func (p *Peer) ReadAll() string {
	b, _ := io.ReadAll(p)

	return string(b)
}

// Unread returns what the Conn wrote and the peer has not read, without waiting and without taking
// it.
func (p *Peer) Unread() string { return look(p.w, func() string { return string(p.w.out) }) }

// Unsent returns how many bytes the peer sent that the Conn has not read.
func (p *Peer) Unsent() (n int) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()

	for _, s := range p.w.in {
		n += len(s.data)
	}

	return n
}

// Ended says whether the peer has ended what it sends: with CloseWrite, Close or the End of
// Datagrams.
func (p *Peer) Ended() bool { return look(p.w, func() bool { return p.w.inEOF }) }

// Drop loses what the peer sent and the Conn has not read, and returns how many bytes that was.
func (p *Peer) Drop() (n int) {
	p.w.change(func() {
		for _, s := range p.w.in {
			n += len(s.data)
		}

		p.w.in = nil
	})

	return n
}

// Allowed returns how many bytes the Conn may still write. Below zero there is no bound.
func (p *Peer) Allowed() int { return look(p.w, func() int { return p.w.credit }) }

// Allow lets the Conn write n bytes more, and then stalls it; below zero lifts the bound. Allow(0)
// is a zero window.
func (p *Peer) Allow(n int) { p.w.change(func() { p.w.credit = n }) }

// CloseWrite is a half close: the Conn reads what was sent, then io.EOF; its writes still arrive.
func (p *Peer) CloseWrite() error {
	p.w.change(func() { p.w.inEOF = true })

	return nil
}

// Close closes both sides: as CloseWrite, and the Conn's next write is accepted, and answered with
// a reset.
func (p *Peer) Close() error {
	p.w.change(func() { p.w.inEOF, p.w.gone = true, true })

	return nil
}

// Reset kills the connection as Linux does: the first to ask, reader or writer, is told err, and
// any other gets io.EOF or EPIPE. What was sent and not yet read is still delivered first if keep
// is true, and dropped otherwise.
func (p *Peer) Reset(err error, keep bool) { p.die(err, keep, Both, false) }

// Break kills the connection so that each call is told err, reads and writes alike. For keep see
// Reset.
func (p *Peer) Break(err error, keep bool) { p.die(err, keep, Both, true) }

// BreakHalf tells err to each call of one half. The other half learns nothing, and goes on as if
// nothing had been.
func (p *Peer) BreakHalf(half Half, err error) { p.die(err, true, half, true) }

func (p *Peer) die(err error, keep bool, tell Half, sticky bool) {
	p.w.change(func() {
		if !keep {
			p.w.in = nil
		}

		p.w.err, p.w.errSeen, p.w.tell, p.w.sticky = err, false, tell, sticky
	})
}

// ConnClosed is closed once the Conn has been closed.
func (p *Peer) ConnClosed() <-chan struct{} { return p.w.done }

// LocalAddr is the Conn's RemoteAddr.
func (p *Peer) LocalAddr() net.Addr { return p.conn.RemoteAddr() }

// RemoteAddr is the Conn's LocalAddr.
func (p *Peer) RemoteAddr() net.Addr { return p.conn.LocalAddr() }

// SetDeadline returns os.ErrNoDeadline, as do SetReadDeadline and SetWriteDeadline.
func (*Peer) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (*Peer) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (*Peer) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }
