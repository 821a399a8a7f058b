package proxy

// What shall happen to a connection, said beforehand: by a test that scripts it, or drawn from a seed.

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// Kind is a fault.
type Kind int

const (
	Nothing     Kind = iota
	Reset            // RST: both directions end at once, for both sides
	FIN              // the proxy closes; a reset follows if the client has sent what was not read
	HalfClose        // FIN in one direction, the other goes on
	Stall            // nothing passes in one direction for Step.For, or until Resume
	Delay            // each piece takes Step.For longer from here on, in one direction
	Slice            // pieces of Step.Size bytes from here on, in one direction
	AcceptClose      // accepted and closed at once
	AcceptReset      // accepted and reset at once
	Refuse           // the listener is closed for a while: connects are refused
	PauseAccept      // nothing is accepted for a while: connects wait in the backlog
	Restart          // all connections end and the listener is closed for a while
	kinds            // their number
)

func (k Kind) String() string {
	if k < 0 || k >= kinds {
		return fmt.Sprintf("Kind(%d)", int(k))
	}
	return [...]string{
		"nothing", "reset", "FIN", "half close", "stall", "delay", "slice", "accept and close", "accept and reset",
		"refuse", "pause accepting", "restart",
	}[k]
}

// Dir is the direction of bytes.
type Dir int

const (
	Down Dir = iota // from the server to the client
	Up              // from the client to the server
)

func (d Dir) String() string { return [...]string{"down", "up"}[d] }

// Step is one fault of one connection. It happens when After bytes have passed in direction Dir, or, if At is set, so
// long after the connection was accepted whatever has passed.
type Step struct {
	Dir   Dir
	After uint64
	At    time.Duration

	Do   Kind          // Reset, FIN, HalfClose, Stall, Delay or Slice
	For  time.Duration // of Stall (0: until Resume or the end) and Delay
	Size int           // of Slice
}

// Script is all that shall happen to one connection. The steps of each direction are in the order of After.
type Script struct {
	Accept Kind // AcceptClose, AcceptReset or Nothing
	Steps  []Step
}

// Rates are the chances of each fault, for each connection, from 0 to 1. They are looked at in the order in which they
// are declared; at most one ending (the first four) is drawn, and any of the others beside it.
type Rates struct {
	AcceptClose, AcceptReset, Reset, FIN, HalfClose float64
	Stall, Delay, Slice                             float64

	Bytes  uint64        // how many bytes pass before a fault, on average; 0: it happens at a time
	Life   time.Duration // how long a connection lives before a fault that happens at a time, on average
	Timed  float64       // the share of endings that happen at a time, also if Bytes is set
	Longer time.Duration // the most that a stall or a delay takes
}

// Random draws the script of connection k. It depends on the seed and on k, and on nothing else.
func Random(seed uint64, r Rates) func(k int) Script {
	return func(k int) Script {
		rng := rand.New(rand.NewPCG(seed, uint64(k)))
		dir := func() Dir { return Dir(rng.IntN(2)) }
		after := func() uint64 { return uint64(rng.ExpFloat64() * float64(r.Bytes)) }
		atMost := func(d time.Duration) time.Duration { return 1 + time.Duration(rng.Float64()*float64(d)) }

		var s Script
		ending, chance := Nothing, rng.Float64()
		for _, e := range []struct {
			kind Kind
			rate float64
		}{
			{AcceptClose, r.AcceptClose},
			{AcceptReset, r.AcceptReset},
			{Reset, r.Reset},
			{FIN, r.FIN},
			{HalfClose, r.HalfClose},
		} {
			if chance < e.rate {
				ending = e.kind
				break
			}
			chance -= e.rate
		}
		if ending == AcceptClose || ending == AcceptReset {
			s.Accept = ending
			return s
		}
		for _, e := range []struct {
			kind Kind
			rate float64
		}{{Stall, r.Stall}, {Delay, r.Delay}, {Slice, r.Slice}} {
			if rng.Float64() >= e.rate {
				continue
			}
			s.add(Step{Do: e.kind, Dir: dir(), After: after(), For: atMost(r.Longer), Size: 1 + rng.IntN(16)})
		}
		if ending != Nothing {
			step := Step{Do: ending, Dir: dir(), After: after()}
			if r.Bytes == 0 || rng.Float64() < r.Timed {
				step.At = 1 + time.Duration(rng.ExpFloat64()*float64(r.Life))
			}
			s.add(step)
		}
		return s
	}
}

// add keeps the steps in order.
func (s *Script) add(step Step) {
	i := len(s.Steps)
	for i > 0 && s.Steps[i-1].After > step.After {
		i--
	}
	s.Steps = append(s.Steps[:i], append([]Step{step}, s.Steps[i:]...)...)
}
