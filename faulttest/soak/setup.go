package main

// How the pools are set up: differently, one after the other.

import (
	"fmt"
	"time"

	"go.atomizer.io/plex/faulttest/scaffold"
)

// setup is one pool's.
type setup struct {
	scaffold.Pool
	number  int
	length  time.Duration
	readers int
	writers int
	leaks   time.Duration
	tls     bool
	ready   bool // the readers ask for connections that have something to deliver
	end     ending
}

type ending int

const (
	endClose ending = iota
	endShutdown
	endContext
	endCalm
	endings
)

func (e ending) String() string {
	return [...]string{"closed under load", "shut down under load", "context ended under load", "closed when calm"}[e]
}

func (p setup) String() string {
	protocol := "TCP"
	if p.tls {
		protocol = "TLS"
	}
	kind := "readers"
	if p.ready {
		kind = "ready readers"
	}
	return fmt.Sprintf("pool %d, %s, %v: capacity %d, minimum %d, %d %s, %d writers, "+
		"scaling %v, idle %v, lifetime %v, leaks %v, pause %v; %v",
		p.number, protocol, p.length, p.Capacity, p.Minimum, p.readers, kind, p.writers,
		p.Scaling, p.Idle, p.Lifetime, p.leaks, p.Pause, p.end)
}

// drawSetup draws how pool n is set up.
func (s *soak) drawSetup(n int) setup {
	rng := s.Rand(0x44, uint64(n))
	p := setup{number: n, end: ending(rng.IntN(int(endings)))}
	p.Capacity, p.ConnectTimeout, p.Pauses = s.Capacity, 50*time.Millisecond, 10
	p.length = []time.Duration{2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second}[rng.IntN(4)]
	if s.Each > 0 {
		p.length = s.Each
	}
	p.Minimum = p.Capacity
	if n%3 == 1 && p.Capacity > 1 {
		p.Scaling, p.Idle = time.Duration(1+rng.IntN(5))*time.Millisecond, 200*time.Millisecond
		p.Minimum = rng.IntN(p.Capacity)
	}
	if rng.IntN(3) == 0 {
		p.Lifetime = 500 * time.Millisecond
	}
	if rng.IntN(4) == 0 {
		p.leaks = time.Minute
	}
	if rng.IntN(4) == 0 {
		p.Pause = time.Millisecond
	}
	p.tls = n%4 == 2
	p.ready = n%5 == 1 || n%5 == 3
	p.readers = p.Capacity + rng.IntN(p.Capacity+1)
	p.writers = p.Capacity + rng.IntN(p.Capacity+1)
	return p
}
