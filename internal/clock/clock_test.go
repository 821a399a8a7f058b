package clock

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPatienceCallsOnceWhenItsTimeHasPassed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		p := NewPatience()
		p.Start(time.Second, func() { calls.Add(1) })
		time.Sleep(time.Second - 1)
		synctest.Wait()
		require.Zero(t, calls.Load())
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.EqualValues(t, 1, calls.Load())
		time.Sleep(time.Minute)
		synctest.Wait()
		require.EqualValues(t, 1, calls.Load())
	})
}

func TestPatienceThatIsStoppedCallsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPatience()
		p.Stop() // which it does not mind
		p.Start(time.Second, func() { t.Error("it was called") })
		time.Sleep(time.Second - 1)
		p.Stop()
		p.Stop()
		time.Sleep(time.Minute)
	})
}

func TestPatienceStartsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at atomic.Int64
		began := time.Now()
		p := NewPatience()
		p.Start(time.Second, func() { at.Store(int64(time.Since(began))) })
		time.Sleep(850 * time.Millisecond)
		p.Start(2*time.Second, nil) // which keeps the function
		time.Sleep(time.Minute)
		require.Equal(t, 2850*time.Millisecond, time.Duration(at.Load()))

		p.Start(time.Second, func() { at.Store(-1) })
		time.Sleep(time.Minute)
		require.EqualValues(t, -1, at.Load(), "it can be used again, with another function")
	})
}

func TestPatienceOfNoTimeCallsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		called := make(chan struct{})
		p := NewPatience()
		p.Start(0, func() { close(called) })
		<-called
	})
}

// A process that was stopped finds that its timer has expired long ago, once. That is one step.
func TestPatienceCountsAStopOfTheProcessAsOneStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		called := make(chan struct{})
		p := NewPatience()
		p.Start(time.Hour, func() { close(called) })
		for range steps - 1 {
			p.tick() // as a timer that is long overdue
			synctest.Wait()
			select {
			case <-called:
				require.FailNow(t, "a stop counts as more than a step")
			default:
			}
		}
		p.tick()
		<-called
		p.tick() // comes too late to count
	})
}
