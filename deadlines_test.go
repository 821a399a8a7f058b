package plex

import (
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// fakeDeadliner notes what is set, and fails when told so.
type fakeDeadliner struct {
	set    []time.Time
	err    error
	stucks atomic.Int32
}

func (f *fakeDeadliner) setDeadline(t time.Time) error {
	f.set = append(f.set, t)
	return f.err
}

func (f *fakeDeadliner) stuck() { f.stucks.Add(1) }

// deadlineTest runs f in a bubble. What stuck has counted is read after synctest.Wait.
func deadlineTest(t *testing.T, f func(t *testing.T, d *deadlines, on *fakeDeadliner)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, new(deadlines), new(fakeDeadliner)) })
}

func requireStuckAfter(t *testing.T, on *fakeDeadliner, grace time.Duration) {
	t.Helper()
	time.Sleep(grace - 1)
	synctest.Wait()
	require.Zero(t, on.stucks.Load())
	time.Sleep(time.Nanosecond)
	synctest.Wait()
	require.EqualValues(t, 1, on.stucks.Load())
}

func requireNeverStuck(t *testing.T, on *fakeDeadliner) {
	t.Helper()
	time.Sleep(time.Minute)
	synctest.Wait()
	require.Zero(t, on.stucks.Load())
}

var errNoDeadlines = errors.New("no deadlines")

func TestDeadlineIsSetAndCleared(t *testing.T) {
	deadlineTest(t, func(t *testing.T, d *deadlines, on *fakeDeadliner) {
		soon := time.Now().Add(time.Second)
		require.NoError(t, d.set(on, soon))
		require.NoError(t, d.clear(on, true))
		require.Equal(t, []time.Time{soon, {}}, on.set)
		require.NoError(t, d.clear(on, false))
		require.Len(t, on.set, 2, "nothing may be set, so nothing is taken away")
		requireNeverStuck(t, on)
	})
}

func TestInterruptIsTakenBackToTheConsumersDeadline(t *testing.T) {
	deadlineTest(t, func(t *testing.T, d *deadlines, on *fakeDeadliner) {
		require.NoError(t, d.resume(on))
		require.Empty(t, on.set, "there was no interrupt")

		soon, later := time.Now().Add(time.Second), time.Now().Add(time.Minute)
		require.NoError(t, d.set(on, soon))
		d.interrupt(on)
		d.interrupt(on)
		require.Equal(t, []time.Time{soon, longAgo}, on.set, "a second interrupt changes nothing")
		require.NoError(t, d.set(on, later))
		require.Len(t, on.set, 2, "the interrupt is not lost")
		require.NoError(t, d.resume(on))
		require.Equal(t, []time.Time{soon, longAgo, later}, on.set)
		require.NoError(t, d.resume(on))
		require.Len(t, on.set, 3)
		requireNeverStuck(t, on)

		d.interrupt(on)
		require.Equal(t, longAgo, on.set[3], "after resume it interrupts again")
		require.NoError(t, d.clear(on, true))
		requireNeverStuck(t, on)
		require.NoError(t, d.set(on, soon))
		require.Equal(t, []time.Time{{}, soon}, on.set[4:], "after clear nothing is interrupted")
	})
}

func TestDeadlineThatIsRefusedIsNotTheConsumers(t *testing.T) {
	deadlineTest(t, func(t *testing.T, d *deadlines, on *fakeDeadliner) {
		first := time.Now().Add(time.Minute)
		require.NoError(t, d.set(on, first))
		on.err = errNoDeadlines
		require.ErrorIs(t, d.set(on, time.Now()), errNoDeadlines)
		on.err = nil
		d.interrupt(on)
		require.NoError(t, d.resume(on))
		require.Equal(t, first, on.set[len(on.set)-1])
	})
}

func TestTransportThatIgnoresDeadlinesIsStuckAfterAWhile(t *testing.T) {
	deadlineTest(t, func(t *testing.T, d *deadlines, on *fakeDeadliner) {
		d.interrupt(on)
		requireStuckAfter(t, on, interruptGrace)
		time.Sleep(time.Minute)
		synctest.Wait()
		require.EqualValues(t, 1, on.stucks.Load())
		require.NoError(t, d.clear(on, true))
	})
}

func TestTransportThatRefusesDeadlinesIsStuckSooner(t *testing.T) {
	deadlineTest(t, func(t *testing.T, d *deadlines, on *fakeDeadliner) {
		on.err = errNoDeadlines
		d.interrupt(on)
		requireStuckAfter(t, on, refusedGrace)
		require.NoError(t, d.resume(on))
		require.Len(t, on.set, 1, "nothing was set that would have to be set back")
		require.NoError(t, d.clear(on, true), "nothing is wrong with it: no deadline was ever set")
	})
}

func TestClosedTransportHasTheWholeGrace(t *testing.T) {
	deadlineTest(t, func(t *testing.T, d *deadlines, on *fakeDeadliner) {
		on.err = net.ErrClosed
		d.interrupt(on)
		requireStuckAfter(t, on, interruptGrace)
	})
}

func TestDeadlineThatCannotBeTakenAwayIsAnError(t *testing.T) {
	for name, touch := range map[string]func(d *deadlines, on deadliner){
		"the consumer's": func(d *deadlines, on deadliner) { _ = d.set(on, time.Now()) },
		"an interrupt":   func(d *deadlines, on deadliner) { d.interrupt(on) },
	} {
		t.Run(name, func(t *testing.T) {
			deadlineTest(t, func(t *testing.T, d *deadlines, on *fakeDeadliner) {
				touch(d, on)
				on.err = errNoDeadlines
				require.ErrorIs(t, d.clear(on, true), errNoDeadlines)
				require.NoError(t, d.clear(on, true), "it is not told twice")
				requireNeverStuck(t, on)
			})
		})
	}
}

// slowDeadliner takes long to set a deadline.
type slowDeadliner struct {
	fakeDeadliner
	release chan struct{}
}

func (s *slowDeadliner) setDeadline(t time.Time) error {
	<-s.release
	return s.fakeDeadliner.setDeadline(t)
}

// A transport with one mutex for everything blocks when a deadline is set, too.
func TestTransportThatBlocksWhileADeadlineIsSetIsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d deadlines
		on := &slowDeadliner{release: make(chan struct{})}
		go d.interrupt(on)
		synctest.Wait()
		requireStuckAfter(t, &on.fakeDeadliner, interruptGrace)
		close(on.release)
		synctest.Wait()
		require.NoError(t, d.clear(on, true))
	})
}

func TestDeadlineMethodThatPanicsIsAnError(t *testing.T) {
	err := guardDeadline(func(time.Time) error { panic("on purpose") }, time.Time{})
	require.ErrorContains(t, err, "a deadline of the transport panicked: on purpose")
}
