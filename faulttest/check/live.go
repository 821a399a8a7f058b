package check

// Liveness: once faults have stopped, every waiter is served and the pool is whole.

import (
	"context"
	"fmt"
	"time"

	"go.atomizer.io/plex"
)

// Whole waits until n connections are open and nothing is leased, waiting or being connected.
func Whole(m *plex.Multiplexer, n int, within time.Duration) error {
	var s plex.Stats
	for end := time.Now().Add(within); ; time.Sleep(time.Millisecond) {
		s = m.Stats()
		if s.Open == n && s.IdleReaders >= n && s.IdleWriters == n && s.Connecting+s.LeasedReaders+s.LeasedWriters+s.Waiting == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("check: not whole with %d connections after %v: %+v", n, within, s)
		}
	}
}

// Live acquires n readers and n writers at the same time, of different connections, and closes them again: everyone who
// asks is served within the time.
func Live(ctx context.Context, m *plex.Multiplexer, n int, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var err error
	for range n {
		r, rErr := m.Reader(ctx, 0)
		if rErr != nil {
			err = rErr
			break
		}
		defer r.Close()
		w, wErr := m.Writer(ctx, 0)
		if wErr != nil {
			err = wErr
			break
		}
		defer w.Close()
	}
	if err != nil {
		return fmt.Errorf("check: not everyone is served within %v: %w", within, err)
	}
	return nil
}
