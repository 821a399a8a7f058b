package plex

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// In a large pool each pause is shorter than a timer is late.
func TestThePausesOfARenewalAreTwoSecondsAtMost(t *testing.T) {
	for _, n := range []int{100, 10_000, 100_000} {
		const late = time.Millisecond
		began := time.Now()
		now := began
		starts := renewal{at: began, most: min(renewPause, renewPauses/time.Duration(n))}
		for range n {
			if pause := starts.pause(now); pause > 0 {
				now = now.Add(pause + late)
			}
		}
		require.LessOrEqual(t, now.Sub(began), renewPauses+late, n)
		require.Greater(t, now.Sub(began), renewPauses/4, "but they are made")
	}
}
