package plex

import (
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func newTasks() *tasks {
	t := new(tasks)
	t.init()
	return t
}

func TestTasksStartNothingOfPlexsOwnAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tasks := newTasks()
		var ran atomic.Int32
		run := func() { ran.Add(1) }
		require.True(t, tasks.start(run))
		tasks.aside(run)
		tasks.startForeign(foreignTask, run)
		synctest.Wait()
		require.EqualValues(t, 3, ran.Load())
		require.False(t, tasks.isClosed())

		tasks.close()
		tasks.close()
		<-tasks.closing
		require.True(t, tasks.isClosed())
		require.False(t, tasks.start(func() { t.Error("it was started") }))
		here := false
		tasks.aside(func() { here = true })
		require.True(t, here, "it ran in this goroutine")
		tasks.startForeign(transportTask, run)
		synctest.Wait()
		require.EqualValues(t, 4, ran.Load())
	})
}

func TestTasksAreWaitedForEachKindItsTime(t *testing.T) {
	graces := [taskKinds]time.Duration{ownTask: 3 * time.Second, transportTask: 2 * time.Second, foreignTask: time.Second}
	for kind := range taskKinds {
		for _, c := range []struct{ takes, waits time.Duration }{
			{0, 0},
			{graces[kind] / 2, graces[kind] / 2},
			{2 * graces[kind], graces[kind]},
		} {
			synctest.Test(t, func(t *testing.T) {
				tasks := newTasks()
				tasks.startForeign(kind, func() { time.Sleep(c.takes) })
				tasks.startForeign((kind+1)%taskKinds, func() {}) // which is no reason to wait
				began := time.Now()
				tasks.wait(graces)
				require.Equal(t, c.waits, time.Since(began))
				time.Sleep(time.Minute)
				synctest.Wait()
				require.Zero(t, tasks.running)
			})
		}
	}
}

func TestTaskThatEndsItsGoroutineIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tasks := newTasks()
		tasks.startForeign(foreignTask, runtime.Goexit)
		synctest.Wait()
		require.Zero(t, tasks.running)
	})
}
