package main

// What the soak prints: what is in the line of each second, and the table at the end.

import (
	"fmt"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/proxy"
	"go.atomizer.io/plex/faulttest/scaffold"
)

// proxyFaults are those of all proxies.
func (s *soak) proxyFaults() map[proxy.Kind]uint64 {
	all := make(map[proxy.Kind]uint64)
	for _, l := range s.lanes {
		for k, n := range l.proxy.Counts() {
			all[k] += n
		}
	}
	return all
}

// connectionFaults are those that end a connection.
func (s *soak) connectionFaults() (n uint64) {
	counts := s.proxyFaults()
	for _, k := range []proxy.Kind{proxy.Reset, proxy.FIN, proxy.HalfClose, proxy.AcceptClose, proxy.AcceptReset} {
		n += counts[k]
	}
	for _, k := range []foreignFault{saidBusy, transportPanics, transportEndsGoroutine} {
		n += s.sums.foreign[k].Load()
	}
	return n + s.sums.consumer[kill].Load()
}

// told is what a line of progress counts.
type told struct {
	at                       time.Time
	faults, verified, leases uint64
}

// progress says how far the soak is, and how fast it has been since the last call.
func (s *soak) progress() string {
	now := told{time.Now(), s.connectionFaults(), s.sums.verified.Load(), s.sums.leases.Load()}
	before, took := s.before, now.at.Sub(s.before.at).Seconds()
	s.before = now
	rate := func(n uint64) uint64 { return uint64(float64(n) / took) }
	var st plex.Stats
	for _, l := range s.lanes {
		one := l.stats.Load()
		st.Open += one.Open
		st.Capacity += one.Capacity
		st.Waiting += one.Waiting + one.WaitingReady
	}
	return fmt.Sprintf("faults %s (%s/s)  verified %s (%s/s)  leases %s/s  open %d/%d, waiting %d",
		scaffold.Grouped(now.faults), scaffold.Grouped(rate(now.faults-before.faults)),
		scaffold.Size(now.verified), scaffold.Size(rate(now.verified-before.verified)),
		scaffold.Grouped(rate(now.leases-before.leases)), st.Open, st.Capacity, st.Waiting)
}

// figures adds up, before the proxy is closed, which is no fault.
func (s *soak) figures() *scaffold.Figures {
	f := s.Figures(fmt.Sprintf(" -lanes %d -stops=%t", s.options.lanes, s.options.stops))
	f.Rate("connection faults", s.connectionFaults())
	f.Faults(s.proxyFaults())
	for k := connectorWell + 1; k < connectorFaults; k++ {
		f.Count("  "+k.String(), s.sums.connector[k].Load())
	}
	for k := range foreignFaults {
		f.Count("  "+k.String(), s.sums.foreign[k].Load())
	}
	for k := range consumerFaults {
		f.Count("  "+k.String(), s.sums.consumer[k].Load())
	}
	f.Count("retired for their age", s.sums.expired.Load())
	f.Count("retired as surplus", s.sums.scaledDown.Load())
	f.Count("retired because somebody asked for it, at most", s.sums.asked.Load())
	f.Count("renewals", s.sums.renewals.Load())
	f.Count("probes", s.sums.probes.Load())
	f.Count("whole connections leased", s.sums.wholes.Load())
	f.Count("  taken out of the pool", s.sums.detached.Load())
	f.Count("writers leased by name", s.sums.answers.Load())
	f.Count("ended in good order, and all had arrived", s.sums.graceful.Load())
	f.Count("pools", s.sums.pools.Load())
	f.Count("connections", s.sums.connections.Load())
	f.Rate("leases", s.sums.leases.Load())
	f.Bytes("bytes verified", s.sums.verified.Load())
	f.Row("slowest acquire", "%v", time.Duration(s.sums.slowest.Load()).Round(time.Microsecond))
	var atServer, peak int
	for _, l := range s.lanes {
		l.book.mu.Lock()
		peak = max(peak, l.book.peak)
		l.book.mu.Unlock()
		atServer = max(atServer, l.proxy.Peak())
	}
	f.Row("capacity of each pool", "%d", s.Capacity)
	f.Row("  most connections at the server", "%d", atServer)
	f.Row("  most open and being connected", "%d", peak)
	if atServer > s.Capacity {
		s.fail(nil, fmt.Errorf("capacity %d: %d connections at the server", s.Capacity, atServer))
	}
	return f
}

// damage adds what was wrong with bytes.
func (s *soak) damage(f *scaffold.Figures) {
	f.Count("bytes lost", s.sums.lost.Load())
	f.Count("bytes doubled", s.sums.doubled.Load())
	f.Count("bytes misplaced", s.sums.misplaced.Load())
	f.Count("bytes misdelivered", s.sums.misdelivered.Load())
	f.Count("bytes corrupt", s.sums.corrupt.Load())
}
