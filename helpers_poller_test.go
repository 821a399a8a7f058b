package plex_test

import (
	"testing"
	"time"

	"go.atomizer.io/plex/internal/poll"
)

// What tests have to know of the two pollers: epoll, and the one that parks a goroutine on each connection.
var (
	unseen = byPoller[int64](1<<30, 64<<10)   // behind so many unread bytes an end is not seen
	plenty = byPoller[int64](100_000, 60_000) // bytes, behind which an end is seen
	seenBy = byPoller(50*time.Millisecond, 250*time.Millisecond)
)

// byPoller chooses what is so with the poller of this build.
func byPoller[T any](epoll, parked T) T {
	if poll.Parks {
		return parked
	}
	return epoll
}

// skipUnseen skips a test in which somebody has the reader and leaves unread what comes before the end, if it is. TLS
// has its own goodbye before the end.
func skipUnseen(t *testing.T, is bool) {
	t.Helper()
	if is && poll.Parks {
		t.Skip("this poller does not see an end behind what a lease leaves unread")
	}
}
