package poll_test

import (
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
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
	p, err := poll.New[*conn]()
	require.NoError(t, err)
	require.NoError(t, p.StartReadable())
	b := &bench{t, p, make(chan told, 1000), make(chan told, 1000)}
	var loops sync.WaitGroup
	loops.Go(func() { p.Ends(func(c *conn, reset bool) { b.ends <- told{c: c, reset: reset} }) })
	loops.Go(func() { p.Readable(func(c *conn, tag uint32) { b.readable <- told{c: c, tag: tag} }) })
	t.Cleanup(func() {
		p.Stop()
		loops.Wait()
	})
	return b
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

// A descriptor that is closed goes out of an epoll by itself only if it has no copy.
func TestWhatIsRemovedIsOutOfTheKernelToo(t *testing.T) {
	b := newBench(t)
	c := b.open()
	file, err := c.nc.File()
	require.NoError(t, err)
	defer file.Close()
	watched := func() [2]int {
		ends, readable := b.Watched()
		return [2]int{ends, readable}
	}
	require.NoError(t, c.WatchEnd())
	require.NoError(t, c.Arm(1))
	require.Equal(t, [2]int{1, 1}, watched())
	c.Remove()
	require.Equal(t, [2]int{0, 0}, watched())
}

// interrupted is a socket on which something comes first.
type interrupted struct {
	syscall.RawConn
	first func()
}

func (i *interrupted) Control(f func(uintptr)) error {
	if first := i.first; first != nil {
		i.first = nil
		first()
	}
	return i.RawConn.Control(f)
}

func TestWhatIsRemovedBeforeItIsWatchedIsNotWatched(t *testing.T) {
	b := newBench(t)
	open := b.open()
	late := &conn{}
	b.Add(&late.Member, &interrupted{open.raw(t), late.Remove}, late)
	require.Error(t, late.WatchEnd())
	ends, _ := b.Watched()
	require.Zero(t, ends)
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

func TestADescriptorThatIsUsedAgainIsAnotherMember(t *testing.T) {
	b := newBench(t)
	older := b.open()
	require.NoError(t, older.WatchEnd())
	require.NoError(t, older.Arm(1))
	require.NoError(t, older.nc.Close()) // behind the Poller's back
	require.Error(t, older.Arm(2))
	newer := b.open()
	require.NoError(t, newer.WatchEnd())
	require.NoError(t, newer.Arm(3))
	older.Remove()
	require.NoError(t, newer.peer.Close())
	require.Equal(t, told{c: newer}, b.next(b.ends))
	require.Equal(t, told{c: newer, tag: 3}, b.next(b.readable))
	b.nothingElse()
}

func TestAMemberOfNothing(t *testing.T) {
	var m poll.Member[int]
	require.False(t, m.Added())
	require.Error(t, m.WatchEnd())
	require.Error(t, m.Arm(1))
	m.Remove()
}

// fileRaw shows a descriptor of which epoll wants to know nothing.
func fileRaw(t *testing.T) syscall.RawConn {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "regular"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = file.Close() })
	raw, err := file.SyscallConn()
	require.NoError(t, err)
	return raw
}

func TestADescriptorThatTheSystemDoesNotWatch(t *testing.T) {
	b := newBench(t)
	c := &conn{}
	b.Add(&c.Member, fileRaw(t), c)
	require.ErrorIs(t, c.WatchEnd(), syscall.EPERM)
	require.ErrorIs(t, c.Arm(1), syscall.EPERM)
	c.Remove()
}

func TestStop(t *testing.T) {
	b := newBench(t)
	c := b.open()
	require.NoError(t, b.StartReadable(), "again")
	require.NoError(t, c.WatchEnd())
	require.NoError(t, c.Arm(1))
	b.Stop()
	b.Stop()
	require.Error(t, c.Arm(2))
	other := b.open()
	require.Error(t, other.WatchEnd())
	other.Remove()
	require.NoError(t, c.peer.Close())
	c.Remove()
	b.Ends(func(*conn, bool) { t.Error("an end is told") })
	b.Readable(func(*conn, uint32) { t.Error("what can be read is told") })
}

func TestReadableIsOptional(t *testing.T) {
	newBench(t).Stop()
	before := openDescriptors(t)
	p, err := poll.New[*conn]()
	require.NoError(t, err)
	require.Equal(t, before+1, openDescriptors(t))
	b := &bench{TB: t, Poller: p}
	c := b.open()
	require.Error(t, c.Arm(1))
	p.Readable(func(*conn, uint32) { t.Error("it is told") }) // returns at once
	p.Stop()
	require.Error(t, p.StartReadable())
	_ = c.nc.Close()
	_ = c.peer.Close()
	require.Equal(t, before, openDescriptors(t))
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
		require.NotContains(t, ended, e.c)
		ended[e.c] = e.reset
	}
	tags := make(map[*conn]uint32)
	for range many / 4 * 3 {
		e := b.next(b.readable)
		require.NotContains(t, tags, e.c)
		tags[e.c] = e.tag
	}
	for i, c := range conns {
		if i%4 < 2 {
			require.Contains(t, ended, c)
			require.Equal(t, i%4 == 0, ended[c])
		}
		if i%4 < 3 {
			require.Contains(t, tags, c)
			require.EqualValues(t, i, tags[c])
		}
	}
	b.nothingElse()
}

// Members come and go while their ends come. What is told is told of the right one, and none that stays is missed.
func TestMembersComeAndGo(t *testing.T) {
	b := newBench(t)
	var wg sync.WaitGroup
	copies := make(chan *os.File, 200)
	for range 4 {
		wg.Go(func() {
			for range 50 {
				c := b.open()
				file, err := c.nc.File() // a copy, which keeps the kernel from forgetting it by itself
				if err != nil {
					t.Error(err)
					return
				}
				copies <- file
				var both sync.WaitGroup
				both.Go(func() { _ = c.WatchEnd() })
				both.Go(func() { _ = c.Arm(1) })
				both.Go(c.Remove)
				both.Go(func() { _ = c.peer.Close() })
				both.Wait()
				_ = c.nc.Close()
			}
		})
	}
	wg.Wait()
	require.Zero(t, b.Members(), "those that were removed are forgotten")
	ends, _ := b.Watched()
	require.Zero(t, ends, "also by the kernel")
	for range len(copies) {
		require.NoError(t, (<-copies).Close())
	}
}

func TestArmAllocatesNothing(t *testing.T) {
	b := newBench(t)
	c := b.open()
	require.NoError(t, c.Arm(0))
	tag := uint32(0)
	require.Less(t, testing.AllocsPerRun(1000, func() {
		tag++
		if err := c.Arm(tag); err != nil {
			t.Error(err)
		}
	}), 0.5) // the race detector empties pools now and then
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

func TestNumbersOfMembersAreNotUsedAgain(t *testing.T) {
	b := newBench(t)
	first, second := b.open(), b.open()
	require.EqualValues(t, 1, first.Key())
	require.EqualValues(t, 2, second.Key())
	first.Remove()
	require.EqualValues(t, 3, b.open().Key())
	b.SetLast(math.MaxUint32 - 1)
	require.Equal(t, uint32(math.MaxUint32), b.open().Key())
	require.EqualValues(t, 1, b.open().Key(), "neither 0 nor one that is used")
	last := b.open()
	require.EqualValues(t, 4, last.Key())
	b.SetLast(math.MaxUint32 - 1)
	large := b.open()
	require.NotEqual(t, uint32(math.MaxUint32), large.Key())

	// A number of which the highest bit is set comes back whole.
	b.SetLast(math.MaxUint32 - 2)
	large = b.open()
	require.Equal(t, uint32(math.MaxUint32-1), large.Key())
	require.NoError(t, large.WatchEnd())
	require.NoError(t, large.peer.Close())
	require.Same(t, large, b.next(b.ends).c)
}
