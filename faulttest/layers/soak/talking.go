package main

// The side of a round that has messages.

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/layers"
	"go.atomizer.io/plex/faulttest/scaffold"
	"go.atomizer.io/plex/message"
)

type talking struct {
	side
	talker   *layers.Talker
	heard    *layers.Heard
	receiver *message.Receiver
	ctx      context.Context
	stop     context.CancelFunc
	loops    sync.WaitGroup
	ready    chan struct{} // closed when somebody listens
	left     int           // loops that were left; guarded by round.mu
}

// begin starts the loops.
func (t *talking) begin() {
	t.heard = &layers.Heard{Size: layers.Mixed}
	var err error
	if t.receiver, err = message.New(t.mux, layers.Framing.Split, message.WithMaxSize(layers.MaxSize)); err != nil {
		panic(err) // nothing in it depends on anything
	}
	t.ctx, t.stop = context.WithCancel(context.Background())
	if t.r.channel {
		t.loops.Go(t.channel)
	} else {
		for i := range t.r.loops {
			t.loops.Go(func() { t.loop(uint64(i)) })
		}
	}
	// Before anyone waits for messages, plex does not keep all that connections leave which have ended.
	t.r.Patient("the first loop", func() {
		for t.mux.Stats().WaitingReady == 0 {
			time.Sleep(100 * time.Microsecond)
		}
	})
	close(t.ready)
}

// loop ranges over messages; in a round whose loops are left, again and again.
func (t *talking) loop(i uint64) {
	rng := t.r.Rand(0x100+i, uint64(t.r.number))
	ear := t.heard.Ear()
	for {
		ctx, cancel, leave := t.ctx, func() {}, -1
		if t.r.leaves {
			switch rng.IntN(3) {
			case 0:
				leave = rng.IntN(5000)
			case 1:
				ctx, cancel = context.WithTimeout(t.ctx, time.Duration(rng.IntN(20_000))*time.Microsecond)
			}
		}
		var last error
		for m, err := range t.receiver.All(ctx) {
			last = err
			if ear.Take(m, err); leave == 0 {
				break
			}
			leave--
			if t.r.kills > 0 && err == nil && rng.IntN(50_000) == 0 {
				t.receiver.Kill(m.Conn)
			}
		}
		cancel()
		t.r.mu.Lock()
		t.left++
		t.r.mu.Unlock()
		if t.over(last) {
			return
		}
	}
}

// channel does the same through a channel, which is left only at the end.
func (t *talking) channel() {
	ear := t.heard.Ear()
	var last error
	for got := range t.receiver.Channel(t.ctx, 100) {
		last = got.Err
		ear.Take(got.Message, got.Err)
	}
	if last == nil {
		last = t.ctx.Err()
	}
	t.over(last)
}

// over reports whether the error that a loop has ended by is the end of the round.
func (t *talking) over(err error) bool {
	switch {
	case errors.Is(err, plex.ErrClosed):
		return true
	case t.ctx.Err() != nil:
		return true
	case err == nil, errors.Is(err, context.DeadlineExceeded), isOfOne(err): // left, or its ctx
		return false
	}
	t.r.fail(fmt.Errorf("a loop over messages has ended by %w", err))
	return true
}

// isOfOne reports whether an error is about one connection: the loop was left with it in hand.
func isOfOne(err error) bool {
	var (
		cut     *message.CutError
		tooLong *message.TooLongError
		split   *message.SplitError
	)
	return errors.As(err, &cut) || errors.As(err, &tooLong) || errors.As(err, &split)
}

// calm waits until all has come that has to come.
func (t *talking) calm() {
	t.talker.Quiet()
	// A consumer that kills a connection gives up what has come over it.
	kept := t.r.kills == 0
	strict := layers.Strict{Finished: kept, Live: true, Closed: kept && t.r.Lifetime == 0 && t.r.Scaling == 0}
	var n int
	var err error
	for end := time.Now().Add(scaffold.Starving); ; time.Sleep(5 * time.Millisecond) {
		if n, err = t.heard.Compare(t.talker, strict); err == nil || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		t.heard.Lost.Add(1)
		t.r.fail(fmt.Errorf("in the calm: %w", err))
	}
	t.r.sums.strict += uint64(n)
}
