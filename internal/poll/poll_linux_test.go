package poll_test

// What both Pollers do.

import (
	"io"
	"math"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex/internal/poll"
)

const patience = 10 * time.Second

// told is what a Poller has told.
type told struct {
	c     *conn
	reset bool
	tag   uint32
}

// conn is a connection as a user of package poll has it.
type conn struct {
	poll.Member[*conn]
	nc, peer *net.TCPConn

	// Where the Poller parks.
	mark              atomic.Uint64 // of its use
	usage             atomic.Int32
	keeps             atomic.Bool // what arrives is left unread
	unread, unwatched atomic.Int32
}

func (c *conn) raw(t testing.TB) syscall.RawConn {
	t.Helper()
	raw, err := c.nc.SyscallConn()
	require.NoError(t, err)
	return raw
}

// bench is a Poller whose two goroutines run.
type bench struct {
	testing.TB
	*poll.Poller[*conn]
	ends, readable chan told
	loops          *sync.WaitGroup
}

// pollerOfGo takes descriptors with the first socket of the process, and keeps them.
var pollerOfGo sync.Once

// newBench ends with the balance of descriptors and goroutines.
func newBench(t testing.TB) *bench {
	t.Helper()
	pollerOfGo.Do(func() {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		_ = l.Close()
	})
	descriptors, goroutines := openDescriptors(t), runtime.NumGoroutine()
	t.Cleanup(func() {
		for end := time.Now().Add(patience); openDescriptors(t) > descriptors || runtime.NumGoroutine() > goroutines; {
			require.True(t, time.Now().Before(end), "descriptors and goroutines are back")
			time.Sleep(time.Millisecond)
		}
	})
	b := newPoller(t, make(chan told, 1000), make(chan told, 1000))
	require.NoError(t, b.StartReadable())
	t.Cleanup(func() {
		b.Stop()
		finish := time.AfterFunc(patience, func() { panic("a goroutine goes on after Stop") })
		defer finish.Stop()
		if !poll.Parks { // else they end with the connections
			b.loops.Wait()
		}
	})
	return b
}

// newPoller is newBench without a balance.
func newPoller(t testing.TB, ends, readable chan told) *bench {
	b := &bench{TB: t, ends: ends, readable: readable, loops: &sync.WaitGroup{}}
	p, err := poll.New(poll.Calls[*conn]{
		Start:     func(f func()) bool { b.loops.Go(f); return true },
		Ended:     func(c *conn, reset bool) { b.ends <- told{c: c, reset: reset} },
		Arrived:   func(c *conn, tag uint32) { b.readable <- told{c: c, tag: tag} },
		Use:       func(c *conn) (uint64, poll.Usage) { return c.mark.Load(), poll.Usage(c.usage.Load()) },
		Unread:    (*conn).readUnread,
		Unwatched: func(c *conn) { c.unwatched.Add(1) },
	})
	require.NoError(t, err)
	b.Poller = p
	return b
}

// readUnread reads one byte, as a user of package poll does where it parks.
func (c *conn) readUnread() bool {
	c.unread.Add(1)
	if c.keeps.Load() {
		return false
	}
	_, _ = c.nc.Read(make([]byte, 1))
	return true
}

func openDescriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}

// open returns a connection that is a member, and closed with the test.
func (b *bench) open() *conn {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	defer l.Close()
	nc, err := net.Dial("tcp", l.Addr().String())
	require.NoError(b, err)
	peer, err := l.Accept()
	require.NoError(b, err)
	c := &conn{nc: nc.(*net.TCPConn), peer: peer.(*net.TCPConn)}
	b.Cleanup(func() {
		_ = c.nc.Close()
		_ = c.peer.Close()
	})
	b.Add(&c.Member, c.raw(b), c)
	require.True(b, c.Added())
	return c
}

func (b *bench) next(from chan told) told {
	b.Helper()
	select {
	case e := <-from:
		return e
	case <-time.After(patience):
		require.FailNow(b, "nothing is told")
		panic("not reached")
	}
}

// nothingElse requires that nothing more has been told. What happens to another connection afterwards comes after it.
func (b *bench) nothingElse() {
	b.Helper()
	last := b.open()
	require.NoError(b, last.WatchEnd())
	require.NoError(b, last.Arm(math.MaxUint32))
	require.NoError(b, last.peer.Close())
	require.Equal(b, told{c: last}, b.next(b.ends))
	require.Equal(b, told{c: last, tag: math.MaxUint32}, b.next(b.readable))
	last.Remove()
	if poll.Parks { // each connection has a goroutine, and one may be later than the other
		time.Sleep(5 * time.Millisecond)
		require.Zero(b, len(b.ends))
		require.Zero(b, len(b.readable))
	}
}

func (c *conn) send(t testing.TB) {
	t.Helper()
	_, err := c.peer.Write([]byte("x"))
	require.NoError(t, err)
}

func (c *conn) receive(t testing.TB) {
	t.Helper()
	require.NoError(t, c.nc.SetReadDeadline(time.Now().Add(patience)))
	_, err := io.ReadFull(c.nc, make([]byte, 1))
	require.NoError(t, err)
}

func (c *conn) reset(t testing.TB) {
	t.Helper()
	require.NoError(t, c.peer.SetLinger(0))
	require.NoError(t, c.peer.Close())
}

func TestAnEndIsTold(t *testing.T) {
	for name, end := range map[string]struct {
		make  func(t testing.TB, c *conn)
		reset bool
	}{
		"closed":      {func(t testing.TB, c *conn) { require.NoError(t, c.peer.Close()) }, false},
		"half closed": {func(t testing.TB, c *conn) { require.NoError(t, c.peer.CloseWrite()) }, false},
		"reset":       {func(t testing.TB, c *conn) { c.reset(t) }, true},
		"closed by both": {func(t testing.TB, c *conn) {
			require.NoError(t, c.nc.CloseWrite())
			require.NoError(t, c.peer.Close())
		}, false},
		"behind unread data": {func(t testing.TB, c *conn) { c.send(t); require.NoError(t, c.peer.Close()) }, false},
	} {
		for _, already := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				b := newBench(t)
				c := b.open()
				if !already {
					require.NoError(t, c.WatchEnd())
					b.nothingElse()
				}
				end.make(t, c)
				if already {
					require.NoError(t, c.WatchEnd())
				}
				require.Equal(t, told{c: c, reset: end.reset}, b.next(b.ends))
				b.nothingElse() // it is told once
			})
		}
	}
}

func TestDataAndOurOwnCloseWriteAreNoEnd(t *testing.T) {
	b := newBench(t)
	c := b.open()
	require.NoError(t, c.WatchEnd())
	c.send(t)
	require.NoError(t, c.nc.CloseWrite())
	b.nothingElse()
	require.NoError(t, c.peer.Close())
	require.Same(t, c, b.next(b.ends).c)
}

func TestWhatCanBeReadIsToldOnceForEachArm(t *testing.T) {
	b := newBench(t)
	c := b.open()
	require.NoError(t, c.Arm(1))
	b.nothingElse()
	c.send(t)
	require.Equal(t, told{c: c, tag: 1}, b.next(b.readable))
	c.send(t)
	b.nothingElse()
	require.NoError(t, c.Arm(2)) // what is there already
	require.Equal(t, told{c: c, tag: 2}, b.next(b.readable))
	c.receive(t)
	c.receive(t)
	require.NoError(t, c.Arm(3))
	b.nothingElse()
	require.NoError(t, c.Arm(1<<31+4)) // in the place of the one before; all bits of a tag come back
	c.send(t)
	require.Equal(t, told{c: c, tag: 1<<31 + 4}, b.next(b.readable))
	b.nothingElse()
	c.receive(t)
	require.NoError(t, c.Arm(5))
	require.NoError(t, c.peer.CloseWrite())
	require.Equal(t, told{c: c, tag: 5}, b.next(b.readable), "an end can be read")
}

func TestWhatIsRemovedIsNotToldOf(t *testing.T) {
	b := newBench(t)
	c := b.open()
	require.NoError(t, c.WatchEnd())
	require.NoError(t, c.Arm(1))
	c.Remove()
	c.Remove()
	require.NoError(t, c.peer.Close())
	b.nothingElse()
	require.Error(t, c.WatchEnd())
	require.NoError(t, c.nc.Close())
	b.nothingElse()
}

func TestTwoArmAtTheSameTime(t *testing.T) {
	b := newBench(t)
	for range 100 {
		c := b.open()
		start := make(chan struct{})
		errs := make(chan error, 2)
		for tag := range uint32(2) {
			go func() {
				<-start
				errs <- c.Arm(tag)
			}()
		}
		close(start)
		require.NoError(t, <-errs)
		require.NoError(t, <-errs)
		c.send(t)
		require.Same(t, c, b.next(b.readable).c)
	}
}

func TestAMemberOfNothing(t *testing.T) {
	var m poll.Member[int]
	require.False(t, m.Added())
	require.Error(t, m.WatchEnd())
	require.Error(t, m.Arm(1))
	m.Remove()
}

// has looks at no more than the keys, which are in use.
func has[K comparable, V any](m map[K]V, k K) bool {
	_, ok := m[k]
	return ok
}

func TestManyConnections(t *testing.T) {
	const many = 400
	b := newBench(t)
	conns := make([]*conn, many)
	for i := range conns {
		conns[i] = b.open()
		require.NoError(t, conns[i].WatchEnd())
		require.NoError(t, conns[i].Arm(uint32(i)))
	}
	for i, c := range conns {
		switch i % 4 {
		case 0:
			c.reset(t)
		case 1:
			require.NoError(t, c.peer.Close())
		case 2:
			c.send(t)
		}
	}
	ended := make(map[*conn]bool)
	for range many / 2 {
		e := b.next(b.ends)
		require.False(t, has(ended, e.c))
		ended[e.c] = e.reset
	}
	tags := make(map[*conn]uint32)
	for range many / 4 * 3 {
		e := b.next(b.readable)
		require.False(t, has(tags, e.c))
		tags[e.c] = e.tag
	}
	for i, c := range conns {
		if i%4 < 2 {
			require.True(t, has(ended, c))
			require.Equal(t, i%4 == 0, ended[c])
		}
		if i%4 < 3 {
			require.True(t, has(tags, c))
			require.EqualValues(t, i, tags[c])
		}
	}
	b.nothingElse()
}

func BenchmarkArm(b *testing.B) {
	bench := newBench(b)
	c := bench.open()
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Arm(1); err != nil {
			b.Fatal(err)
		}
	}
}
