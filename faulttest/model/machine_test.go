package model

// The state machine: a pool, the sequential model of it, and the comparison of the two after each action. The actions
// are in machine_*_test.go beside this file, one file for each party: those who acquire, readers, writers, peers and
// time, those who connect, and the end.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"pgregory.net/rapid"
)

func TestPoolIsWhatTheModelSays(t *testing.T) { checkMachine(t, false) }

// With ready readers, of which all readers of a pool are or none, plex reads by itself from connections that nobody has
// leased, to see whether there is anything.
func TestPoolWithReadyReadersIsWhatTheModelSays(t *testing.T) { checkMachine(t, true) }

func checkMachine(t *testing.T, attending bool) {
	rapid.Check(t, func(t *rapid.T) {
		rapid.SyncTest(t, func(t *rapid.T) {
			m := newMachine(t, attending)
			defer m.abandon()
			t.Repeat(map[string]func(*rapid.T){
				"": m.settle,

				"acquire":   m.acquire,
				"acquire2":  m.acquire, // there is more to do with leases than without
				"cancel":    m.cancelWaiter,
				"stale":     m.useStaleHandle,
				"read":      m.read,
				"deadlineR": m.setReadDeadline,
				"recv":      m.recv,
				"take":      m.take,
				"take2":     m.take,
				"cancelR":   m.cancelRecv,
				"closeR":    m.closeReader,
				"killR":     m.killReader,
				"write":     m.write,
				"deadlineW": m.setWriteDeadline,
				"send":      m.send,
				"give":      m.give,
				"finish":    m.closeChannel,
				"cancelW":   m.cancelSend,
				"closeW":    m.closeWriter,
				"killW":     m.killWriter,
				"sends":     m.peerSends,
				"sends2":    m.peerSends, // ready readers are served by nothing else
				"ends":      m.peerEnds,
				"resets":    m.peerResets,
				"stalls":    m.peerStalls,
				"time":      m.sleep,
				"connects":  m.connectEnds,
				"connects2": m.connectEnds,
				"add":       m.add,

				"closeD":  m.closeWhole,
				"killD":   m.killWhole,
				"detach":  m.detach,
				"use":     m.useDetached,
				"named":   m.acquireNamed,
				"retire":  m.retire,
				"renew":   m.renew,
				"cancelN": m.cancelRenew,
				"pin":     m.pin,
				"unpin":   m.unpin,
				"probed":  m.probeEnds,
			})
			m.end()
		})
	})
}

// setup is what a machine is made with.
type setup struct {
	given, capacity, minimum       int
	connector, scaling, lifetime   bool
	scaleAfter, idleAfter, maxLife time.Duration
	grace                          time.Duration // of a retirement, for pins
	probed                         bool
}

const connectTimeout = 2 * time.Second

type machine struct {
	t    *rapid.T
	cfg  setup
	net  network
	pool *plex.Multiplexer

	ctx    context.Context // New's
	cancel context.CancelFunc

	conns   map[string]*conn // admitted, by remote address
	order   []*conn          // the same, in the order of admission
	readers side
	writers side
	ready   side // waiters only; their leases are readers
	whole   side // waiters only; their leases are a reader and a writer
	named   side // waiters only, for the writer of one connection
	renews  []*renewal
	arrived int // how many callers and leases there have been, by which they are told apart in time
	calls   []*call
	dials   []*dial
	quit    chan struct{} // closed when the machine is abandoned
	accepts atomic.Bool   // dials succeed at once
	stale   []*lease
	remains []*conn // at their end, with something left to be read, as the pool keeps them
	closed  bool    // Close or Shutdown has begun
	forced  bool    // connections are closed under their leases

	attending bool // readers are asked for with ReadyReader

	mu            sync.Mutex
	begun         []*dial // calls of the connector that learn has not seen
	calledConnect int

	acquired, timedOut, canceled, connected, connectFailed, lost, killed, scaledDown, expired int
	renewed, detached                                                                         int

	pairing bool        // somebody waits for a whole connection, and so leases what nobody gets
	probes  []*probe    // under way
	asked   []*probe    // ever; guarded by mu
	pass    atomic.Bool // probes succeed at once

	seenProbes int // by learnProbes

	held      []*lease // pending ones of before
	displaced int      // how many of those that wait for one have lost their place, as their connection has ended

	lostBefore int // m.lost at the former comparison
}

// side is one kind of halves: who has one, and who waits for one.
type side struct {
	name    string
	leases  []*lease
	waiters []*waiter // in the order of their arrival
}

// conn is what the model knows about a connection.
type conn struct {
	*memConn
	delivered uint64
	reader    *lease // nil if the half is not leased
	writer    *lease
	dead      bool // the connection has failed
	cause     error
	givenUp   bool      // by whoever killed it, and with it what is left to be read
	atEnd     bool      // plex has seen the peer's end
	ended     bool      // plex has seen an end, the peer's or an error, up to which it has read everything
	untold    bool      // and was not reading for a consumer, so a ready reader is to be told of it
	offered   bool      // which is what the next lease is for, if nothing is left to be read
	vague     bool      // or not; the pool is asked
	retired   bool      // closed because it was too many or too old
	dropped   bool      // its remains were given up
	kept      bool      // it is in machine.remains
	used      time.Time // when a lease of it began or ended last
	draining  bool      // retired by Shutdown
	leaving   bool      // its write half is retired for its age; its read half will be, with its lease
	counted   bool      // its loss is
	justEnded bool      // since the last comparison, so what was leased before that may not have been noted yet
	name      plex.Conn
	pins      []func()  // that have not been undone
	asked     time.Time // since when it is to be retired, because somebody has asked for it; zero if nobody has
	drains    time.Time // when it was seen to be leaving
	drained   bool      // and nothing more is expected of it
	detached  net.Conn  // what the consumer has who has taken it out of the pool; nil if it is in there
}

func (c *conn) left() uint64 { return c.peek().sent - c.delivered }

// readGone reports whether the read half is never leased again. What was read up to the peer's end is in plex's hands,
// where no failure of the connection takes it away.
func (c *conn) readGone() bool {
	return c.dead && (!c.ended || c.givenUp) || c.dropped || c.draining || c.drained || c.detached != nil ||
		c.ended && c.left() == 0 && !c.offered && !c.vague
}

func (c *conn) writeGone() bool {
	return c.dead || c.retired || c.draining || c.leaving || c.atEnd || c.detached != nil
}

// shut reports whether plex should have closed the connection.
func (m *machine) shut(c *conn) bool {
	switch {
	case c.detached != nil:
		return false
	case c.dead, c.retired:
		return true
	case c.writer != nil:
		return false
	case c.atEnd:
		return true
	}
	return c.reader == nil && (c.draining || c.leaving && !m.kept(c))
}

// call is an operation of the pool under way, in a goroutine of its own.
type call struct {
	what   string
	done   chan struct{}
	blocks func() bool // the model allows that it is not done
	check  func()      // compares its outcome, once
	ends   *lease      // it ends the lease, and may its connection
}

func (c *call) isDone() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// start runs an operation. What comes of it is looked at when all is quiet.
func (m *machine) start(what string, run func(), blocks func() bool, check func()) *call {
	c := &call{what: what, done: make(chan struct{}), blocks: blocks, check: check}
	m.calls = append(m.calls, c)
	go func() {
		defer close(c.done)
		run()
	}()
	return c
}

func newMachine(t *rapid.T, attending bool) *machine {
	m := &machine{t: t, attending: attending, conns: make(map[string]*conn), quit: make(chan struct{})}
	m.accepts.Store(true)
	m.readers.name, m.writers.name, m.ready.name = "reader", "writer", "ready reader"
	m.whole.name, m.named.name = "whole connection", "writer of this connection"
	c := &m.cfg
	c.connector = rapid.Bool().Draw(t, "connector")
	c.given = rapid.IntRange(0, 3).Draw(t, "given")
	c.capacity = max(1, c.given+rapid.IntRange(0, 2).Draw(t, "room"))
	c.minimum = c.given
	c.grace = rapid.SampledFrom([]time.Duration{time.Second, 5 * time.Second}).Draw(t, "grace")
	opts := []plex.Option{plex.WithMaxCapacity(c.capacity), plex.WithRetireGrace(c.grace)}
	var given []net.Conn
	for range c.given {
		given = append(given, m.net.dial())
	}
	if c.given > 0 {
		opts = append(opts, plex.WithConnections(given...))
	}
	if c.connector {
		opts = append(opts, plex.WithConnector(m.connect), plex.WithConnectTimeout(connectTimeout))
		if c.capacity > c.given {
			c.minimum = rapid.IntRange(c.given, c.capacity).Draw(t, "minimum")
			if c.minimum > c.given {
				opts = append(opts, plex.WithMinConnections(c.minimum))
			}
		}
		if c.capacity > c.minimum && rapid.Bool().Draw(t, "scaling") {
			c.scaling, c.scaleAfter, c.idleAfter = true, 50*time.Millisecond, 3*time.Second
			opts = append(opts, plex.WithAutoScaling(c.scaleAfter), plex.WithIdleTimeout(c.idleAfter))
		}
		if rapid.IntRange(0, 3).Draw(t, "lifetime") == 0 {
			c.lifetime, c.maxLife = true, 4*time.Second
			opts = append(opts, plex.WithMaxLifetime(c.maxLife))
		}
	}
	if c.probed = rapid.IntRange(0, 2).Draw(t, "probed") == 0; c.probed {
		opts = append(opts, plex.WithProbe(probeIdle, probeTimeout, m.probe))
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	pool, err := plex.New(m.ctx, opts...)
	require.NoError(t, err)
	m.pool = pool
	for _, nc := range given {
		m.admitted(nc.(*memConn))
	}
	if attending {
		_, err := pool.ReadyReader(m.ctx, -1)
		require.Error(t, err)
	}
	m.quiet()
	m.accepts.Store(false)
	return m
}

// admitted is told of each connection that plex has taken.
func (m *machine) admitted(nc *memConn) {
	c := &conn{memConn: nc}
	m.conns[nc.RemoteAddr().String()] = c
	m.order = append(m.order, c)
}

// fail notes that a connection has failed. The first cause counts.
func (m *machine) fail(c *conn, cause error) {
	if cause == plex.ErrKilled || cause == plex.ErrClosed {
		c.givenUp = true
	}
	if c.dead {
		return
	}
	c.dead, c.cause = true, cause
	if m.countLost(c) && errors.Is(cause, plex.ErrKilled) {
		m.killed++
	}
}

// countLost reports whether it was not counted before.
func (m *machine) countLost(c *conn) bool {
	if c.counted || c.retired || m.forced {
		return false
	}
	c.counted = true
	m.lost++
	return true
}

// open is how many connections take a slot.
func (m *machine) open() (n int) {
	for _, c := range m.order {
		if c.peek().closes == 0 && c.detached == nil {
			n++
		}
	}
	return n
}

// idle returns the connections one of whose halves can be leased.
func (m *machine) idle(s *side) (idle []*conn) {
	for _, c := range m.order {
		if s == &m.readers && c.reader == nil && !c.readGone() || s == &m.writers && c.writer == nil && !c.writeGone() {
			idle = append(idle, c)
		}
	}
	return idle
}

// hopeless reports whether a pool without a connector has lost all it had.
func (m *machine) hopeless() bool {
	return !m.cfg.connector && len(m.order) > 0 && m.open() == 0
}

// settle waits until all is quiet and compares the pool with the model.
func (m *machine) settle(t *rapid.T) {
	m.t = t
	m.calmDown()
	if m.attending {
		m.letPlexLook()
		m.calmDown()
	}
	m.checkWaiters()
	for _, c := range m.calls {
		require.True(t, c.blocks(), "%s has not returned", c.what)
	}
	m.checkConns()
	m.checkStats()
	m.lostBefore = m.lost
	for _, c := range m.order {
		c.justEnded = false
	}
}

// learn takes note of what the transports have told plex.
func (m *machine) learn() {
	m.mu.Lock()
	m.dials, m.begun = append(m.dials, m.begun...), nil
	m.mu.Unlock()
	for _, d := range m.dials {
		m.learnDial(d)
	}
	m.dials = slices.DeleteFunc(m.dials, func(d *dial) bool { return d.noted })
	m.learnNames()
	m.learnProbes()
	m.learnPending()
	m.learnLeaving()
	inService := m.inService()
	for _, c := range m.order {
		if c.detached != nil {
			continue
		}
		w := c.peek()
		own := m.attending && (c.reader == nil || c.reader.closing) // it was plex itself that has read
		if w.errTold || w.eofTold {
			m.hadLeft(c)
		}
		if w.errTold && !c.dead {
			c.justEnded = true
			m.fail(c, w.err)
			// A Write may have been told of a reset at the same moment. Which of the two plex believes first cannot be seen.
			if own && w.errRead && (c.writer == nil || c.name.Info().Reader.State != plex.HalfRetired) {
				m.seesEnd(c)
			}
		}
		if w.eofTold && !c.atEnd {
			c.atEnd, c.justEnded = true, true
			m.countLost(c)
			if own {
				m.seesEnd(c)
			}
			c.ended = true
		}
		if l := c.reader; l != nil && !l.before && c.ended && l.in != nil && !l.in.canceled && !l.in.timed && c.left() == 0 {
			c.untold = false // its stream has read on to the end
		}
		leavesNow := c.leaving && !c.retired && !c.dead && !c.atEnd
		if w.closes > 0 && (leavesNow || !m.shut(c)) && !m.closed && c.reader == nil && c.writer == nil {
			// The pool may only do this to what it does not need.
			if !leavesNow { // otherwise it is counted
				m.countRetired(c)
				m.checkReplaced(c, inService)
			}
			m.checkPins(c)
			c.retired, c.ended = true, true
			c.loseUnread()
			c.untold = m.attending && c.left() > 0
			if c.left() > 0 {
				m.keepRemains(c)
			}
		}
	}
}

// hadLeft finds out whether a connection that has ended had begun to leave just before, so that it is not lost.
func (m *machine) hadLeft(c *conn) {
	if c.counted || m.closed || !m.isDue(c) || c.name.Info().Leaving == "lost" {
		return
	}
	m.countRetired(c)
	c.leaving, c.counted, c.drains = true, true, time.Now()
}

// foundTorn notes that the last write of a lease that has ended was cut short.
func (m *machine) foundTorn(c *conn) {
	if !c.dead {
		m.hadLeft(c)
		c.justEnded = true
	}
	m.fail(c, plex.ErrPartialWrite)
}

// seesEnd notes that plex has come to an end without a consumer. Then what is left, and the end, wait for ready readers.
func (m *machine) seesEnd(c *conn) {
	c.ended, c.untold, c.offered = true, true, true
	if c.reader != nil {
		c.reader.before = true
	}
	m.keepRemains(c)
}

// calmDown waits until all is quiet, and sees what has come of what is over.
func (m *machine) calmDown() {
	m.quiet()
	m.settleCalls()
	m.settleWaiters()
}

// letPlexLook gives plex the time to look at each idle connection, and waits for a moment in which it looks at none.
func (m *machine) letPlexLook() {
	time.Sleep(22 * time.Millisecond)
	for range 1000 {
		m.quiet()
		if !slices.ContainsFunc(m.order, func(c *conn) bool { return c.reader == nil && c.peek().looks }) {
			return
		}
		time.Sleep(310 * time.Microsecond)
	}
	m.t.Fatal("plex looks without a pause")
}

func (m *machine) settleCalls() {
	for _, c := range m.calls { // the end of one lease explains what others were told
		if c.isDone() && c.ends != nil && c.ends.conn.peek().torn {
			m.foundTorn(c.ends.conn)
		}
	}
	m.calls = slices.DeleteFunc(m.calls, func(c *call) bool {
		if c.isDone() {
			c.check()
		}
		return c.isDone()
	})
	m.learn() // what has ended with a lease
}

// checkConns compares what has become of the connections.
func (m *machine) checkConns() {
	for _, c := range m.order {
		w := c.peek()
		require.LessOrEqual(m.t, w.closes, 1, "connection %d was closed twice", c.id)
		if c.detached == nil {
			require.Equal(m.t, m.shut(c), w.closes == 1, "connection %d: closed: dead %v, at its end %v, retired %v, draining %v, leaving %v, reader %v, writer %v; %+v",
				c.id, c.dead, c.atEnd, c.retired, c.draining, c.leaving, c.reader != nil, c.writer != nil, c.name.Info())
		}
		require.Equal(m.t, len(c.pins), c.name.Info().Pins)
		require.False(m.t, c.leaving && !c.retired && !c.dead && !c.atEnd && (!m.attending || c.left() == 0) && c.reader == nil && c.writer == nil && !m.kept(c) && !c.readGone(), "connection %d leaves, and nothing keeps it", c.id)
		require.NoError(m.t, c.verdict())
		require.LessOrEqual(m.t, c.delivered, w.sent)
	}
	m.checkService()
	require.LessOrEqual(m.t, m.net.open(), m.cfg.capacity+m.spare(), "connections open at the peers")
}

// checkStats compares the figures.
func (m *machine) checkStats() {
	s := m.pool.Stats()
	leased := func(s *side) (n int) {
		for _, l := range s.leases {
			if !l.over {
				n++
			}
		}
		return n
	}
	if !m.closed {
		m.clarify(s.IdleReaders)
		pending := len(m.pending())
		want := [...]int{
			m.cfg.capacity, m.open(), len(m.dials), len(m.readers.waiters) + len(m.writers.waiters) + len(m.whole.waiters) - pending,
			len(m.idle(&m.readers)), len(m.idle(&m.writers)),
			leased(&m.readers) + len(m.probes), leased(&m.writers) + pending + len(m.probes), len(m.ready.waiters),
		}
		got := [...]int{s.Capacity, s.Open, s.Connecting, s.Waiting, s.IdleReaders, s.IdleWriters, s.LeasedReaders, s.LeasedWriters, s.WaitingReady}
		require.Equal(m.t, want, got, "Capacity, Open, Connecting, Waiting, IdleReaders, IdleWriters, LeasedReaders, LeasedWriters, WaitingReady")
	}
	if m.pairing {
		require.LessOrEqual(m.t, m.acquired+len(m.pending()), int(s.Acquired))
		m.acquired = int(s.Acquired) - len(m.pending()) // whose lease is noted with the other half's
	}
	m.pairing = len(m.whole.waiters) > 0
	want := [...]int{
		m.acquired + len(m.pending()), m.timedOut, m.canceled, m.connected, m.connectFailed, m.lost, m.killed, m.scaledDown, m.expired,
		m.scaledDown + m.expired + m.renewed + m.detached,
	}
	got := [...]int{
		int(s.Acquired), int(s.TimedOut), int(s.Canceled), int(s.Connected), int(s.ConnectFailed), int(s.Lost), int(s.Killed),
		int(s.ScaledDown), int(s.Expired), int(s.Retired),
	}
	require.Equal(m.t, want, got, "Acquired, TimedOut, Canceled, Connected, ConnectFailed, Lost, Killed, ScaledDown, Expired, Retired")
	require.LessOrEqual(m.t, s.Open+s.Connecting, s.Capacity)
}

// clarify asks the pool whether a connection that was given back with nothing left to be read will be leased once more, for
// its end. That depends on how far its stream had come.
func (m *machine) clarify(idle int) {
	for _, c := range m.order {
		if c.vague {
			c.vague, c.offered = false, len(m.idle(&m.readers)) <= idle
			c.untold = c.offered
			require.LessOrEqual(m.t, len(m.idle(&m.readers)), idle)
		}
	}
}

// pick draws one of what there is, or skips the action.
func pick[T any](t *rapid.T, what string, from []T) T {
	if len(from) == 0 {
		t.Skip("no " + what)
	}
	return from[rapid.IntRange(0, len(from)-1).Draw(t, what)]
}

func describe(s *side, c *conn) string { return fmt.Sprintf("%s of connection %d", s.name, c.id) }
