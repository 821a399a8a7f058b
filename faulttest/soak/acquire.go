package main

// Consumers: how they get their leases and how they let go of them. What they do with them is in read.go and write.go.

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/scaffold"
)

// consumer is one goroutine that uses the pool.
type consumer struct {
	s    *lane
	pool *plex.Multiplexer
	rng  *rand.Rand
	buf  []byte

	p *setup
}

func (s *lane) newConsumer(m *plex.Multiplexer, p *setup, number int) *consumer {
	return &consumer{
		s: s, pool: m, rng: s.Rand(0x55, uint64(p.number)<<32|uint64(number)),
		buf: make([]byte, 256<<10), p: p,
	}
}

// leases calls one, which takes and ends a lease and reports whether there are more, until there are none. A transport
// may end the goroutine that uses the lease.
func (c *consumer) leases(one func() bool) {
	for more := true; more; {
		for c.s.idle.Load() && c.s.consuming() {
			time.Sleep(time.Millisecond)
		}
		if c.p.life == mildLife && c.chance(2) {
			time.Sleep(c.moment(2 * time.Millisecond))
		}
		if !c.p.crashes {
			more = one()
			continue
		}
		more = true // also if one does not return
		done := make(chan struct{})
		go func() {
			defer close(done)
			more = one()
		}()
		<-done
	}
}

// callback wants to be told of the end of a connection, now and then.
func (c *consumer) callback(conn plex.Conn) {
	if !c.p.callbacks || !c.chance(20) {
		return
	}
	s, bad, seed := c.s, c.chance(10), c.rng.Uint64()
	s.callbacks.Add(1)
	var called atomic.Bool
	conn.AfterEnd(func(cause error) {
		if cause == nil || called.Swap(true) {
			s.fail(nil, fmt.Errorf("a callback of AfterEnd was called again, or without a cause: %v", cause))
			return
		}
		s.callbacks.Add(-1)
		if bad {
			s.sums.foreign[callbackCrashes].Add(1)
			crash(rand.New(rand.NewPCG(seed, 0)))
		}
	})
}

// briefly is the way of using a lease for one short operation.
const briefly = -1

// killing reports whether the consumer kills the connection at the end of a lease.
func (c *consumer) killing() bool {
	if c.p.kills {
		return c.chance(20)
	}
	return c.chance(500)
}

// chance is true one time in n.
func (c *consumer) chance(n int) bool { return c.rng.IntN(n) == 0 }

// moment is a random time of up to d.
func (c *consumer) moment(d time.Duration) time.Duration {
	return time.Duration(c.rng.Int64N(int64(d)))
}

// acquire gets a lease by one way or another, nil if the pool is closed.
func acquire[L any](c *consumer, half string, take func(context.Context, time.Duration) (L, error)) (lease L, ok bool) {
	for c.s.consuming() {
		ctx, timeout := context.Background(), scaffold.Starving
		cancel := func() {}
		var mode string
		switch c.rng.IntN(8) {
		case 0:
			mode, timeout = "try", -1
		case 1:
			mode, timeout = "timeout", 1+c.moment(2*time.Millisecond)
		case 2:
			mode = "cancel"
			var end context.CancelFunc
			ctx, end = context.WithCancel(ctx)
			t := time.AfterFunc(c.moment(200*time.Microsecond), end)
			cancel = func() { t.Stop(); end() }
		case 3:
			if c.chance(20) {
				mode = "cancel"
				var end context.CancelFunc
				ctx, end = context.WithCancel(ctx)
				end()
			}
		}
		start := time.Now()
		l, err := take(ctx, timeout)
		waited := time.Since(start)
		cancel()
		if err == nil {
			c.s.sums.leases.Add(1)
			raise(&c.s.sums.slowest, int64(waited))
			return l, true
		}
		var e *plex.AcquireError
		switch {
		case !errors.As(err, &e) || e.Half != half:
			c.s.fail(nil, fmt.Errorf("an acquire failed with %T %w, which is no AcquireError for a %s", err, err, half))
		case errors.Is(e.Err, plex.ErrClosed):
			return lease, false
		case mode == "try" && errors.Is(e.Err, plex.ErrTimeout):
			runtime.Gosched()
		case mode == "timeout" && errors.Is(e.Err, plex.ErrTimeout):
		case mode == "cancel" && errors.Is(e.Err, context.Canceled):
			c.s.sums.consumer[cancelWait].Add(1)
		case errors.Is(e.Err, plex.ErrTimeout):
			c.s.fail(nil, fmt.Errorf("nobody was served for %v: %w", scaffold.Starving, err))
		default:
			c.s.fail(nil, fmt.Errorf("an acquire (%s) failed with %w", mode, err))
		}
	}
	return lease, false
}

// begin enters a lease into the link's account.
func (sd *side) begin(s *lane, l *link, half string) {
	if !sd.leased.CompareAndSwap(false, true) {
		s.fail(l, fmt.Errorf("two leases on the %s half", half))
	}
	sd.turn.Lock()
	if sd.torn.Load() {
		s.fail(l, errors.New("leased again after a write that was cut short"))
	}
}

// endLease ends a lease by how, which must return, unless the transport ends the goroutine.
func (s *soak) endLease(l *link, what string, how func() error) (err error) {
	returned := false
	defer func() {
		if !returned && !l.quirks.ended() {
			s.fail(l, fmt.Errorf("the end of a lease, %s, has not returned: %v", what, recover()))
		}
	}()
	err = how()
	returned = true
	return err
}

// fatal is told of an error that is not a consumer's doing. Both halves have to report the first.
func (s *lane) fatal(l *link, err error) {
	if !l.cause.CompareAndSwap(nil, &err) {
		if first := *l.cause.Load(); first.Error() != err.Error() {
			s.fail(l, fmt.Errorf("its first cause was %q and is now %q", first, err))
		}
	}
}

// inert checks that a lease that has ended cannot do anything.
func (c *consumer) inert(l *link, what string, err error) {
	if !errors.Is(err, plex.ErrLeaseClosed) {
		c.s.fail(l, fmt.Errorf("%s on a lease that has ended: %v", what, err))
	}
}
