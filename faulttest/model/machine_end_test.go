package model

// The end: the pool is closed one way or another in the middle of everything, and leaves nothing behind.

import (
	"context"
	"slices"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"pgregory.net/rapid"
)

// end ends the pool.
func (m *machine) end() {
	t := m.t
	m.letProbesPass()
	switch rapid.SampledFrom([]string{"calm", "close", "shutdown", "impatient", "context"}).Draw(t, "end") {
	case "calm":
		m.calm()
		m.close("Close", func() error { return m.pool.Close() }, nil)
	case "close":
		m.close("Close", func() error { return m.pool.Close() }, nil)
	case "context":
		m.close("the end of New's ctx", func() error { m.cancel(); return nil }, nil)
	case "impatient":
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		busy := slices.ContainsFunc(m.order, func(c *conn) bool { return c.reader != nil || c.writer != nil && !c.writer.pending })
		m.close("Shutdown", func() error {
			err := m.pool.Shutdown(ctx)
			if !busy && err != nil {
				require.ErrorIs(t, err, context.Canceled) // what had to be closed had yet to be
				return nil
			}
			return err
		}, map[bool]error{true: context.Canceled}[busy])
	case "shutdown":
		m.shutdown()
	}
	m.cancel()
	m.leave()
	require.NoError(t, m.pool.Close())
	require.NoError(t, m.pool.Shutdown(context.Background()))
}

// calm lets faults stop: whoever waits is then served, and the pool is whole again.
func (m *machine) calm() {
	t := m.t
	m.accepts.Store(true)
	for _, c := range m.peers() {
		c.allow(-1)
	}
	for _, c := range m.order {
		m.unpinAll(c)
	}
	for range 3 { // a connect that fails may be one of those that are waited for
		for len(m.dials) > 0 {
			d := m.dials[0]
			select {
			case d.outcome <- succeeds:
			case <-time.After(time.Minute):
			}
			m.settle(t)
		}
		time.Sleep(time.Minute)
		m.settle(t)
	}
	for len(m.readers.live())+len(m.writers.live()) > 0 {
		m.endOne()
		time.Sleep(time.Minute)
		m.settle(t)
	}
	m.checkAllLeft()
	require.Empty(t, m.named.waiters)
	if !m.cfg.connector {
		return
	}
	require.Empty(t, m.whole.waiters)
	require.Empty(t, m.readers.waiters)
	require.Empty(t, m.writers.waiters)
	require.GreaterOrEqual(t, m.open(), m.cfg.minimum, "the pool is not whole again")
}

// endOne ends a lease.
func (m *machine) endOne() {
	l := slices.Concat(m.readers.live(), m.writers.live())[0]
	switch {
	case l.mate != nil:
		m.endWhole(l, false)
	case l.side == &m.readers:
		m.endReader(l, false)
	default:
		m.endWriter(l, false)
	}
	m.settle(m.t)
}

// close ends the pool the hard way.
func (m *machine) close(what string, f func() error, want error) {
	m.closed, m.forced = true, true
	var err error
	closedAt := time.Now()
	m.start(what, func() { err = f() },
		func() bool { return len(m.dials) > 0 && time.Since(closedAt) < time.Second },
		func() { require.ErrorIs(m.t, err, want) })
	time.Sleep(time.Second)
	for _, c := range m.order {
		if c.detached == nil && (!c.retired && !c.atEnd || c.writer != nil) {
			m.fail(c, plex.ErrClosed)
		}
	}
	m.settle(m.t)
	require.Equal(m.t, m.spare(), m.net.open(), "connections that Close left open")
}

// shutdown ends the pool when its leases have ended.
func (m *machine) shutdown() {
	t := m.t
	m.closed = true
	for _, c := range m.order {
		c.draining = true
	}
	var err error
	done, hurry := false, false
	m.start("Shutdown", func() { err = m.pool.Shutdown(context.Background()) },
		func() bool { return !hurry }, // a stream may have to help its sender to the end
		func() { done = true; require.NoError(m.t, err) })
	m.settle(t)
	for _, s := range m.kinds() {
		m.begin(s, nil, 0, false) // refused
	}
	m.settle(t)
	for _, c := range m.peers() {
		c.allow(-1)
	}
	for len(m.readers.live())+len(m.writers.live()) > 0 {
		m.endOne()
	}
	time.Sleep(time.Second)
	hurry = true
	m.settle(t)
	require.True(t, done, "Shutdown has not returned")
	require.Equal(t, m.spare(), m.net.open(), "connections that Shutdown left open")
}

// leave ends what the model itself has under way.
func (m *machine) leave() {
	for len(m.dials) > 0 { // they ignore their ctx, and bring something late
		m.dials[0].outcome <- succeeds
		m.settle(m.t)
	}
	for len(m.readers.live())+len(m.writers.live()) > 0 {
		m.endOne()
	}
	m.settle(m.t)
	m.closeDetached()
	require.Empty(m.t, m.calls)
	for _, l := range m.stale {
		if l.in != nil {
			l.in.cancel()
		}
		if l.out != nil {
			l.out.release()
		}
	}
	for _, c := range m.net.conns {
		require.Equal(m.t, 1, c.peek().closes, "connection %d was closed once", c.id)
	}
}

// abandon ends all that can be ended, whatever state a failed comparison has left it in.
func (m *machine) abandon() {
	close(m.quit)
	m.cancel()
	for _, w := range m.allWaiters() {
		w.cancel()
	}
	for _, c := range m.net.conns {
		c.allow(-1)
	}
	_ = m.pool.Close()
	for _, r := range m.renews {
		r.cancel()
	}
	for _, l := range slices.Concat(m.readers.leases, m.writers.leases, m.stale) {
		if l.in != nil {
			l.in.cancel()
		}
		if l.out != nil {
			l.out.release()
		}
	}
}
