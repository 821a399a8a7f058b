package message_test

// Helpers: scripted in-memory connections, the balance at the end of a test, and loops in the
// background. All of it works inside and outside a testing/synctest bubble.

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/message"
)

// -------------------------------------------------------------------------------------------------
// Connections

// script is a connection whose peer is the test. A Read returns at most one chunk, so the test says
// where the data is cut. mu is held for moments only.
type script struct {
	mu   sync.Mutex
	cond sync.Cond

	chunks  [][]byte // that have arrived
	end     error    // what a Read returns after them; nil: it waits
	written []byte
	writes  int // calls of Write that wrote something
	credit  int // bytes that may still be written; below zero: no bound
	closed  bool
	closes  int
	rd, wd  moment

	datagrams   bool // a chunk is a datagram
	noDeadlines bool // they are refused
	number      int64
}

// moment is a deadline.
type moment struct {
	passed bool
	timer  *time.Timer
}

// address is the address of a script; no two have the same.
type address struct {
	network string
	number  int64
}

func (a address) Network() string { return a.network }
func (a address) String() string  { return fmt.Sprintf("script-%d", a.number) }

var scripts atomic.Int64

func newScript() *script {
	c := &script{credit: -1, number: scripts.Add(1)}
	c.cond.L = &c.mu
	return c
}

// arrive delivers chunks.
func (c *script) arrive(chunks ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range chunks {
		c.chunks = append(c.chunks, []byte(s))
	}
	c.cond.Broadcast()
}

// finish ends the data: with io.EOF as when the peer closes, or with an error.
func (c *script) finish(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end = err
	c.cond.Broadcast()
}

// allow lets n more bytes be written.
func (c *script) allow(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.credit = n
	c.cond.Broadcast()
}

// sent returns what has been written.
func (c *script) sent() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.written)
}

// isClosed reports whether it has been closed.
func (c *script) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

func (c *script) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, net.ErrClosed
		case c.rd.passed:
			return 0, os.ErrDeadlineExceeded
		case len(c.chunks) > 0:
			n := copy(p, c.chunks[0])
			if c.chunks[0] = c.chunks[0][n:]; len(c.chunks[0]) == 0 || c.datagrams {
				c.chunks = c.chunks[1:]
			}
			return n, nil
		case c.end != nil && c.datagrams: // about one datagram
			err := c.end
			c.end = nil
			return 0, err
		case c.end != nil:
			return 0, c.end
		}
		c.cond.Wait()
	}
}

func (c *script) Write(p []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.closed:
			return n, net.ErrClosed
		case c.wd.passed:
			return n, os.ErrDeadlineExceeded
		case c.end != nil && c.end != io.EOF:
			return n, c.end
		}
		k := len(p) - n
		if c.credit >= 0 {
			k = min(k, c.credit)
			c.credit -= k
		}
		if n == 0 && k > 0 {
			c.writes++
		}
		c.written = append(c.written, p[n:n+k]...)
		if n += k; n == len(p) {
			return n, nil
		}
		c.cond.Wait()
	}
}

func (c *script) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closes++
	c.closed = true
	for _, m := range []*moment{&c.rd, &c.wd} {
		if m.timer != nil {
			m.timer.Stop()
		}
	}
	c.cond.Broadcast()
	return nil
}

func (c *script) addr() net.Addr {
	if c.datagrams {
		return address{"udp", c.number}
	}
	return address{"script", c.number}
}

func (c *script) LocalAddr() net.Addr                { return c.addr() }
func (c *script) RemoteAddr() net.Addr               { return c.addr() }
func (c *script) SetReadDeadline(t time.Time) error  { return c.set(&c.rd, t) }
func (c *script) SetWriteDeadline(t time.Time) error { return c.set(&c.wd, t) }

func (c *script) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

func (c *script) set(m *moment, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return net.ErrClosed
	case c.noDeadlines:
		return os.ErrNoDeadline
	}
	if m.timer != nil {
		m.timer.Stop()
		m.timer = nil
	}
	if m.passed = !t.IsZero() && !time.Now().Before(t); !t.IsZero() && !m.passed {
		var timer *time.Timer
		timer = time.AfterFunc(time.Until(t), func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			if m.timer == timer { // otherwise a later deadline has replaced it
				m.passed = true
				c.cond.Broadcast()
			}
		})
		m.timer = timer
	}
	c.cond.Broadcast()
	return nil
}

// -------------------------------------------------------------------------------------------------
// The balance

// world is what a test uses: a multiplexer, and the connections that must be balanced when the test
// ends.
type world struct {
	testing.TB
	mu    sync.Mutex
	conns []*script
}

// bubble runs f in a synctest bubble, with n scripted connections and a multiplexer that has them.
func bubble(t *testing.T, n int, f func(w *world, m *plex.Multiplexer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{TB: t}
		conns := make([]net.Conn, n)
		for i := range conns {
			conns[i] = w.script()
		}
		m, err := plex.New(context.Background(), plex.WithConnections(conns...))
		require.NoError(t, err)
		w.closeAtEnd(m)
		f(w, m)
	})
}

// script makes a connection that must be closed exactly once.
func (w *world) script() *script {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := newScript()
	w.conns = append(w.conns, c)
	return c
}

// closeAtEnd checks when the test ends that nobody has a lease or waits for one. Then it closes m
// and checks the connections.
func (w *world) closeAtEnd(m *plex.Multiplexer) {
	w.Cleanup(func() {
		s := m.Stats()
		if n := s.LeasedReaders + s.LeasedWriters + s.Waiting + s.WaitingReady; n != 0 {
			w.Errorf("balance: leases or waiters at the end: %+v", s)
		}
		if err := m.Close(); err != nil {
			w.Errorf("balance: %v", err)
		}
		for _, c := range w.conns {
			c.mu.Lock()
			if c.closes != 1 {
				w.Errorf("balance: %v was closed %d times", c.addr(), c.closes)
			}
			c.mu.Unlock()
		}
	})
}

// receiver makes a receiver, or fails the test.
func receiver(t testing.TB, m *plex.Multiplexer, split bufio.SplitFunc, options ...message.Option) *message.Receiver {
	t.Helper()
	r, err := message.New(m, split, options...)
	require.NoError(t, err)
	return r
}

// balanceProcess fails the test if the process ends it with more goroutines or descriptors than it
// has now. It is for tests with real connections, which must not run in parallel.
func balanceProcess(t testing.TB) {
	openPoller()
	goroutines, files := runtime.NumGoroutine(), descriptors()
	t.Cleanup(func() {
		for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > goroutines || descriptors() > files; {
			if time.Now().After(end) {
				stacks := make([]byte, 1<<20)
				t.Errorf("balance: %d goroutines and %d descriptors, there were %d and %d\n%s", runtime.NumGoroutine(),
					descriptors(), goroutines, files, stacks[:runtime.Stack(stacks, true)])
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
}

// openPoller makes the runtime open its own descriptors, which it does with the first socket.
var openPoller = sync.OnceFunc(func() {
	if l, err := net.Listen("tcp", "127.0.0.1:0"); err == nil {
		_ = l.Close()
	}
})

// descriptors counts the process's file descriptors; 0 if the system does not say.
func descriptors() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}

// -------------------------------------------------------------------------------------------------
// Loops

// loop is a loop over the messages in the background, which records what it gets.
type loop struct {
	t      testing.TB
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	got    []string // messages, and errors as "cut(...)", "long", "split"
	conns  []plex.Conn
	errors []error // about single connections
	end    error   // the error of the last pair
}

// start starts a loop that runs until stop, or until the receiver ends it. body, if not nil, is
// called for each message.
func start(t testing.TB, r *message.Receiver, body func(m message.Message)) *loop {
	ctx, cancel := context.WithCancel(context.Background())
	l := &loop{t: t, cancel: cancel, done: make(chan struct{})}
	t.Cleanup(l.stop)
	go func() {
		defer close(l.done)
		for m, err := range r.All(ctx) {
			l.note(m, err)
			if err == nil && body != nil {
				body(m)
			}
		}
	}()
	return l
}

func (l *loop) note(m message.Message, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m.Conn == (plex.Conn{}) {
		l.end = err
		return
	}
	l.conns = append(l.conns, m.Conn)
	if err != nil {
		l.errors = append(l.errors, err)
	}
	l.got = append(l.got, word(m, err))
}

// word returns a message, or an error about a connection, as one word.
func word(m message.Message, err error) string {
	var (
		cut   *message.CutError
		long  *message.TooLongError
		split *message.SplitError
		about *message.DatagramError
	)
	switch {
	case err == nil:
		return string(m.Data)
	case errors.As(err, &cut):
		return fmt.Sprintf("cut(%s)", cut.Data)
	case errors.As(err, &long):
		return "long"
	case errors.As(err, &split):
		return "split"
	case errors.As(err, &about):
		return "refused"
	default:
		return "end"
	}
}

// stop ends the loop's ctx and waits until it is over.
func (l *loop) stop() {
	l.cancel()
	<-l.done
}

// words returns what has arrived so far.
func (l *loop) words() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string{}, l.got...)
}

// names returns the connections of what has arrived so far.
func (l *loop) names() []plex.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.conns)
}

// err returns the only error about a connection so far.
func (l *loop) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	require.Len(l.t, l.errors, 1)
	return l.errors[0]
}

// settle lets everything happen that can. It lets time pass too, for connections that plex only
// looks at now and then.
func settle() {
	time.Sleep(100 * time.Millisecond)
	synctest.Wait()
}

// take ranges until it has n words, and then leaves the loop. It fails the test after a minute.
func take(t testing.TB, r *message.Receiver, n int) (words []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for m, err := range r.All(ctx) {
		if words = append(words, word(m, err)); len(words) == n {
			break
		}
	}
	require.Len(t, words, n)
	return words
}
