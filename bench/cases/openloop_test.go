package cases

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func sleeping(d time.Duration) func(int) error {
	return func(int) error {
		time.Sleep(d)
		return nil
	}
}

func TestAnOpenLoopBeginsRequestsAtItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		s, err := beginAll(1000, 10_000, sleeping(5*time.Millisecond))
		require.NoError(t, err)
		assert.InDelta(t, 105*time.Millisecond, time.Since(start), float64(time.Millisecond), "nothing waits for a reply")
		assert.InDelta(t, 10_000, s.Figures[begun.Key], 20)
		assert.Equal(t, float64(5*time.Millisecond), s.Figures[replyP50.Key])
		assert.Equal(t, float64(5*time.Millisecond), s.Figures[replyP99.Key])
		assert.Zero(t, s.Figures[late.Key])
	})
}

// A client that serves one after the other, and half as many as there come, makes each request wait
// for a millisecond longer than the one before.
func TestAnOpenLoopCountsFromWhenARequestWasDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turn := make(chan struct{}, 1)
		s, err := beginAll(100, 1000, func(int) error {
			turn <- struct{}{}
			time.Sleep(2 * time.Millisecond)
			<-turn
			return nil
		})
		require.NoError(t, err)
		assert.InDelta(t, 51.5*float64(time.Millisecond), s.Figures[replyP50.Key], float64(time.Millisecond))
		assert.InDelta(t, 100*float64(time.Millisecond), s.Figures[replyP99.Key], float64(2*time.Millisecond))
	})
}

// Nobody can begin requests at such a rate, so they are late, and that is part of their time.
func TestWhatIsBegunLateIsPartOfTheTime(t *testing.T) {
	s, err := beginAll(100_000, 1e9, func(int) error { return nil })
	require.NoError(t, err)
	assert.NotZero(t, s.Figures[late.Key])
	assert.GreaterOrEqual(t, s.Figures[replyP99.Key], s.Figures[late.Key])
}

func TestAnOpenLoopFailsWithItsRequests(t *testing.T) {
	broken := errors.New("broken")
	_, err := beginAll(10, 1e6, func(i int) error {
		if i == 3 {
			return broken
		}
		return nil
	})
	require.ErrorIs(t, err, broken)
}

func TestTheRateIsThatOfTheSlowestSubject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pacing
		for _, d := range []time.Duration{2, 4, 1} {
			require.NoError(t, p.probe(sleeping(d*time.Millisecond), false, 100*time.Millisecond))
		}
		assert.InDelta(t, openShare*openCallers*1000/4, p.rate(), 0.05*p.rate())
	})
}

func TestAProbeHasAllCallersAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			mu   sync.Mutex
			seen = make(map[int]bool)
		)
		perSecond, err := closedLoop(16, 100*time.Millisecond, func(caller int) error {
			mu.Lock()
			seen[caller] = true
			mu.Unlock()
			return sleeping(time.Millisecond)(caller)
		})
		require.NoError(t, err)
		assert.InDelta(t, 16_000, perSecond, 400)
		assert.Len(t, seen, 16)
	})
}
