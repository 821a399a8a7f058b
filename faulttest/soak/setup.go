package main

// How the pools are set up: differently, one after the other.

import (
	"fmt"
	"strings"
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
	kind    transportKind
	life    lifeKind
	ready   bool // the readers ask for connections that have something to deliver
	end     ending

	greets     bool // the server greets and says nothing more, and nobody reads
	handshake  bool // the connector reads how the stream begins
	kills      bool // consumers kill many connections
	slowClose  bool // some transports take long to close
	noClose    bool // and some never do
	crashes    bool // transports panic and end goroutines
	callbacks  bool // consumers want to be told of the ends, by functions that panic and end goroutines
	badBackoff bool // so does the function for the pauses
	logs       bool // and the log handler

	wholes   int  // callers of Duplex
	answers  bool // readers write where their bytes came from
	operated bool // connections are retired, renewed and pinned
	probed   bool // idle connections are asked whether they live

	addresses int // of the service, of which some come and go; 0: it has one, and no resolver
}

// transportKind is what the connections are.
type transportKind int

const (
	overTCP transportKind = iota
	overTLS
	overForeign // without a socket that could be seen, and with a timeout of its own
	transportKinds
)

func (k transportKind) String() string { return [...]string{"TCP", "TLS", "foreign streams"}[k] }

// lifeKind is how connections live.
type lifeKind int

const (
	// harshLife is short: they fail soon, or at once, so that the pool thinks badly of the service and has few at a time.
	harshLife lifeKind = iota
	// usefulLife is that of many short leases, after which they fail. The pool replaces them at once and is mostly whole.
	usefulLife
	// mildLife ends in good order: they become too old, and surplus.
	mildLife
	lifeKinds
)

func (k lifeKind) String() string { return [...]string{"harsh", "useful", "mild"}[k] }

// lives are those of the pools of one round, if there are so many lanes.
var lives = [...]lifeKind{harshLife, usefulLife, harshLife, mildLife}

// faults is how many faults there are per MB, for a pool of the kind.
func (k lifeKind) faults(all float64) float64 {
	return all * [...]float64{1, 0.1, 0.001}[k]
}

// spared is how many bytes pass without a fault.
func (k lifeKind) spared() uint64 { return [...]uint64{0, 256 << 10, 1 << 20}[k] }

// rare says how rare it is that a connection, or a connect, fails at once, compared with a harsh life.
func (k lifeKind) rare() int { return [...]int{1, 40, 400}[k] }

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
	kind := "readers"
	if p.ready {
		kind = "ready readers"
	}
	var text strings.Builder
	fmt.Fprintf(&text, "pool %d, %v, %v, %v: capacity %d, minimum %d, %d %s, %d writers, "+
		"scaling %v, idle %v, lifetime %v, leaks %v, pause %v",
		p.number, p.kind, p.life, p.length, p.Capacity, p.Minimum, p.readers, kind, p.writers,
		p.Scaling, p.Idle, p.Lifetime, p.leaks, p.Pause)
	for _, special := range []struct {
		is   bool
		what string
	}{
		{p.greets, "the server only greets"},
		{p.handshake, "handshakes"},
		{p.kills, "many kills"},
		{p.slowClose, "slow closes"},
		{p.noClose, "endless closes"},
		{p.crashes, "transports that crash"},
		{p.callbacks, "callbacks"},
		{p.badBackoff, "a backoff that crashes"},
		{p.logs, "a log handler that crashes"},
		{p.answers, "answers"},
		{p.operated, "operators"},
		{p.probed, "probes"},
	} {
		if special.is {
			text.WriteString(", " + special.what)
		}
	}
	if p.wholes > 0 {
		fmt.Fprintf(&text, ", %d callers of Duplex", p.wholes)
	}
	if p.addresses > 0 {
		fmt.Fprintf(&text, ", %d addresses", p.addresses)
	}
	return fmt.Sprintf("%v; %v", &text, p.end)
}

// short reports whether leases are short.
func (k lifeKind) short() bool { return k != harshLife }

// drawSetup draws how pool n of the lane is set up.
func (s *lane) drawSetup(n int) setup {
	rng := s.Rand(0x44, uint64(n))
	oneIn := func(n int) bool { return rng.IntN(n) == 0 }
	p := setup{number: n, end: ending(rng.IntN(int(endings)))}
	p.life = lives[(n+s.number)%len(lives)]
	p.Capacity, p.ConnectTimeout, p.Pauses = s.Capacity, 50*time.Millisecond, 10
	p.Minimum = p.Capacity
	if (n+s.number)%4 == 1 && p.Capacity > 1 {
		p.Scaling, p.Idle = time.Duration(1+rng.IntN(5))*time.Millisecond, 100*time.Millisecond
		p.Minimum = rng.IntN(p.Capacity)
	}
	if p.life == mildLife || oneIn(3) {
		p.Lifetime = time.Duration(50+rng.IntN(450)) * time.Millisecond
	}
	if oneIn(4) {
		p.leaks = time.Minute
	}
	if oneIn(4) {
		p.Pause = time.Millisecond
	}
	switch rng.IntN(8) {
	case 0:
		p.kind = overTLS
	case 1:
		p.kind = overForeign
	case 2:
		if p.life != harshLife { // a handshake costs as much as a hundred dials
			p.kind = overTLS
		}
	}
	p.ready = rng.IntN(5) < 2
	p.readers = p.Capacity + rng.IntN(p.Capacity+1)
	p.writers = p.Capacity + rng.IntN(p.Capacity+1)
	if p.greets = p.life == mildLife && oneIn(3); p.greets {
		p.readers, p.ready = 0, false
	}
	if p.life == mildLife { // so that both halves of a connection are idle at times
		p.readers /= 2
		p.writers /= 2
	}
	p.handshake = !p.greets && oneIn(4)
	p.kills = oneIn(6)
	p.slowClose, p.noClose = oneIn(3), oneIn(24)
	p.crashes, p.callbacks, p.badBackoff, p.logs = oneIn(3), oneIn(2), oneIn(3), oneIn(2)
	if oneIn(3) {
		p.addresses = 1 + rng.IntN(5)
	}
	if oneIn(2) {
		p.wholes = 1 + rng.IntN(p.Capacity)
	}
	p.answers, p.operated, p.probed = oneIn(2), oneIn(3), oneIn(2)
	return p
}
