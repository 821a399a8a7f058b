package request_test

// The protocol of the tests, scripted connections that speak it, and a bubble with a client in it.
// When a test ends, the helpers check that each connection was closed once, that no lease is live,
// and that nothing is in flight.

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
	"go.atomizer.io/plex/message"
	"go.atomizer.io/plex/request"
)

// A message of the tests' protocol is a kind, an identifier and a text, behind a length of two
// bytes.
const (
	kindRequest = 'q'
	kindReply   = 'r'
	kindPush    = 'p'
)

var prefix = message.Prefix{Bytes: 2, Order: binary.BigEndian}

// frame is a message as it is on the wire.
func frame(kind byte, id uint64, text string) []byte {
	f := binary.BigEndian.AppendUint16(nil, uint16(9+len(text)))

	return append(binary.BigEndian.AppendUint64(append(f, kind), id), text...)
}

// wireProtocol sends texts and gets texts. Those of its functions that are not nil are called
// first.
type wireProtocol struct {
	appending func(request string) error
	splitting func(data []byte) error
	parsing   func(message []byte) error
}

var errKind = errors.New("no such kind of message")

func (p wireProtocol) Append(dst []byte, id uint64, text string) ([]byte, error) {
	if p.appending != nil {
		if err := p.appending(text); err != nil {
			return dst, err
		}
	}

	dst = binary.BigEndian.AppendUint16(dst, uint16(9+len(text)))

	return append(binary.BigEndian.AppendUint64(append(dst, kindRequest), id), text...), nil
}

func (p wireProtocol) Split(data []byte, atEOF bool) (int, []byte, error) {
	if p.splitting != nil {
		if err := p.splitting(data); err != nil {
			return 0, nil, err
		}
	}

	return prefix.Split(data, atEOF)
}

func (p wireProtocol) Parse(m []byte) (id uint64, text []byte, err error) {
	if p.parsing != nil {
		if err := p.parsing(m); err != nil {
			return 0, nil, err
		}
	}

	if len(m) < 9 {
		return 0, nil, fmt.Errorf("a message of %d bytes", len(m))
	}

	switch m[0] {
	case kindReply:
		return binary.BigEndian.Uint64(m[1:]), m[9:], nil
	case kindPush:
		return 0, nil, request.ErrNotReply
	default:
		return 0, nil, errKind
	}
}

// fakeConn is a scripted connection. The end that plex gets is embedded, and the rest are the test's
// end, which decides what arrives, how much can be written, and how the connection ends.
type fakeConn struct {
	*fakenet.Conn
	peer *fakenet.Peer
}

func newFakeConn() *fakeConn {
	conn, peer := fakenet.Pair()

	return &fakeConn{conn, peer}
}

// asked is a request as it arrived.
type asked struct {
	id   uint64
	text string
}

// next waits for a whole request. ok is false if there will be none, because the connection has
// ended.
func (c *fakeConn) next() (a asked, ok bool) {
	length := c.peer.ReadN(2)
	if len(length) < 2 {
		return asked{}, false
	}

	n := int(binary.BigEndian.Uint16([]byte(length)))
	m := c.peer.ReadN(n)

	if len(m) < n {
		return asked{}, false
	}

	return asked{id: binary.BigEndian.Uint64([]byte(m[1:])), text: m[9:]}, true
}

// take is next for a request that must have that text.
func (c *fakeConn) take(text string) uint64 {
	a, ok := c.next()
	if !ok || a.text != text {
		panic(fmt.Sprintf("the peer of %v wanted %q, got %q (%v)", c.LocalAddr(), text, a.text, ok))
	}

	return a.id
}

// unread returns how many bytes were written and not taken.
func (c *fakeConn) unread() int { return len(c.peer.Unread()) }

// send delivers bytes, all at once.
func (c *fakeConn) send(frames ...[]byte) { c.peer.Send(string(bytes.Join(frames, nil))) }

// reply answers a request.
func (c *fakeConn) reply(id uint64, text string) { c.send(frame(kindReply, id, text)) }

// fin ends what the peer sends; what was sent before can still be read.
func (c *fakeConn) fin() { _ = c.peer.CloseWrite() }

// reset kills the connection; what was sent before can still be read.
func (c *fakeConn) reset() { c.peer.Break(syscall.ECONNRESET, true) }

// allow lets n more bytes be written before Write blocks; below zero removes the bound.
func (c *fakeConn) allow(n int) { c.peer.Allow(n) }

// afterWrites has f called after each Write, before it returns.
func (c *fakeConn) afterWrites(f func()) { c.OnWrite(fakenet.Then(func(int, error) { f() })) }

// client is the client of most tests.
type client = request.Client[string, []byte]

// world is a multiplexer over scripted connections, and what must be balanced when the test ends.
type world struct {
	*testing.T
	mux *plex.Multiplexer

	mu    sync.Mutex
	conns []*fakeConn
}

// bubble runs f in a synctest bubble, with n scripted connections.
func bubble(t *testing.T, n int, f func(t *testing.T, w *world, conns []*fakeConn)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t}
		given := make([]net.Conn, n)

		for i := range given {
			given[i] = w.conn()
		}

		w.open(plex.WithConnections(given...))
		f(t, w, w.conns)
	})
}

// healing is bubble with a connector, which connects at most n connections, all from the start. It
// calls setUp with each before it is used.
func healing(t *testing.T, n int, setUp func(c *fakeConn), f func(t *testing.T, w *world), options ...plex.Option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t}
		connect := plex.DialFunc(func(context.Context) (net.Conn, error) {
			c := w.conn()
			setUp(c)

			return c, nil
		})

		w.open(append([]plex.Option{
			plex.WithConnector(connect), plex.WithMinConnections(n), plex.WithMaxCapacity(n),
		}, options...)...)
		f(t, w)
	})
}

// conn makes a connection that is checked at the end.
func (w *world) conn() *fakeConn {
	w.mu.Lock()
	defer w.mu.Unlock()

	c := newFakeConn()
	w.conns = append(w.conns, c)

	return c
}

// all returns the connections so far.
func (w *world) all() []*fakeConn {
	w.mu.Lock()
	defer w.mu.Unlock()

	return append([]*fakeConn{}, w.conns...)
}

// open makes the multiplexer, and checks the balance when the test ends.
func (w *world) open(options ...plex.Option) {
	var err error
	w.mux, err = plex.New(context.Background(), options...)
	require.NoError(w, err)

	w.Cleanup(func() {
		s := w.mux.Stats()
		require.Zero(w, s.LeasedReaders+s.LeasedWriters+s.Waiting+s.WaitingReady, "live leases and waiters")
		require.NoError(w, w.mux.Close())

		for _, c := range w.all() {
			require.Equal(w, 1, c.Closes(), "Close calls of %v", c.LocalAddr())
		}
	})
}

// client makes a client, and closes it at the end, when nothing may be in flight.
func (w *world) client(options ...request.Option) *client {
	return w.speaking(wireProtocol{}, options...)
}

// speaking is client with a given protocol.
func (w *world) speaking(p wireProtocol, options ...request.Option) *client {
	c, err := request.New(w.mux, p, options...)
	require.NoError(w, err)
	w.Cleanup(func() {
		require.NoError(w, c.Close())
		balanced(w, c.Stats())
	})

	return c
}

// balanced checks the figures of a client with nothing in flight.
func balanced(t testing.TB, s request.Stats) {
	t.Helper()
	require.Zero(t, s.InFlight, "in flight")
	require.Zero(t, s.Waiting, "waiting")
	require.Equal(t, s.Requests, s.Replies+s.Canceled+s.Failed, "requests, and how they ended: %+v", s)
}

// outcome is what a Do returned.
type outcome struct {
	text string
	err  error
}

// asking calls Do in the background.
func asking(ctx context.Context, c *client, text string) <-chan outcome {
	ch := make(chan outcome, 1)

	go func() {
		reply, err := c.Do(ctx, text)
		ch <- outcome{string(reply), err}
	}()

	return ch
}

// requireReply waits for the end of a Do, which must be that reply.
func requireReply(t testing.TB, ch <-chan outcome, text string) {
	t.Helper()

	o := <-ch
	require.NoError(t, o.err)
	require.Equal(t, text, o.text)
}

// requireError waits for the end of a Do, which must be an error with that MaybeSent that matches
// target.
func requireError(t testing.TB, ch <-chan outcome, maybeSent bool, target error) {
	t.Helper()
	requireIs(t, (<-ch).err, maybeSent, target)
}

func requireIs(t testing.TB, err error, maybeSent bool, target error) {
	t.Helper()

	var e *request.Error
	require.ErrorAs(t, err, &e)
	require.ErrorIs(t, err, target)
	require.Equal(t, maybeSent, e.MaybeSent, "MaybeSent of: %v", err)
}

// requirePending checks that a Do has not ended, once everything else has settled.
func requirePending(t testing.TB, ch <-chan outcome) {
	t.Helper()
	synctest.Wait()

	select {
	case o := <-ch:
		require.FailNow(t, "Do has ended already", "%q, %v", o.text, o.err)
	default:
	}
}

// ended returns how a Do has ended, which must need no more time.
func ended(t testing.TB, ch <-chan outcome) outcome {
	t.Helper()
	synctest.Wait()

	select {
	case o := <-ch:
		return o
	default:
		require.FailNow(t, "Do has not ended")

		return outcome{}
	}
}

// -------------------------------------------------------------------------------------------------
// Outside of bubbles

// balanceProcess fails the test if the process ends it with more goroutines or file descriptors
// than it has now. Tests that call it must not run in parallel with others.
func balanceProcess(t testing.TB) {
	wakeNetpoll.Do(func() { // the runtime opens its own descriptors with the first socket
		if ln, err := net.Listen("tcp", "127.0.0.1:0"); err == nil {
			_ = ln.Close()
		}
	})

	goroutines, fds := runtime.NumGoroutine(), descriptors()

	t.Cleanup(func() {
		for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
			g, d := runtime.NumGoroutine(), descriptors()
			if g <= goroutines && d <= fds {
				return
			}

			if time.Now().After(end) {
				stacks := make([]byte, 1<<20)
				stacks = stacks[:runtime.Stack(stacks, true)]
				t.Errorf("balance: %d goroutines and %d descriptors, there were %d and %d\n%s", g, d, goroutines, fds, stacks)

				return
			}
		}
	})
}

var wakeNetpoll sync.Once

// descriptors counts the process's file descriptors; 0 if the system does not say.
func descriptors() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}

	return len(entries)
}
