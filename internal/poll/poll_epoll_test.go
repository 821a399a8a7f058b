//go:build linux && !plexportable

package poll_test

// What is so because the Poller is epoll.

import (
	"math"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

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
	b.loops.Wait()
	require.Zero(t, len(b.ends))
	require.Zero(t, len(b.readable))
}

func TestReadableIsOptional(t *testing.T) {
	newBench(t).Stop()
	before := openDescriptors(t)
	b := newPoller(t, nil, nil)
	require.Equal(t, before+1, openDescriptors(t))
	c := b.open()
	require.Error(t, c.Arm(1))
	b.Stop()
	require.Error(t, b.StartReadable())
	_ = c.nc.Close()
	_ = c.peer.Close()
	require.Equal(t, before, openDescriptors(t))
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
