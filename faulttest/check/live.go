package check

// Liveness: once faults have stopped, every waiter is served and the pool is whole.

import (
	"context"
	"fmt"
	"io"
	"time"

	"go.atomizer.io/plex"
)

// Whole waits until n connections are open and nothing is leased, waiting or being connected.
func Whole(m *plex.Multiplexer, n int, within time.Duration) error {
	return idle(m, within, func(s plex.Stats) bool { return s.Open == n && s.Waiting == 0 })
}

// WholeReady waits until at least n connections are open and nothing is leased or being connected. It is for pools whose
// read halves are waited for all the time, as packages message and request do.
func WholeReady(m *plex.Multiplexer, n int, within time.Duration) error {
	return idle(m, within, func(s plex.Stats) bool { return s.Open >= n })
}

func idle(m *plex.Multiplexer, within time.Duration, ok func(plex.Stats) bool) error {
	for end := time.Now().Add(within); ; time.Sleep(time.Millisecond) {
		s := m.Stats()
		busy := s.Connecting + s.LeasedReaders + s.LeasedWriters
		if busy == 0 && s.IdleReaders >= s.Open && s.IdleWriters == s.Open && ok(s) {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("check: not whole after %v: %+v", within, s)
		}
	}
}

// Live acquires n readers and n writers at the same time, of different connections, and closes them again: everyone who
// asks is served within the time. It is for pools whose readers are asked for with Reader.
func Live(ctx context.Context, m *plex.Multiplexer, n int, within time.Duration) error {
	return live(ctx, n, within, lease(m.Reader), lease(m.Writer))
}

// LiveReady is Live for pools whose readers are asked for with ReadyReader. The peers must send, or end.
func LiveReady(ctx context.Context, m *plex.Multiplexer, n int, within time.Duration) error {
	return live(ctx, n, within, lease(m.ReadyReader), lease(m.Writer))
}

// LiveWriters is Live without the readers, for pools that packages message and request read from.
func LiveWriters(ctx context.Context, m *plex.Multiplexer, n int, within time.Duration) error {
	return live(ctx, n, within, lease(m.Writer))
}

// acquire takes a lease.
type acquire func(context.Context) (io.Closer, error)

func lease[L io.Closer](take func(context.Context, time.Duration) (L, error)) acquire {
	return func(ctx context.Context) (io.Closer, error) { return take(ctx, 0) }
}

func live(ctx context.Context, n int, within time.Duration, takes ...acquire) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for range n {
		for _, take := range takes {
			l, err := take(ctx)
			if err != nil {
				return fmt.Errorf("check: not everyone is served within %v: %w", within, err)
			}
			defer l.Close()
		}
	}
	return nil
}
