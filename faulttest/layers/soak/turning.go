package main

// What a round whose replies come in order has beside other rounds with requests: sessions.

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/layers"
	"go.atomizer.io/plex/request"
)

// sessions has sessions until the round ends, one after the other.
func (a *asking) sessions(i uint64, end <-chan struct{}) {
	rng := a.r.Rand(0x20000+i, uint64(a.r.number))
	for !a.r.stopping.Load() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1+rng.IntN(100))*time.Millisecond)
		s, err := a.book.Client.Session(ctx)
		cancel()
		switch {
		case err == nil:
			a.session(rng, s)
		case errors.Is(err, request.ErrClosed), errors.Is(err, plex.ErrClosed):
			select {
			case <-end:
			default:
				a.r.fail(errEarly("a session", err))
			}
			return
		}
	}
}

// session makes requests that nobody else's may be among. Their callers give up, too. The connection goes back only if the
// last of them is answered, as what they stand for has been begun, and not been ended.
func (a *asking) session(rng *rand.Rand, s *request.Session[layers.Ask, layers.Answer]) {
	id, steps := a.ids.Add(1), 1+rng.IntN(5)
	for step := range steps {
		q, limit := a.draw(rng)
		q.Session, q.Step, q.Last = id, uint8(step), step == steps-1
		ctx, cancel := context.Background(), func() {}
		if limit > 0 {
			ctx, cancel = context.WithTimeout(ctx, limit)
		}
		o, err := a.book.DoIn(ctx, s, q)
		cancel()
		if o == layers.Otherwise {
			a.r.fail(errUnclear(err))
		}
		goOn := o == layers.Replied || o == layers.Written || !q.Last && o == layers.Canceled && rng.IntN(2) == 0
		if !goOn {
			a.broken.Add(1)
			_ = s.Kill() // an error says that it has ended already
			return
		}
	}
	if err := s.Close(); err == nil {
		a.whole.Add(1)
	} else {
		a.broken.Add(1)
	}
}
