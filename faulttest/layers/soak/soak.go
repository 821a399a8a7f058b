package main

// The run: one round after the other, and the sums.

import (
	"context"
	"fmt"
	"io"
	"sync"

	"go.atomizer.io/plex/faulttest/layers"
	"go.atomizer.io/plex/faulttest/proxy"
	"go.atomizer.io/plex/faulttest/scaffold"
)

type soak struct {
	*scaffold.Run
	callers int
	sums    sums
	before  told // at the last line of progress

	mu      sync.Mutex
	present *round
}

// sums are the figures of the rounds that are over.
type sums struct {
	rounds, connections                          uint64
	requests, executed                           uint64
	outcomes                                     [layers.Outcomes]uint64
	late, unknown, unsolicited, malformed        uint64
	messages, bytes, cut, tooLong, split         uint64
	lost, doubled, disordered, glued             uint64
	mispaired                                    uint64
	strict                                       uint64 // connections of which everything had to come
	pending                                      uint64 // entries left
	faults                                       map[proxy.Kind]uint64
	killed, expired, scaledUp, scaledDown, lefts uint64

	orderedRounds, ordered, sent, writes uint64
	halves, stalls                       uint64 // batches of requests of which a part was taken
	sessions, sessionsBroken             uint64
	outcomesAt                           [layers.Outcomes][layers.Places]uint64 // of the requests executed

	fates                                                     [layers.Fates]uint64
	fatesAt                                                   [layers.Fates][layers.Places]uint64 // of those that have come
	arrived, tapped, senderWrites, senderHalves, senderStalls uint64
	shippedStrict, shippedLost                                uint64
}

func newSoak(o options, out io.Writer) (*soak, error) {
	r, err := scaffold.New(o.Options, out)
	if err != nil {
		return nil, err
	}
	s := &soak{Run: r, callers: o.callers}
	s.sums.faults = make(map[proxy.Kind]uint64)
	s.Tell = func() string {
		if r := s.now(); r != nil {
			return r.history()
		}
		return ""
	}
	return s, nil
}

// run is a whole soak. The error is for what has nothing to do with the layers.
func run(ctx context.Context, o options, out io.Writer) (*scaffold.Figures, error) {
	s, err := newSoak(o, out)
	if err != nil {
		return nil, err
	}
	if err := s.Rounds(ctx, s.progress, s.round); err != nil {
		return nil, err
	}
	f := s.figures()
	s.Left(f)
	return s.Verdict(f), nil
}

// now is the round that runs, nil between two.
func (s *soak) now() *round {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.present
}

func (s *soak) setNow(r *round) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.present = r
}

// fail notes a violation in the round, and ends the run.
func (r *round) fail(err error) { r.Fail(err, r.history) }

// check is fail for an error that may be nil.
func (r *round) check(what string, err error) {
	if err != nil {
		r.fail(fmt.Errorf("%s: %w", what, err))
	}
}
