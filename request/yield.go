package request

import "time"

const (
	// writeCost is about what a Write takes, with what the kernel does for it. Each request that is
	// gathered saves one.
	writeCost = 10 * time.Microsecond

	// slowYield is how long it takes to yield on a machine that is busy with other work.
	slowYield = 5 * time.Millisecond

	// surePause is the pause after four losses in a row. One loss can have any cause.
	surePause = 8

	// longestPause is for how many Writes at most a flusher does without yielding.
	longestPause = 256
)

// yielding decides whether a flusher lets other goroutines run before it writes. That gathers what
// they ask, and costs next to nothing if those that are ready to run are callers. But it waits for
// everything that is ready to run, so on a machine that is busy with other work it takes far longer
// than the Writes that it saves. So it is measured. If it took longer than what it has gained, it
// is left out for a while, and for twice as long the next time.
//
// Where it takes very long again and again, a flusher may have to wait as long for its turn on a
// processor. So until it is tried again, callers do not rely on each other either: each writes
// for itself.
type yielding struct {
	crowd bool // the latest Write has carried several requests, or others have come meanwhile
	slow  bool // it takes very long
	skip  int  // Writes without yielding before the next with it
	pause int  // how many those were the last time
}

// due reports whether to yield before the next Write.
func (y *yielding) due() bool {
	if y.skip > 0 {
		y.skip--
		return false
	}
	return true
}

// took notes how long it took to yield, and how many requests were gathered meanwhile.
func (y *yielding) took(d time.Duration, gained uint64) {
	if d <= time.Duration(gained)*writeCost {
		y.pause, y.slow = 0, false
		return
	}
	y.pause = min(max(1, 2*y.pause), longestPause)
	y.skip = y.pause
	y.slow = y.pause >= surePause && d > slowYield
}
