package model

// Probes: plex asks an idle connection whether it lives. How the answer turns out is up to an action.

import (
	"context"
	"errors"
	"net"
	"slices"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"pgregory.net/rapid"
)

const (
	probeIdle    = 2 * time.Second
	probeTimeout = 500 * time.Millisecond
	probeLate    = 250 * time.Millisecond // for so much longer plex waits for a function that does not heed its ctx
)

// probe is a call of the function given to WithProbe. It has the connection for itself.
type probe struct {
	addr    string
	conn    *conn // that it asks; nil until the model has noticed
	began   time.Time
	heeds   bool // its ctx
	lease   *lease
	outcome chan error
	fate    probeFate // guarded by machine.mu
}

type probeFate struct {
	over bool
	err  error
	got  []byte // that it has read

	crashed bool
}

var (
	errProbed      = errors.New("it does not live")
	errProbeReads  = errors.New("read first")
	errProbePanics = errors.New("panic")
)

// probe is that function. It may have to read, and believes every answer.
func (m *machine) probe(ctx context.Context, nc net.Conn) (err error) {
	p := &probe{addr: nc.RemoteAddr().String(), began: time.Now(), outcome: make(chan error)}
	m.mu.Lock()
	m.asked = append(m.asked, p)
	p.heeds = len(m.asked)%2 == 0
	m.mu.Unlock()
	var f probeFate
	returned := false
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		f.over, f.err, f.crashed = true, err, !returned
		p.fate = f
	}()
	if m.pass.Load() {
		returned = true
		return nil
	}
	done := ctx.Done()
	if !p.heeds {
		done = nil
	}
	select {
	case err = <-p.outcome:
	case <-done:
		err = ctx.Err()
	case <-m.quit:
		err = errProbed
	}
	switch err {
	case errProbeReads:
		buf := make([]byte, 10)
		var n int
		n, err = nc.Read(buf)
		f.got = buf[:n]
	case errProbePanics:
		panic("in a probe")
	}
	returned = true
	return err
}

// learnProbes takes note of probes that have begun and of those that are over.
func (m *machine) learnProbes() {
	m.mu.Lock()
	asked, fates := slices.Clone(m.asked), make(map[*probe]probeFate)
	for _, p := range asked {
		fates[p] = p.fate
	}
	m.mu.Unlock()
	m.endProbes(fates)
	for _, p := range asked[m.seenProbes:] { // there may have been several of one connection
		m.probeBegan(p)
		m.endProbes(fates)
	}
	m.seenProbes = len(asked)
}

func (m *machine) endProbes(fates map[*probe]probeFate) {
	m.probes = slices.DeleteFunc(m.probes, func(p *probe) bool {
		f := fates[p]
		late := !time.Now().Before(p.began.Add(probeTimeout + probeLate))
		if f.over || late || m.forced {
			m.probeOver(p, f)
			return true
		}
		return false
	})
}

// probeBegan compares what a probe is of: a connection that nobody has used or waited for, and of which nobody expects
// anything. What has arrived there and plex knows of is not read by a probe; it reads what comes from then on.
func (m *machine) probeBegan(p *probe) {
	c := m.conns[p.addr]
	require.NotNil(m.t, c, "%s was probed, which was not admitted", p.addr)
	p.conn = c
	require.False(m.t, m.closed, "connection %d was probed after the end", c.id)
	require.Empty(m.t, c.pins, "connection %d was probed though something is expected of it", c.id)
	require.True(m.t, c.reader == nil && (c.writer == nil || c.writer.pending), "connection %d was probed under a lease", c.id)
	require.GreaterOrEqual(m.t, p.began.Sub(m.lastUsed(c)), probeIdle*5/8, "connection %d was probed soon after it was used: %v %v %v", c.id, p.began, c.used, c.name.Info().Opened)
	if m.attending {
		require.Zero(m.t, c.left(), "connection %d was probed though it has something to deliver", c.id)
	}
	m.acquired += 2
	m.arrived++
	p.lease = &lease{side: &m.writers, conn: c, came: m.arrived, probe: p}
	c.reader, c.writer = p.lease, p.lease
	m.probes = append(m.probes, p)
}

// probeOver notes the end of a probe, which is that of the connection if it has failed.
func (m *machine) probeOver(p *probe, f probeFate) {
	c := p.conn
	m.deliver(c, f.got)
	if c.reader == p.lease {
		c.reader = nil
	}
	if c.writer == p.lease {
		c.writer = nil
	}
	c.used = p.began
	switch w := c.peek(); {
	case f.over && f.err == nil && !f.crashed, m.forced:
	case w.errTold:
		m.fail(c, w.err)
	default:
		m.fail(c, plex.ErrProbe)
	}
}

// lastUsed is when a connection was leased last, or came into service.
func (m *machine) lastUsed(c *conn) time.Time {
	if opened := c.name.Info().Opened; opened.After(c.used) {
		return opened
	}
	return c.used
}

// probeEnds ends a probe.
func (m *machine) probeEnds(t *rapid.T) {
	p := pick(t, "probe", m.probes)
	how := rapid.SampledFrom([]error{nil, nil, nil, errProbed, errProbePanics, errProbeReads}).Draw(t, "answer")
	if how == errProbeReads && p.conn.left() == 0 {
		how = nil
	}
	p.outcome <- how
}

// letProbesPass has all probes succeed from now on.
func (m *machine) letProbesPass() {
	m.pass.Store(true)
	for _, p := range slices.Clone(m.probes) {
		select {
		case p.outcome <- nil:
		case <-time.After(time.Minute):
		}
	}
	m.settle(m.t)
}
