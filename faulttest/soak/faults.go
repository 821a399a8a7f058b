package main

// Which faults there are, and what draws them: the seed and a number, that of the connection at the proxy or that of the
// call of the connector, never a clock.

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"time"

	"go.atomizer.io/plex/faulttest/proxy"
	"go.atomizer.io/plex/faulttest/scaffold"
)

// script is what the proxy does to connection k.
func (s *lane) script() func(k int) proxy.Script {
	seed := s.Rand(0, 0).Uint64()
	random := make(map[lifeKind]func(k int) proxy.Script)
	for life := range lifeKinds {
		perMB, rare := 1<<20/life.faults(s.Faults), float64(life.rare())
		random[life] = proxy.Random(seed, proxy.Rates{
			AcceptClose: 0.02 / rare, AcceptReset: 0.02 / rare, Reset: 0.5, FIN: 0.3, HalfClose: 0.15,
			Stall: 0.1, Delay: 0.02, Slice: 0.03,
			Bytes: uint64(max(1, perMB)), Longer: 5 * time.Millisecond,
		})
	}
	return func(k int) proxy.Script {
		if s.mercy.Load() {
			return proxy.Script{}
		}
		s.listenerFault(k)
		life := s.present.Load().life
		script := scaffold.Coarse(random[life](k))
		for i := range script.Steps {
			script.Steps[i].After += life.spared()
		}
		return script
	}
}

// listenerFault has something happen to the listener at every so many connections.
func (s *lane) listenerFault(k int) {
	rng := s.Rand(0x11, uint64(k))
	down := time.Duration(rng.IntN(20)) * time.Millisecond
	switch rng.IntN(5000) {
	case 0, 1:
		s.beside.Refuse(s.proxy, down)
	case 2, 3:
		s.beside.Pause(s.proxy, rng.IntN(2)-1, down) // with the shortest backlog, or the one that there is
	case 4:
		s.beside.Restart(s.proxy, down, rng.IntN(2) == 0)
	}
}

// connectorFault is what a call of the connector does wrong.
type connectorFault int

const (
	connectorWell connectorFault = iota
	connectorFails
	connectorPanics
	connectorHangs
	connectorAttachesNothing
	connectorAttachesNil
	connectorAttachesAndFails
	connectorAttachesTwice
	connectorAttachesLate
	connectorEndsGoroutine
	connectorIsToldBusy
	connectorFaults
)

func (f connectorFault) String() string {
	return [...]string{
		"", "connector fails", "connector panics", "connector hangs", "connector attaches nothing", "connector attaches nil",
		"connector fails after attaching", "connector attaches twice", "connector attaches late",
		"connector ends its goroutine", "connector is told that the service is busy",
	}[f]
}

// drawConnectorFault draws what call n of the connector does.
func (s *lane) drawConnectorFault(n uint64) connectorFault {
	rng := s.Rand(0x22, n)
	if s.mercy.Load() || rng.IntN(100*s.present.Load().life.rare()) > 1 {
		return connectorWell
	}
	return connectorWell + 1 + connectorFault(rng.IntN(int(connectorFaults)-1))
}

// consumerFault is what a consumer does to a connection, or to the pool.
type consumerFault int

const (
	kill consumerFault = iota
	cancelWait
	cancelStream
	pastDeadline
	closeInUse
	staleHandle
	closeUnderLoad
	shutdownUnderLoad
	contextUnderLoad
	consumerFaults
)

func (f consumerFault) String() string {
	return [...]string{
		"connection killed", "wait cancelled", "stream cancelled", "deadline missed", "lease closed in use",
		"stale handle used", "pool closed under load", "pool shut down under load", "pool's context ended under load",
	}[f]
}

// foreignFault is what the server, transports without a kernel and functions of the user's do.
type foreignFault int

const (
	saidBusy foreignFault = iota
	greeted
	ownTimeout
	slowClosing
	endlessClosing
	transportPanics
	transportEndsGoroutine
	callbackCrashes
	backoffCrashes
	logHandlerCrashes
	processStopped
	resolverFails
	addressGone
	addressDown
	probeFails
	foreignFaults
)

func (f foreignFault) String() string {
	return [...]string{
		"server says that it is busy, and hangs up", "server greets, and nobody reads that", "timeout of a transport's own",
		"Close takes long", "Close never returns", "transport panics", "transport ends the goroutine",
		"callback panics or ends its goroutine", "backoff panics, ends its goroutine or hangs",
		"log handler panics or ends its goroutine", "process stopped",
		"resolver fails, hangs, finds nothing or crashes", "address leaves the list", "address goes down", "probe fails, panics or hangs",
	}[f]
}

// crash panics or ends the goroutine.
func crash(rng *rand.Rand) {
	if rng.IntN(2) == 0 {
		panic(errCrash)
	}
	runtime.Goexit()
}

var errCrash = errors.New("foreign code crashes")
