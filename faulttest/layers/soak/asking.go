package main

// The side of a round that has requests.

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex/faulttest/check"
	"go.atomizer.io/plex/faulttest/layers"
	"go.atomizer.io/plex/faulttest/scaffold"
	"go.atomizer.io/plex/message"
	"go.atomizer.io/plex/request"
)

type asking struct {
	side
	executor *layers.Executor
	book     *layers.Asked
	callers  sync.WaitGroup

	ids           atomic.Uint64 // of sessions
	whole, broken atomic.Uint64 // sessions that were given back, and not
}

// begin starts the callers.
func (a *asking) begin(end <-chan struct{}) {
	opts := []request.Option{
		request.WithUnsolicited(func(message.Message) {}), request.WithWriteBuffer(a.r.buffer),
	}
	if a.r.timeout > 0 {
		opts = append(opts, request.WithWriteTimeout(a.r.timeout))
	}
	if a.r.ids > 0 && !a.r.ordered {
		opts = append(opts, request.WithIDs(a.r.ids))
	}
	if a.r.inFlight > 0 {
		opts = append(opts, request.WithInFlight(a.r.inFlight))
	}
	open := layers.NewAsked
	if a.r.ordered {
		open = layers.NewTurns
		opts = append(opts, request.WithDepth(a.r.depth))
	}
	book, err := open(a.mux, opts...)
	if err != nil {
		panic(err) // nothing in it depends on anything
	}
	a.r.mu.Lock()
	a.book = book
	a.r.mu.Unlock()
	for i := range a.r.callers {
		a.callers.Go(func() { a.caller(uint64(i), end) })
	}
	if a.r.ordered {
		for i := range 1 + a.r.callers/50 {
			a.callers.Go(func() { a.sessions(uint64(i), end) })
		}
	}
}

// asked is the book, nil before there is one.
func (a *asking) asked() *layers.Asked {
	a.r.mu.Lock()
	defer a.r.mu.Unlock()
	return a.book
}

// caller asks until the round ends.
func (a *asking) caller(i uint64, end <-chan struct{}) {
	rng := a.r.Rand(0x10000+i, uint64(a.r.number))
	for !a.r.stopping.Load() {
		q, limit := a.draw(rng)
		ctx, cancel := context.Background(), func() {}
		if limit > 0 {
			ctx, cancel = context.WithTimeout(ctx, limit)
		}
		o, err := a.book.Do(ctx, q)
		cancel()
		switch o {
		case layers.Shut:
			select {
			case <-end:
			default:
				a.r.fail(errEarly("a request", err))
			}
			return
		case layers.Otherwise:
			a.r.fail(errUnclear(err))
			return
		}
	}
}

func errEarly(what string, err error) error {
	return fmt.Errorf("%s has ended by %w before the end", what, err)
}

func errUnclear(err error) error {
	return fmt.Errorf("a request has ended by an error that says neither what went wrong nor where: %w", err)
}

// draw draws a request and how long its caller waits; 0: to the end.
func (a *asking) draw(rng *rand.Rand) (q layers.Ask, limit time.Duration) {
	q = layers.Ask{Size: rng.IntN(100), ReplySize: rng.IntN(100)}
	few, ordered := a.r.ids > 0, a.r.ordered
	if ordered {
		q.Size++ // so that no request is the zero value, which stands for none
	}
	switch n := rng.IntN(1000); {
	case n < 700:
	case n < 900:
		q.Manner, q.Delay = layers.Later, time.Duration(rng.IntN(3000))*time.Microsecond
		if ordered && rng.IntN(20) > 0 {
			q.Manner = layers.AtOnce // as it holds up all behind it
		}
	case n < 940:
		q.Manner, q.Delay = layers.Later, time.Duration(rng.IntN(3000))*time.Microsecond
		limit = time.Duration(rng.IntN(3000)) * time.Microsecond
	case n < 960:
		limit = time.Duration(rng.IntN(1000)) * time.Microsecond
	case n < 980 && ordered:
		q.Manner = layers.Unanswered
	case n < 970 && !few: // a server that answers twice lies to who has the identifier by then
		q.Manner = layers.Twice
	case n < 980 && !few:
		q.Manner = layers.BesideUnknown
	case n < 990:
		q.Manner = layers.BesideEvent
	case n < 992 && !ordered && (!few || rng.IntN(20) == 0): // it holds its identifier until the connection ends
		q.Manner, limit = layers.Never, time.Duration(1+rng.IntN(3000))*time.Microsecond
	case n < 993:
		q.Size = -1
	case n < 995:
		q.Size, q.ReplySize = 60_000, 60_000
	}
	if q.Size < 0 {
		return q, limit
	}
	switch rng.IntN(20_000) {
	case 0:
		q.Manner = layers.Malformed
	case 1:
		q.Manner = layers.Oversized
	case 2:
		q.Manner = layers.Unsplit
	case 3:
		q.Manner = layers.WithReset
	case 4:
		q.Manner = layers.WithFIN
	case 5, 6:
		q.Manner = layers.MidReset
	case 7, 8:
		q.Manner, q.Delay = layers.MidStall, time.Duration(rng.IntN(30))*time.Millisecond
	case 9:
		if ordered {
			q.Manner = layers.BesideExtra
		}
	}
	return q, limit
}

// calm checks, when the faults have stopped and nobody asks, that everyone who asks now is answered, and that nothing
// is in flight.
func (a *asking) calm() {
	if s := a.book.Client.Stats(); s.InFlight+s.Waiting != 0 {
		a.r.fail(fmt.Errorf("nobody asks, and there are requests in flight: %+v", s))
	}
	// Connections from before the calm may still end by what their scripts say.
	ctx, cancel := context.WithTimeout(context.Background(), scaffold.Starving)
	defer cancel()
	var all sync.WaitGroup
	for range a.r.Capacity {
		all.Go(func() {
			for ctx.Err() == nil {
				if o, _ := a.book.Do(ctx, layers.Ask{ReplySize: 10}); o == layers.Replied {
					return
				}
			}
			a.r.fail(fmt.Errorf("in the calm nobody answers: %+v", a.book.Client.Stats()))
		})
	}
	a.r.Patient("a caller in the calm", all.Wait)
	if a.r.Minimum > 0 && a.r.Lifetime == 0 { // one that is too old, and pinned, is not written to any more
		a.r.check("in the calm", check.LiveWriters(context.Background(), a.mux, a.r.Minimum, scaffold.Starving))
	}
}
