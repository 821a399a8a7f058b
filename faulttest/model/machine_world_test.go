package model

// What the world does: peers send, end, reset and stall; time passes; connects come to an end; connections are added.

import (
	"context"
	"errors"
	"net"
	"slices"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"pgregory.net/rapid"
)

// quiet waits until all is quiet. An EOF beside a Write may be a reset that the Write has yet to tell, so plex waits for
// a moment before it believes the EOF.
func (m *machine) quiet() {
	synctest.Wait()
	if slices.ContainsFunc(m.order, func(c *conn) bool { return c.writer != nil && !c.atEnd && c.peek().eofTold }) {
		time.Sleep(20 * time.Millisecond)
		synctest.Wait()
	}
	m.learn()
}

// peers returns the connections that have not ended, as the peers see it.
func (m *machine) peers() (open []*conn) {
	for _, c := range m.order {
		if w := c.peek(); w.closes == 0 && w.err == nil {
			open = append(open, c)
		}
	}
	return open
}

func (m *machine) peerSends(t *rapid.T) {
	c := pick(t, "peer", m.peers())
	if c.peek().fin {
		t.Skip("it has ended")
	}
	c.send(rapid.IntRange(1, 60).Draw(t, "bytes"))
}

func (m *machine) peerEnds(t *rapid.T) { pick(t, "peer", m.peers()).end() }

func (m *machine) peerResets(t *rapid.T) {
	c := pick(t, "peer", m.peers())
	c.reset(resetError(c.id), rapid.Bool().Draw(t, "keep"))
}

// peerStalls bounds what can be written, or lifts the bound.
func (m *machine) peerStalls(t *rapid.T) {
	c := pick(t, "peer", m.peers())
	c.allow(rapid.SampledFrom([]int{-1, -1, 0, 1, 10, 50}).Draw(t, "window"))
}

func (m *machine) sleep(t *rapid.T) {
	time.Sleep(rapid.SampledFrom([]time.Duration{
		time.Millisecond, 20 * time.Millisecond, 150 * time.Millisecond, time.Second, 3 * time.Second, 7 * time.Second,
	}).Draw(t, "time"))
}

// dial is a call of the connector. How it ends is up to an action, or its ctx if it heeds that.
type dial struct {
	heeds   bool
	began   time.Time
	outcome chan outcome
	noted   bool
	fate    // guarded by machine.mu
}

// fate is what has become of a dial.
type fate struct {
	over   bool
	ended  bool // by its ctx
	got    outcome
	conn   *memConn // that it made
	second *memConn
}

type outcome int

const (
	succeeds outcome = iota
	fails
	panics
	attachesNothing
	attachesNil
	attachesAndFails
	attachesTwice
	outcomes
)

var errDial = errors.New("no route to nowhere")

// connect is the connector.
func (m *machine) connect(ctx context.Context, handle net.Conn) error {
	d := &dial{began: time.Now(), outcome: make(chan outcome)}
	m.mu.Lock()
	m.begun = append(m.begun, d)
	m.calledConnect++
	d.heeds = m.calledConnect%2 == 0
	m.mu.Unlock()
	done, accepted := ctx.Done(), make(chan struct{})
	if !d.heeds {
		done = nil
	}
	if m.accepts.Load() {
		close(accepted)
	}
	var f fate
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		f.over = true
		d.fate = f
	}()
	select {
	case <-accepted:
	case f.got = <-d.outcome:
	case <-done:
		f.ended = true
		return ctx.Err()
	case <-m.quit:
		f.ended = true
		return errDial
	}
	switch f.got {
	case fails:
		return errDial
	case panics:
		panic("at the disco")
	case attachesNothing:
		return nil
	case attachesNil:
		_ = plex.Attach(handle, (*net.TCPConn)(nil)) // the connect fails without this error, too
		return nil
	}
	f.conn = m.net.dial()
	err := plex.Attach(handle, f.conn)
	switch f.got {
	case attachesAndFails:
		return errDial
	case attachesTwice:
		f.second = m.net.dial()
		return errors.Join(err, plex.Attach(handle, f.second))
	}
	return err
}

// learnDial takes note of how a dial has ended.
func (m *machine) learnDial(d *dial) {
	m.mu.Lock()
	f := d.fate
	m.mu.Unlock()
	if !f.over || d.noted {
		return
	}
	d.noted = true
	if f.got == succeeds && !f.ended && !m.closed {
		m.connected++
		m.admitted(f.conn)
		return
	}
	m.connectFailed++
	for _, c := range []*memConn{f.conn, f.second} {
		if c != nil {
			require.Equal(m.t, 1, c.peek().closes, "what a failed connect left was closed once")
		}
	}
}

// spare is how many connections may be open at the peers beyond those that are open in the pool: those that were taken
// out of it. Those of connects that are made and closed within one slot do not last until all is quiet.
func (m *machine) spare() (n int) {
	for _, c := range m.order {
		if c.detached != nil && c.peek().closes == 0 {
			n++
		}
	}
	return n
}

func (m *machine) connectEnds(t *rapid.T) {
	d := pick(t, "dial", m.dials)
	how := outcome(rapid.IntRange(0, 2*int(outcomes)).Draw(t, "outcome"))
	if how >= outcomes {
		how = succeeds
	}
	d.outcome <- how
}

// add adds connections, of which what fits is taken, in order.
func (m *machine) add(t *rapid.T) {
	var (
		conns []net.Conn
		want  []net.Conn // back
		fresh []*memConn
		taken []*memConn
		room  = m.cfg.capacity - m.open() - len(m.dials)
	)
	for range rapid.IntRange(1, 3).Draw(t, "connections") {
		switch kind := rapid.IntRange(0, 7).Draw(t, "kind"); {
		case kind == 0:
			conns, want = append(conns, nil), append(want, nil)
		case kind == 1 && m.open() > 0:
			for _, c := range m.order {
				if c.peek().closes == 0 && c.detached == nil {
					conns, want = append(conns, c.memConn), append(want, c.memConn)
					break
				}
			}
		default:
			nc := m.net.dial()
			fresh = append(fresh, nc)
			conns = append(conns, nc)
			if room > 0 {
				room--
				taken = append(taken, nc)
			} else {
				want = append(want, nc)
			}
		}
	}
	rest, err := m.pool.Add(context.Background(), conns...)
	require.Equal(t, want, rest)
	require.Equal(t, len(want) > 0, err != nil, "%v", err)
	for _, nc := range taken {
		m.admitted(nc)
	}
	for _, nc := range fresh {
		if m.conns[nc.RemoteAddr().String()] == nil {
			require.Zero(t, nc.peek().closes, "what was not taken stays open")
			require.NoError(t, nc.Close())
		}
	}
}
