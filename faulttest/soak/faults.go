package main

// Which faults there are, and what draws them: the seed and a number, that of the connection at the proxy or that of the
// call of the connector, never a clock.

import (
	"time"

	"go.atomizer.io/plex/faulttest/proxy"
	"go.atomizer.io/plex/faulttest/scaffold"
)

// script is what the proxy does to connection k.
func (s *soak) script() func(k int) proxy.Script {
	perMB := 1 << 20 / s.Options.Faults
	random := proxy.Random(s.Seed, proxy.Rates{
		AcceptClose: 0.02, AcceptReset: 0.02, Reset: 0.5, FIN: 0.3, HalfClose: 0.15,
		Stall: 0.1, Delay: 0.02, Slice: 0.03,
		Bytes: uint64(max(1, perMB)), Longer: 5 * time.Millisecond,
	})
	return func(k int) proxy.Script {
		if s.mercy.Load() {
			return proxy.Script{}
		}
		s.listenerFault(k)
		return scaffold.Coarse(random(k))
	}
}

// listenerFault has something happen to the listener at every so many connections.
func (s *soak) listenerFault(k int) {
	rng := s.Rand(0x11, uint64(k))
	down := time.Duration(rng.IntN(20)) * time.Millisecond
	switch rng.IntN(3000) {
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
	connectorFaults
)

func (f connectorFault) String() string {
	return [...]string{
		"", "connector fails", "connector panics", "connector hangs", "connector attaches nothing", "connector attaches nil",
		"connector fails after attaching", "connector attaches twice", "connector attaches late",
	}[f]
}

// drawConnectorFault draws what call n of the connector does.
func (s *soak) drawConnectorFault(n uint64) connectorFault {
	rng := s.Rand(0x22, n)
	if s.mercy.Load() || rng.IntN(100) > 1 {
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
