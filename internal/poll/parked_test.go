//go:build linux && plexportable

package poll_test

// What is so because the Poller parks a goroutine on each connection.

import (
	"errors"
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex/internal/poll"
)

// soon waits until ok holds.
func soon(t testing.TB, ok func() bool, what string) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		require.True(t, time.Now().Before(end), what)
	}
}

// stays requires that n remains what it is for long enough for the Poller to look several times.
func stays(t testing.TB, want int32, n func() int32) {
	t.Helper()
	for range 60 {
		require.Equal(t, want, n())
		time.Sleep(time.Millisecond)
	}
}

// out waits until nobody waits on c.
func (c *conn) out(t testing.TB) {
	t.Helper()
	select {
	case <-c.Out():
	case <-time.After(patience):
		require.FailNow(t, "the goroutine is not out")
	}
}

func TestTheEndIsSeenBehindWhatUnreadHasRead(t *testing.T) {
	b := newBench(t)
	c := b.open()
	require.NoError(t, c.WatchEnd())
	for range 3 {
		c.send(t)
	}
	soon(t, func() bool { return c.unread.Load() == 3 }, "all is read")
	b.nothingElse()
	require.NoError(t, c.peer.Close())
	require.Equal(t, told{c: c}, b.next(b.ends))
	require.EqualValues(t, 3, c.unread.Load())
}

func TestAReadGoesOnAlthoughSomebodyWaits(t *testing.T) {
	b := newBench(t)
	c := b.open()
	c.keeps.Store(true)
	require.NoError(t, c.WatchEnd())
	require.NoError(t, c.nc.SetReadDeadline(time.Now().Add(5*time.Millisecond)))
	_, err := c.nc.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)

	require.NoError(t, c.nc.SetReadDeadline(time.Time{}))
	require.NoError(t, c.WatchEnd())
	read := make(chan error, 1)
	go func() {
		_, err := c.nc.Read(make([]byte, 1))
		read <- err
	}()
	time.Sleep(time.Millisecond) // it is behind the other, or before it
	c.send(t)
	require.NoError(t, <-read)

	go func() {
		_, err := c.nc.Read(make([]byte, 1))
		read <- err
	}()
	require.NoError(t, c.WatchEnd())
	require.NoError(t, c.nc.Close())
	require.ErrorIs(t, <-read, net.ErrClosed)
	require.Equal(t, told{c: c, reset: true}, b.next(b.ends))
}

func TestAConnectionInUseIsLeftAlone(t *testing.T) {
	b := newBench(t)
	c := b.open()
	c.keeps.Store(true)
	c.usage.Store(int32(poll.Busy))
	require.NoError(t, c.WatchEnd())
	c.send(t)
	soon(t, func() bool { return c.unread.Load() == 1 }, "something has arrived")
	stays(t, 1, c.unread.Load)
	c.usage.Store(int32(poll.Leased))
	soon(t, func() bool { return c.unread.Load() == 2 }, "it is waited on when nobody reads")
	c.usage.Store(int32(poll.Busy))
	c.receive(t)
	require.NoError(t, c.nc.SetReadDeadline(time.Time{}))
	c.mark.Add(1)
	c.usage.Store(int32(poll.Idle))
	c.keeps.Store(false)
	before := c.unread.Load()
	c.send(t)
	soon(t, func() bool { return c.unread.Load() > before }, "it is waited on when it is idle")
	require.NoError(t, c.peer.Close())
	require.Equal(t, told{c: c}, b.next(b.ends))
}

// A lease that reads leaves no mark before it ends.
func TestTheEndIsSeenBehindWhatALeaseHasRead(t *testing.T) {
	b := newBench(t)
	c := b.open()
	c.keeps.Store(true)
	c.usage.Store(int32(poll.Leased))
	require.NoError(t, c.WatchEnd())
	c.send(t)
	soon(t, func() bool { return c.unread.Load() == 1 }, "something has arrived")
	time.Sleep(60 * time.Millisecond)
	require.Less(t, c.unread.Load(), int32(5), "it is looked at less and less often")
	c.receive(t)
	require.NoError(t, c.peer.Close())
	require.Equal(t, told{c: c}, b.next(b.ends))
}

func TestWhatNobodyReadsIsLookedAtAgainOnlyAfterUse(t *testing.T) {
	b := newBench(t)
	c := b.open()
	c.keeps.Store(true)
	require.NoError(t, c.WatchEnd())
	c.send(t)
	soon(t, func() bool { return c.unread.Load() == 1 }, "something has arrived")
	stays(t, 1, c.unread.Load)
	c.mark.Add(1)
	soon(t, func() bool { return c.unread.Load() == 2 }, "it has been used")
	stays(t, 2, c.unread.Load)
}

func TestADeadlineThatIsTakenBackEndsNoWait(t *testing.T) {
	b := newBench(t)
	c := b.open()
	for tag := range uint32(100) {
		require.NoError(t, c.Arm(tag))
		require.NoError(t, c.nc.SetReadDeadline(time.Unix(1, 0)))
		require.NoError(t, c.nc.SetReadDeadline(time.Time{}))
		require.NoError(t, c.Arm(tag)) // as the end of a lease does
		c.send(t)
		require.Equal(t, told{c: c, tag: tag}, b.next(b.readable))
		c.receive(t)
		require.NoError(t, c.nc.SetReadDeadline(time.Time{}))
	}
}

// Whoever sets a deadline has a lease, and the end of that arms again.
func TestADeadlineThatStaysEndsTheWait(t *testing.T) {
	b := newBench(t)
	c := b.open()
	require.NoError(t, c.Arm(1))
	require.NoError(t, c.nc.SetReadDeadline(time.Unix(1, 0)))
	c.out(t)
	require.NoError(t, c.nc.SetReadDeadline(time.Time{}))
	c.send(t)
	b.nothingElse()
	require.NoError(t, c.Arm(2))
	require.Equal(t, told{c: c, tag: 2}, b.next(b.readable))
	b.nothingElse()
}

// A deadline ends a wait; when nobody uses the connection any more, it is waited on again by itself.
func TestTheEndIsSeenAfterADeadline(t *testing.T) {
	b := newBench(t)
	c := b.open()
	require.NoError(t, c.WatchEnd())
	require.NoError(t, c.nc.SetReadDeadline(time.Unix(1, 0)))
	c.out(t)
	require.NoError(t, c.nc.SetReadDeadline(time.Time{}))
	c.mark.Add(1)
	require.NoError(t, c.peer.Close())
	require.Equal(t, told{c: c}, b.next(b.ends))
}

// What has arrived may be read by somebody else, who then arms for what comes next, before it has been told.
func TestWhoArmsIsToldOnlyOfWhatComesAfterwards(t *testing.T) {
	b := newBench(t)
	c := b.open()
	require.NoError(t, c.Arm(0))
	for tag := uint32(1); tag <= 2000; tag++ {
		c.send(t)
		c.receive(t)
		require.NoError(t, c.nc.SetReadDeadline(time.Time{}))
		require.NoError(t, c.Arm(tag))
		for len(b.readable) > 0 { // perhaps of the one before
			require.Less(t, b.next(b.readable).tag, tag, "there is nothing to be read")
		}
	}
}

func TestTheErrorIsKept(t *testing.T) {
	b := newBench(t)
	c := b.open()
	require.NoError(t, c.WatchEnd())
	require.NoError(t, c.Failure())
	c.reset(t)
	require.True(t, b.next(b.ends).reset)
	require.ErrorIs(t, c.Failure(), syscall.ECONNRESET)
	require.NoError(t, c.Arm(1))
	require.Equal(t, told{c: c, tag: 1}, b.next(b.readable), "an end can be read")
	require.ErrorIs(t, c.Failure(), syscall.ECONNRESET, "the first counts")
	require.NoError(t, c.WatchEnd())
	b.nothingElse()
}

// Whoever reads when the reset has been told to the Poller finds it there.
func TestTheErrorIsKnownBeforeTheNextReadReturns(t *testing.T) {
	b := newBench(t)
	for range 200 {
		c := b.open()
		require.NoError(t, c.WatchEnd())
		read := make(chan error, 1)
		go func() {
			_, err := c.nc.Read(make([]byte, 1))
			if c.Failure() != nil {
				err = c.Failure()
			}
			read <- err
		}()
		c.reset(t)
		require.ErrorIs(t, <-read, syscall.ECONNRESET)
		b.next(b.ends)
	}
}

func TestAConnectionIsTakenAway(t *testing.T) {
	b := newBench(t)
	c := b.open()
	c.out(t)
	require.NoError(t, c.WatchEnd())
	select {
	case <-c.Out():
		require.FailNow(t, "nobody waits")
	default:
	}
	c.Remove()
	require.NoError(t, c.nc.SetReadDeadline(time.Unix(1, 0)))
	c.out(t)
	require.NoError(t, c.nc.SetReadDeadline(time.Time{}))
	c.send(t)
	c.receive(t)
	require.Error(t, c.WatchEnd())
	require.Error(t, c.Arm(1))
	b.nothingElse()
	require.Zero(t, c.unread.Load())
}

// strange is a RawConn on which nobody can wait.
type strange struct {
	syscall.RawConn
	read func() error
}

func (s strange) Read(func(uintptr) bool) error { return s.read() }

func TestARawConnOnWhichNobodyCanWait(t *testing.T) {
	for name, read := range map[string]func() error{
		"refuses":      func() error { return errors.New("not here") },
		"does nothing": func() error { return nil },
		"panics":       func() error { panic("at the disco") },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			open := b.open()
			c := &conn{}
			b.Add(&c.Member, strange{open.raw(t), read}, c)
			require.NoError(t, c.WatchEnd())
			c.out(t)
			require.Zero(t, c.unwatched.Load())
			require.NoError(t, c.Arm(1))
			soon(t, func() bool { return c.unwatched.Load() == 1 }, "it is told")
			b.nothingElse()
		})
	}
}

func TestADatagramSocketIsNotWatched(t *testing.T) {
	b := newBench(t)
	udp, err := net.Dial("udp", "127.0.0.1:9")
	require.NoError(t, err)
	defer udp.Close()
	raw, err := udp.(*net.UDPConn).SyscallConn()
	require.NoError(t, err)
	c := &conn{}
	b.Add(&c.Member, raw, c)
	require.ErrorIs(t, c.WatchEnd(), errors.ErrUnsupported)
	require.ErrorIs(t, c.Arm(1), errors.ErrUnsupported)
}

func TestAStoppedPollerTellsNothing(t *testing.T) {
	b := newBench(t)
	c := b.open()
	c.keeps.Store(true)
	require.NoError(t, c.WatchEnd())
	c.send(t)
	soon(t, func() bool { return c.unread.Load() == 1 }, "something has arrived")
	other := b.open()
	require.NoError(t, other.WatchEnd())
	require.NoError(t, other.Arm(1))
	b.Stop()
	b.Stop()
	require.Error(t, b.StartReadable())
	require.Error(t, c.Arm(2))
	require.Error(t, c.WatchEnd())
	c.mark.Add(1)
	require.NoError(t, other.peer.Close())
	other.out(t)
	require.NoError(t, c.peer.Close())
	stays(t, 1, c.unread.Load)
	require.Zero(t, len(b.ends))
	require.Zero(t, len(b.readable))
	b.loops.Wait() // that of the patrol ends, too
}

func TestReadableIsOptionalHereToo(t *testing.T) {
	b := newPoller(t, nil, nil)
	c := b.open()
	require.Error(t, c.Arm(1))
	b.Stop()
}

func TestAPoolThatNobodyUsesHasNoPatrol(t *testing.T) {
	b := newBench(t)
	c := b.open()
	before := runtime.NumGoroutine()
	require.NoError(t, c.WatchEnd())
	require.NoError(t, c.Arm(1))
	c.send(t)
	require.EqualValues(t, 1, b.next(b.readable).tag)
	soon(t, func() bool { return c.unread.Load() == 1 }, "it has been left alone")
	soon(t, func() bool { return runtime.NumGoroutine() == before+1 }, "one goroutine waits")
}

func TestMembersComeAndGoWhileTheirEndsCome(t *testing.T) {
	b := newBench(t)
	for range 300 {
		c := b.open()
		b.loops.Go(func() { _ = c.WatchEnd() })
		b.loops.Go(func() { _ = c.Arm(1) })
		b.loops.Go(c.Remove)
		b.loops.Go(func() { _ = c.peer.Close() })
	}
	// The balance is at the end.
}

func TestArmAllocatesLittle(t *testing.T) {
	b := newBench(t)
	c := b.open()
	tag := uint32(0)
	require.Less(t, testing.AllocsPerRun(1000, func() {
		tag++
		if err := c.Arm(tag); err != nil {
			t.Error(err)
		}
	}), 0.5, "as long as somebody waits")
}
