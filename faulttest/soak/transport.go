package main

// What the pool sees of a connection: a transport that may take long to close, panic or end the goroutine, and one that
// is no socket.

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.atomizer.io/plex/faulttest/proxy"
)

// quirks are what a transport does wrong, drawn beforehand.
type quirks struct {
	tls     bool
	slow    time.Duration // that its Close takes, half of the time before it has closed anything
	endless chan struct{} // that its Close waits for; nil: for nothing
	method  method        // that crashes
	after   int64         // so many calls
	exits   bool          // by ending the goroutine; otherwise it panics
	calls   atomic.Int64
}

type method int

const (
	noMethod method = iota
	readMethod
	writeMethod
	deadlineMethod
	closeMethod
	closeWriteMethod
	methods
)

// drawQuirks draws what link number does wrong.
func (s *lane) drawQuirks(p *setup, number uint32) (q *quirks) {
	q = &quirks{tls: p.kind == overTLS}
	rng := s.Rand(0x77, uint64(number))
	if p.slowClose && rng.IntN(20) == 0 {
		q.slow = time.Duration(1 + rng.Int64N(int64(60*time.Millisecond)))
	}
	if p.noClose && rng.IntN(100) == 0 && s.endless.Load() < int64(p.Capacity/4) {
		s.endless.Add(1)
		q.endless = s.release
	}
	if p.crashes && rng.IntN(20) == 0 {
		q.method = 1 + method(rng.IntN(int(methods)-1))
		q.after = 20 + rng.Int64N(50)
		q.exits = rng.IntN(2) == 0
		switch {
		case q.tls && (q.method == writeMethod || q.method == deadlineMethod):
			// Of several records nobody would know which have gone; and crypto/tls, whose Close sets a deadline, would leave
			// the connection open.
			q.method = readMethod
		case q.method == deadlineMethod:
			q.exits = false // it may be set in the goroutine of someone else, who cannot be ended
		case q.method >= closeMethod:
			q.after = 0
		}
	}
	return q
}

// ended reports whether the transport has ended a goroutine.
func (q *quirks) ended() bool { return q != nil && q.exits && q.calls.Load() > q.after }

// call is called at the beginning of each method.
func (l *link) call(m method) {
	q := l.quirks
	if q == nil || q.method != m || q.calls.Add(1) != q.after+1 {
		return
	}
	l.hurt.Store(true)
	s := l.book.s
	if q.exits {
		l.log.add("ends the goroutine")
		s.sums.foreign[transportEndsGoroutine].Add(1)
		runtime.Goexit()
	}
	l.log.add("panics")
	s.sums.foreign[transportPanics].Add(1)
	panic(errCrash)
}

// Read and Write are those of TCP.
func (l *link) Read(p []byte) (int, error) {
	l.call(readMethod)
	n, err := l.TCPConn.Read(p)
	if err == io.EOF {
		l.eof.Store(true)
	}
	if err != nil && err != io.EOF && !errors.Is(err, os.ErrDeadlineExceeded) {
		l.hurt.Store(true)
	}
	return n, err
}

func (l *link) Write(p []byte) (int, error) {
	l.call(writeMethod)
	n, err := l.TCPConn.Write(p)
	if err != nil && (l.quirks == nil || l.quirks.tls || !errors.Is(err, os.ErrDeadlineExceeded)) {
		l.hurt.Store(true)
	}
	return n, err
}

func (l *link) SetReadDeadline(t time.Time) error {
	l.call(deadlineMethod)
	return l.TCPConn.SetReadDeadline(t)
}

func (l *link) SetWriteDeadline(t time.Time) error {
	l.call(deadlineMethod)
	return l.TCPConn.SetWriteDeadline(t)
}

func (l *link) CloseWrite() error {
	l.log.add("told to end its writing")
	l.bye.Store(true)
	err := l.TCPConn.CloseWrite()
	l.call(closeWriteMethod)
	return err
}

// Close is called by the pool.
func (l *link) Close() error {
	return l.close(l.TCPConn.Close)
}

// close ends the connection by end, in the way that was drawn.
func (l *link) close(end func() error) error {
	s, q := l.book.s, l.quirks
	if s.hard.Load() {
		l.hurt.Store(true)
	}
	if n := l.closes.Add(1); n > 1 {
		s.fail(l, fmt.Errorf("closed %d times", n))
		return end()
	}
	l.log.add("closed by the pool")
	l.bye.Store(true)
	if q == nil {
		return l.ended(end)
	}
	if q.slow > 0 {
		s.sums.foreign[slowClosing].Add(1)
		time.Sleep(q.slow / 2)
	}
	err := l.ended(end)
	time.Sleep(q.slow / 2)
	if q.endless != nil {
		s.sums.foreign[endlessClosing].Add(1)
		<-q.endless
	}
	l.call(closeMethod)
	return err
}

func (l *link) ended(end func() error) error {
	defer l.book.clientDone(l)
	return end()
}

// foreign is a link that is no socket, as a stream of a session that is multiplexed: it has a timeout of its own, and
// after Close what was written goes on its way.
type foreign struct {
	l           *link
	read, write sync.Mutex // held by who is in it

	mu     sync.Mutex
	closed bool
}

// ownTimeoutError is how a foreign transport says that a deadline has passed.
type ownTimeoutError struct{}

func (ownTimeoutError) Error() string   { return "stream: timed out" }
func (ownTimeoutError) Timeout() bool   { return true }
func (ownTimeoutError) Temporary() bool { return true }

// missed reports whether err says that a deadline has passed.
func missed(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, new(ownTimeoutError))
}

func (f *foreign) told(err error) error {
	switch {
	case err == nil:
		return nil
	case f.isClosed():
		return net.ErrClosed
	case errors.Is(err, os.ErrDeadlineExceeded):
		f.l.book.s.sums.foreign[ownTimeout].Add(1)
		return ownTimeoutError{}
	case err == io.EOF && proxy.State(f.l.TCPConn) == proxy.Closed:
		return syscall.ECONNRESET // which the kernel has told to the other direction only
	}
	return err
}

func (f *foreign) isClosed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed
}

func (f *foreign) Read(p []byte) (int, error) {
	f.read.Lock()
	defer f.read.Unlock()
	if f.isClosed() {
		return 0, net.ErrClosed
	}
	n, err := f.l.Read(p)
	return n, f.told(err)
}

func (f *foreign) Write(p []byte) (int, error) {
	f.write.Lock()
	defer f.write.Unlock()
	if f.isClosed() {
		return 0, net.ErrClosed
	}
	n, err := f.l.Write(p)
	return n, f.told(err)
}

func (f *foreign) LocalAddr() net.Addr  { return f.l.LocalAddr() }
func (f *foreign) RemoteAddr() net.Addr { return f.l.RemoteAddr() }

func (f *foreign) SetDeadline(t time.Time) error {
	return errors.Join(f.SetReadDeadline(t), f.SetWriteDeadline(t))
}

func (f *foreign) SetReadDeadline(t time.Time) error  { return f.set(f.l.SetReadDeadline, t) }
func (f *foreign) SetWriteDeadline(t time.Time) error { return f.set(f.l.SetWriteDeadline, t) }

func (f *foreign) set(deadline func(time.Time) error, t time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return net.ErrClosed
	}
	return deadline(t)
}

// Close lets what was written arrive, beside.
func (f *foreign) Close() error {
	return f.l.close(func() error {
		f.mu.Lock()
		f.closed = true
		err := f.l.TCPConn.SetDeadline(time.Unix(1, 0))
		f.mu.Unlock()
		f.l.book.s.accounts.Go(f.drain)
		return err
	})
}

// drain ends the connection beneath when the server has ended its side.
func (f *foreign) drain() {
	f.read.Lock()
	defer f.read.Unlock()
	f.write.Lock()
	defer f.write.Unlock()
	tcp := f.l.TCPConn
	_ = tcp.CloseWrite() // it fails if the connection is gone already, and so does what follows
	_ = tcp.SetReadDeadline(time.Now().Add(drainTime))
	buf := buffers.Get().(*[256 << 10]byte)
	defer buffers.Put(buf)
	for {
		if _, err := tcp.Read(buf[:]); err != nil {
			break
		}
	}
	_ = tcp.Close()
}

// drainTime is how long a server may take to end its side.
const drainTime = 10 * time.Second
