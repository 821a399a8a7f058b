package plex

// Probes: an idle connection is asked now and then whether it lives. A probe is a lease of the whole
// connection, so all that holds for a consumer holds for the user's function: it can be interrupted,
// leaves no deadline behind, and reaches nothing once its lease has ended.

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"time"

	"go.atomizer.io/plex/internal/caller"
)

const (
	// probeTicks is how often connections are looked at while one becomes due.
	probeTicks = 8

	// probeLease is how long a probe waits for a read half that plex itself has.
	probeLease = 100 * time.Millisecond
)

// probing is what WithProbe says.
type probing struct {
	idle, timeout time.Duration
	ask           func(ctx context.Context, conn net.Conn) error
}

// prober finds the connections that are due. It belongs to the supervisor's goroutine.
type prober struct {
	at   time.Time // of the next look
	seen map[*conn]sighting
}

// sighting is how often a connection had been leased when it was seen idle first.
type sighting struct {
	leases uint64
	since  time.Time
}

// look starts the probes that are due, spread over the time until the next look. Nobody notes the
// time of a lease. So a connection counts as idle from the first look on that finds it as the look
// before did, and is probed when that was three quarters of the time ago, or a little more.
func (p *prober) look(m *Multiplexer, now time.Time, next *time.Time) {
	if !m.cfg.probe.Given() {
		return
	}
	tick := max(min(m.cfg.probe.Get().idle, maxWait)/probeTicks, time.Millisecond)
	if now.Before(p.at) {
		sooner(next, p.at)
		return
	}
	p.at = now.Add(tick)
	sooner(next, p.at)
	seen := make(map[*conn]sighting, len(p.seen))
	for _, c := range m.roster.all() {
		s, known := p.seen[c]
		n := c.leases()
		switch {
		case !known || n != s.leases || (c.r.word() | c.w.word()).is(leaseLive):
			s = sighting{n, now}
		case now.Sub(s.since) >= (probeTicks-2)*tick:
			s = sighting{n + 2, now.Add(tick)}
			m.tasks.after(rand.N(tick), func() { c.probe(n) })
		}
		seen[c] = s
	}
	p.seen = seen
}

// probe asks a connection whether it lives, if it is still as idle as when it was leased so often,
// nobody expects anything of it, and nobody is about to get it.
func (c *conn) probe(leases uint64) {
	if c.leases() != leases || !c.isOpen() || c.r.promised() || c.w.promised() || c.r.word().is(dataLeft|connEnded) {
		return
	}
	m := c.m
	wid, ok := c.w.leaseNow(true)
	if !ok {
		return
	}
	rid, err := c.r.leaseNamed(m.ctx, probeLease, true)
	if err != nil {
		_ = c.w.close(wid)
		return
	}
	d := Duplex{&c.r, &c.w, rid, wid}
	defer func() { _ = d.Close() }()
	if c.r.word().is(dataLeft | connEnded) {
		return // something has come meanwhile, for somebody else
	}
	began := time.Now()
	err = c.ask(d)
	m.mu.Lock()
	m.stats.Probed++
	m.news.probed(c, time.Since(began), err)
	m.mu.Unlock()
	if err != nil {
		c.fail(err)
	}
}

// ErrProbe is matched by the cause of a connection that was lost because its probe has failed.
var ErrProbe = errors.New("plex: the probe has failed")

// ask has the user's function ask a connection. It returns why the connection must be lost, nil if
// it lives.
func (c *conn) ask(d Duplex) error {
	p := c.m.cfg.probe.Get()
	ctx, cancel := context.WithTimeout(c.m.ctx, min(p.timeout, maxWait))
	defer cancel()
	_ = d.SetDeadline(time.Now().Add(min(p.timeout, maxWait))) // a transport that refuses has ctx and the patience below
	result := make(chan error, 1)
	c.m.tasks.startForeign(foreignTask, func() {
		result <- caller.Apart("the function given to WithProbe", func() error { return p.ask(ctx, d) })
	})
	late := time.NewTimer(min(p.timeout, maxWait) + connectGrace)
	defer late.Stop()
	var err error
	select {
	case err = <-result:
	case <-late.C:
		err = context.DeadlineExceeded // the function goes on, with a connection that is lost
	}
	switch {
	case err == nil, c.m.ctx.Err() != nil: // or the multiplexer ends, which says nothing about the connection
		return nil
	case ctx.Err() != nil, errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%w: no answer in %v: %w", ErrProbe, p.timeout, err)
	}
	return fmt.Errorf("%w: %w", ErrProbe, err)
}
