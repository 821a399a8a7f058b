package cases

// What is done to large pools.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/bench/harness"
)

// openSized opens a pool that connects n connections in memory.
func openSized(s *stills, n int, more ...plex.Option) (*plex.Multiplexer, error) {
	options := []plex.Option{
		plex.WithConnector(plex.DialFunc(s.dial)),
		plex.WithMinConnections(n),
		plex.WithMaxCapacity(n),
	}
	return plex.New(context.Background(), append(options, more...)...)
}

// grow is openSized, measured as a step.
func grow(s *Steps, step string, from *stills, n int, more ...plex.Option) (mux *plex.Multiplexer, err error) {
	err = s.measure(step, n, nil, func() (err error) {
		mux, err = openSized(from, n, more...)
		return err
	})
	if err == nil && s.Done != nil {
		s.Done(step, mux)
	}
	return mux, err
}

func massPlain(n int, s *Steps) error {
	var from stills
	mux, err := grow(s, "growth", &from, n)
	if err != nil {
		return err
	}
	defer func() { _ = mux.Close() }()
	const often = 20
	if err := s.measure("stats", n*often, mux, func() error {
		for range often {
			if open := mux.Stats().Open; open != n {
				return fmt.Errorf("%d connections are open", open)
			}
		}
		return nil
	}); err != nil {
		return err
	}
	if err := s.measure("conns", n*often, mux, func() error {
		for range often {
			for range mux.Conns() {
			}
		}
		return nil
	}); err != nil {
		return err
	}
	return s.measure("close", n, mux, mux.Close)
}

func massRenew(n int, s *Steps) error {
	var from stills
	mux, err := openSized(&from, n)
	if err != nil {
		return err
	}
	defer func() { _ = mux.Close() }()
	return s.measure("renew", n, mux, func() error {
		if err := mux.Renew(context.Background()); err != nil {
			return err
		}
		from.whole(mux, 2*int64(n), n)
		return nil
	})
}

func massGiven(n int, s *Steps) error {
	mux, err := plex.New(context.Background(), plex.WithMaxCapacity(n))
	if err != nil {
		return err
	}
	defer func() { _ = mux.Close() }()
	conns := make([]net.Conn, n)
	for i := range conns {
		conns[i] = newStill()
	}
	if err := s.measure("add", n, mux, func() error {
		_, err := mux.Add(context.Background(), conns...)
		return err
	}); err != nil {
		return err
	}
	return s.measure("shutdown", n, mux, func() error { return mux.Shutdown(context.Background()) })
}

func massEnds(n int, s *Steps) error {
	from := stills{keep: true}
	mux, err := openSized(&from, n)
	if err != nil {
		return err
	}
	var readers sync.WaitGroup
	defer readers.Wait()
	defer func() { _ = mux.Close() }()
	for range 4 {
		readers.Go(func() { readEnds(mux) })
	}
	conns := from.take()
	for runtime.NumGoroutine() < n { // one for each is in its Read
		time.Sleep(time.Millisecond)
	}
	return s.measure("ends", n, mux, func() error {
		for _, c := range conns {
			c.end()
		}
		from.whole(mux, 2*int64(n), n)
		return nil
	})
}

// readEnds reads whatever becomes ready, until the pool closes.
func readEnds(mux *plex.Multiplexer) {
	buf := make([]byte, 16)
	for {
		r, err := mux.ReadyReader(context.Background(), 0)
		if err != nil {
			return
		}
		_, _ = r.Read(buf) // the end
		_ = r.Close()
	}
}

// replaced is how many replacements are measured at most: each of them goes on beside all the
// others that are due.
const replaced = 2_500

// replace measures the next replacements.
func (from *stills) replace(step string, s *Steps, mux *plex.Multiplexer, n int, f func()) error {
	first := from.dialed.Load()
	if err := s.measure(step, 1, mux, func() error {
		f()
		for from.dialed.Load() < first+min(replaced, int64(n)/2) {
			time.Sleep(time.Millisecond)
		}
		return nil
	}); err != nil {
		return err
	}
	s.Figures[step] /= float64(from.dialed.Load() - first)
	return nil
}

func massExpiry(n int, s *Steps) error {
	var from stills
	mux, err := openSized(&from, n, plex.WithMaxCapacity(n+n/10), plex.WithMaxLifetime(lifetimeOf(n)))
	if err != nil {
		return err
	}
	defer func() { _ = mux.Close() }()
	return from.replace("expiry", s, mux, n, func() {})
}

// lifetimeOf is long enough for n connections to be made before the first expires.
func lifetimeOf(n int) time.Duration {
	return 200*time.Millisecond + time.Duration(n)*40*time.Microsecond
}

func massAddresses(n int, s *Steps) error {
	var from stills
	var changed atomic.Bool
	resolve := func(context.Context) ([]plex.Address, error) {
		set := "old"
		if changed.Load() {
			set = "new"
		}
		var all []plex.Address
		for i := range 4 {
			all = append(all, plex.Address{Network: "memory", Address: fmt.Sprintf("%s-%d", set, i)})
		}
		return all, nil
	}
	mux, err := openSized(&from, n, plex.WithMaxCapacity(n+n/10), plex.WithResolver(resolve, time.Second))
	if err != nil {
		return err
	}
	defer func() { _ = mux.Close() }()
	return from.replace("addresses", s, mux, n, func() { changed.Store(true) })
}

// massDown counts failed connects, which a backoff of the user's holds back so little that the
// losses are what counts.
func massDown(n int, s *Steps) error {
	var from stills
	var down atomic.Bool
	var failed atomic.Int64
	connect := plex.DialFunc(func(ctx context.Context) (net.Conn, error) {
		if down.Load() {
			failed.Add(1)
			return nil, errors.New("the service is down")
		}
		return from.dial(ctx)
	})
	mux, err := openSized(&from, n, plex.WithConnector(connect), plex.WithBackoff(func(int) time.Duration { return time.Millisecond }))
	if err != nil {
		return err
	}
	defer func() { _ = mux.Close() }()
	down.Store(true)
	for c := range mux.Conns() {
		c.Kill()
	}
	for mux.Stats().Open > 0 {
		time.Sleep(time.Millisecond)
	}
	return s.measure("down", failedConnects, mux, func() error {
		for until := failed.Load() + failedConnects; failed.Load() < until; {
			time.Sleep(time.Millisecond)
		}
		return nil
	})
}

// failedConnects is how many are measured.
const failedConnects = 50

func massLeaks(n int, s *Steps) error {
	var from stills
	mux, err := grow(s, "watched", &from, n, plex.WithLeakDetection(time.Hour))
	if err != nil {
		return err
	}
	return mux.Close()
}

func massDuplex(n int, s *Steps) error {
	from := stills{keep: true}
	mux, err := openSized(&from, n)
	if err != nil {
		return err
	}
	defer func() { _ = mux.Close() }()
	ctx := context.Background()
	_, _ = mux.ReadyReader(ctx, -1) // decides that read halves are asked for in this way
	for runtime.NumGoroutine() < n {
		time.Sleep(time.Millisecond)
	}
	for _, c := range from.take() {
		c.arrive()
	}
	untilQuiet()
	return s.measure("duplex", n, mux, func() error {
		for range n {
			if _, err := mux.Duplex(ctx, time.Minute); err != nil {
				return err
			}
		}
		return nil
	})
}

func massParked(n int, s *Steps) error {
	var from stills
	mux, err := openSized(&from, n, plex.WithQuietIdle())
	if err != nil {
		return err
	}
	defer func() { _ = mux.Close() }()
	for runtime.NumGoroutine() < n {
		time.Sleep(time.Millisecond)
	}
	const calls = 300
	return s.measure("parked", calls, mux, func() error {
		for range calls {
			d, err := mux.Duplex(context.Background(), time.Minute)
			if err != nil {
				return err
			}
			if err := d.Close(); err != nil {
				return err
			}
		}
		return nil
	})
}

// untilQuiet waits until nothing goes on any more that takes time.
func untilQuiet() {
	for {
		before := harness.CPUTime()
		time.Sleep(20 * time.Millisecond)
		if harness.CPUTime()-before < time.Millisecond {
			return
		}
	}
}

func massNamed(n int, s *Steps) error {
	var from stills
	mux, err := openSized(&from, 1)
	if err != nil {
		return err
	}
	defer func() { _ = mux.Close() }()
	ctx := context.Background()
	held, err := mux.Writer(ctx, 0)
	if err != nil {
		return err
	}
	var callers sync.WaitGroup
	for range n {
		callers.Go(func() {
			if w, err := held.Conn().Writer(ctx, 0); err == nil {
				_ = w.Close()
			}
		})
	}
	untilQuiet()
	return s.measure("named", n, mux, func() error {
		err := held.Close()
		callers.Wait()
		return err
	})
}

func massWaiters(n int, s *Steps) error {
	var from stills
	mux, err := openSized(&from, 1)
	if err != nil {
		return err
	}
	defer func() { _ = mux.Close() }()
	ctx := context.Background()
	held, err := mux.Writer(ctx, 0)
	if err != nil {
		return err
	}
	var callers sync.WaitGroup
	var told atomic.Int64
	// A caller is a goroutine that is there before, so that its stack does not count.
	gather := func() (start chan struct{}) {
		start = make(chan struct{})
		for range n {
			callers.Go(func() {
				<-start
				w, err := mux.Writer(ctx, time.Hour)
				if err != nil {
					told.Add(1)
					return
				}
				_ = w.Close()
			})
		}
		untilQuiet()
		return start
	}
	come := func(start chan struct{}) error {
		close(start)
		for mux.Stats().Waiting < n {
			time.Sleep(time.Millisecond)
		}
		return nil
	}
	fail := func(timeout time.Duration) func() error {
		return func() error {
			for range failures {
				if _, err := mux.Writer(ctx, timeout); !errors.Is(err, plex.ErrTimeout) {
					return fmt.Errorf("a caller who should have given up: %w", err)
				}
			}
			return nil
		}
	}
	start := gather()
	if err := errors.Join(
		s.measure("come", n, mux, func() error { return come(start) }),
		s.measure("failed", failures, mux, fail(time.Nanosecond)),
		s.measure("refused", failures, mux, fail(-1)),
		s.measure("served", n, mux, func() error {
			err := held.Close()
			callers.Wait()
			return err
		}),
	); err != nil {
		return err
	}
	if held, err = mux.Writer(ctx, 0); err != nil {
		return err
	}
	if err := come(gather()); err != nil {
		return err
	}
	if err := s.measure("told", n, mux, func() error {
		err := mux.Close()
		callers.Wait()
		return err
	}); err != nil {
		return err
	}
	if told.Load() != int64(n) {
		return fmt.Errorf("%d of %d callers were told of Close", told.Load(), n)
	}
	return nil
}

// failures is how many callers give up beside those who wait.
const failures = 2_000
