package request

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestYieldingIsLeftOutWhereItTakesLongerThanItGains(t *testing.T) {
	var y yielding
	require.True(t, y.due())

	// It gains: every time.
	for range 10 {
		y.took(100*time.Microsecond, 10)
		require.True(t, y.due())
	}

	// The machine is busy: ever less often, but not never.
	pauses := []int{}
	for range 12 {
		y.took(10*time.Millisecond, 100)
		require.Equal(t, len(pauses) >= 3, y.slow, "after four times each caller writes for itself")
		n := 0
		for !y.due() {
			n++
		}
		pauses = append(pauses, n)
	}
	require.Equal(t, []int{1, 2, 4, 8, 16, 32, 64, 128, 256, 256, 256, 256}, pauses)

	// It is idle again.
	y.took(time.Microsecond, 1)
	require.True(t, y.due())
	require.False(t, y.slow)
	y.took(time.Microsecond, 0)
	require.False(t, y.due(), "nobody came")
	require.False(t, y.slow, "but it took no time")
	require.True(t, y.due())
}
