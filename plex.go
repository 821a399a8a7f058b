// Package plex multiplexes N interchangeable connections to one service.
//
// A [Multiplexer] owns the connections. A consumer asks it for a [Reader] or a
// [Writer], which is a lease on one half of some connection, uses it, and
// closes it, which puts the half back for the next consumer. The two halves of
// a connection are leased separately, so one consumer can read from it while
// another writes to it.
//
// # Which connection
//
// plex makes no promise about which connection a lease belongs to. What is
// written through one lease may be answered on any connection that the service
// likes, and a read lease gets what arrives on its own. So messages have to be
// routed by what is in them, not by the connection that they came over. That
// suits every protocol whose messages carry an identifier, or need no reply.
// A consumer reads whole messages before it closes its Reader; what it has not
// read is there for the next.
//
// [Multiplexer.ReadyReader] leases the read half of whichever idle connection
// has something to deliver, so that a few goroutines read all connections. A
// [Conn] names the connection of a lease: for those whose interest in it
// outlasts the lease.
//
// # Messages and requests
//
// Two packages take the routing off the consumer's hands.
// [go.atomizer.io/plex/message] finds whole messages in what arrives on all
// connections, and writes whole ones. [go.atomizer.io/plex/request] makes
// requests and finds the reply to each by its identifier.
//
// # Life of a connection
//
// Connections are given to [New] or [Multiplexer.Add], or made by the
// [Connect] function of [WithConnector]. From then on they are plex's to close.
// One that fails, by an error, by the peer's close, by a write that was cut
// short, or because a consumer kills it, is taken out: both halves report the
// first error that it had, and it is closed. What the peer had sent before it
// closed is still delivered. Deadlines that a consumer sets, contexts that it
// cancels, and leases that it closes while they are in use say nothing about
// the connection.
//
// With a connector, a lost connection is replaced: at once, or under a backoff
// that probes a dead service by one connect at a time. Idle connections are
// watched, so that a dead one is replaced before anyone acquires it. With
// [WithAutoScaling] callers that wait for too long add connections, and those
// that nobody needs any more are closed; with [WithMaxLifetime] old ones are
// replaced. A connect serves everyone: no caller's context ends it.
//
// # What plex does not do
//
// By itself it does not know where a message ends and does not match replies to
// requests (see above). It does not order what goes over different leases, and
// sends nothing twice: a Write that returned no error is the operating system's
// to deliver, and what was on its way when a connection died may or may not have
// arrived.
package plex

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex/internal/caller"
)

// Multiplexer is a pool of connections to one service. Make one with [New].
// All its methods may be called from any number of goroutines.
type Multiplexer struct {
	// What acquire touches. Constant but for what their types say.
	readers queue
	writers queue
	ready   queue // read halves with something to deliver; empty until attending, see ready.go
	cfg     *config
	tracks  bool // leases are remembered, for leak detection

	capacity int
	ctx      context.Context // ends when no connect shall go on
	cancel   context.CancelFunc
	unwatch  func() bool // stops watching the ctx given to New
	timers   sync.Pool   // *time.Timer, for waits

	patiences sync.Pool // *patience, for waits with auto-scaling
	addr      atomic.Pointer[net.Addr]
	short     atomic.Bool // connections are missing, so that a waiter should wake the supervisor
	attending atomic.Bool // somebody has asked for ready readers; written under mu

	// mu guards what follows and the fields that say so. It is held for
	// bookkeeping only: never while a transport or a callback is called.
	mu         sync.Mutex
	changed    sync.Cond // signalled when something that Close or Shutdown wait for may have happened
	refusing   bool      // no new leases, no new connections
	closed     bool      // no new goroutines
	overdue    bool      // Close has waited long enough for the user's functions
	conns      map[*conn]struct{}
	known      map[any]struct{} // identities of conns whose transport is open
	open       int              // admitted connections whose transport is open
	connecting int              // slots reserved for connections to come; open+connecting <= capacity
	admitted   uint64           // ever
	alive      int              // admitted and not yet forgotten: open, or with a lease
	transports int              // open and plex's to close
	goroutines int              // started by spawn and not ended
	outside    int              // goroutines that may be in the user's functions: connects, supervisor, log
	stats      Stats            // the counters; gauges are computed
	acquired   uint64           // the highest Stats.Acquired so far
	counts     Stats            // as of countedAt, for the errors of acquires
	countedAt  time.Time
	lastErr    error         // of the latest connect
	leaving    int           // open, but of no more use: lost, too old or not needed, and not yet closed
	looking    int           // halves that plex holds to look at them
	remains    []*conn       // at their end, with something left to be read; oldest first
	watcher    *watcher      // nil before the first connection that it can watch
	records    []slog.Record // to be logged
	logging    bool          // writeLog runs
	healing                  // see healer.go
	scaling                  // see autoscaler.go

	wake    chan struct{} // for the supervisor, holds one
	closing chan struct{} // closed when closed is set
}

// New makes a multiplexer. It checks all options before it does anything, then
// admits the connections given and connects what is missing for
// [WithMinConnections]. If that fails, it leaves nothing open that it opened
// and has closed nothing that it was given.
//
// When ctx ends, the multiplexer closes as by [Multiplexer.Close].
func New(ctx context.Context, opts ...Option) (*Multiplexer, error) {
	if ctx == nil {
		return nil, errNilContext("New")
	}
	cfg, err := configure(opts)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, caller.ContextError(ctx)
	}

	m := &Multiplexer{
		cfg:      cfg,
		capacity: cfg.capacity.value,
		tracks:   cfg.leakThreshold.set,
		conns:    make(map[*conn]struct{}),
		known:    make(map[any]struct{}),
	}
	m.changed.L = &m.mu
	m.wake, m.closing = make(chan struct{}, 1), make(chan struct{})
	m.initHealing()
	m.readers.init("reader", m.capacity, attendedRemains)
	m.writers.init("writer", m.capacity, 1)
	// Connects outlive New and serve everyone, so they are bound to the
	// multiplexer, not to ctx, whose end closes it anyway.
	m.ctx, m.cancel = context.WithCancel(context.WithoutCancel(ctx))

	if err := m.populate(ctx); err != nil {
		_ = m.Close()
		return nil, err
	}
	m.mu.Lock()
	m.unwatch = context.AfterFunc(ctx, func() { _ = m.Close() })
	m.mu.Unlock()
	if m.needsSupervisor() {
		m.mu.Lock()
		m.spawnOutsideLocked(m.supervise)
		m.mu.Unlock()
	}
	return m, nil
}

// populate admits the connections given and connects up to the minimum. The
// former are admitted last, since from then on they are plex's to close.
func (m *Multiplexer) populate(ctx context.Context) error {
	given := make([]*conn, 0, len(m.cfg.connections))
	abandon := func() {
		for _, c := range given {
			m.unclaim(c)
		}
	}
	missing := max(0, m.cfg.minimum.value-len(m.cfg.connections))
	m.mu.Lock()
	m.connecting = len(m.cfg.connections) + missing
	m.mu.Unlock()
	for i, nc := range m.cfg.connections {
		c, err := m.claim(nc, false)
		if err == nil {
			given = append(given, c)
			err = c.prepare(ctx, m.cfg.connectTimeout.value)
		}
		if err != nil {
			abandon()
			return connectionError("WithConnections", i, len(m.cfg.connections), err)
		}
	}
	if len(given) > 0 && given[0].remote != nil {
		m.addr.Store(&given[0].remote)
	}
	if err := m.connectAll(ctx, missing); err != nil {
		abandon()
		return err
	}
	for i, c := range given {
		// Nobody else knows c yet, or can have closed m: this does not fail,
		// or it would leave some connections plex's and others the caller's.
		if err := m.admit(c); err != nil {
			abandon()
			return connectionError("WithConnections", i, len(given), err)
		}
	}
	return nil
}

// Reader leases the read half of some connection. It waits until one is idle,
// first come first served, for at most timeout: zero means that only ctx bounds
// the wait, a negative timeout that there is none. Neither has a bearing on the
// lease that comes of it.
//
// Any error but that for a nil ctx is an [AcquireError].
func (m *Multiplexer) Reader(ctx context.Context, timeout time.Duration) (Reader, error) {
	if ctx == nil {
		return Reader{}, errNilContext("Reader")
	}
	h, lease, err := m.acquire(ctx, timeout, &m.readers)
	if err == nil && m.tracks {
		h.remember(lease)
	}
	return Reader{h, lease}, err
}

// Writer leases the write half of some connection; all else is as in
// [Multiplexer.Reader].
func (m *Multiplexer) Writer(ctx context.Context, timeout time.Duration) (Writer, error) {
	if ctx == nil {
		return Writer{}, errNilContext("Writer")
	}
	h, lease, err := m.acquire(ctx, timeout, &m.writers)
	if err == nil && m.tracks {
		h.remember(lease)
	}
	return Writer{h, lease}, err
}

// Add admits connections, in order, as far as they fit into the capacity. What
// it did not take is in rest, stays open and is the caller's; err then says
// why, for each, and matches [ErrTooManyConnections], [ErrClosed],
// [ErrNilConnection], [ErrKnownConnection] or the ctx's error. A TLS
// handshake that has not been made is made here, bounded by ctx and the
// connect timeout.
func (m *Multiplexer) Add(ctx context.Context, conns ...net.Conn) (rest []net.Conn, err error) {
	if ctx == nil {
		return conns, errNilContext("Add")
	}
	var errs []error
	for i, nc := range conns {
		if err := m.add(ctx, nc); err != nil {
			rest = append(rest, nc)
			errs = append(errs, connectionError("Add", i, len(conns), err))
		}
	}
	return rest, errors.Join(errs...)
}

func (m *Multiplexer) add(ctx context.Context, nc net.Conn) error {
	if ctx.Err() != nil {
		return caller.ContextError(ctx)
	}
	if caller.IsNil(nc) {
		return ErrNilConnection
	}
	if err := m.reserve(); err != nil {
		return err
	}
	c, err := m.claim(nc, false)
	if err != nil {
		m.unreserve()
		return err
	}
	if err = c.prepare(ctx, m.cfg.connectTimeout.value); err == nil {
		err = m.admit(c)
	}
	if err != nil {
		m.unclaim(c)
		m.unreserve()
		return err
	}
	m.mu.Lock()
	m.target = min(m.capacity, max(m.target, m.open-m.leaving+len(m.attempts)))
	m.mu.Unlock()
	return nil
}

// reserve takes a slot of the capacity for a connection to come.
func (m *Multiplexer) reserve() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.refusing:
		return ErrClosed
	case m.open+m.connecting >= m.capacity:
		return ErrTooManyConnections
	}
	m.connecting++
	return nil
}

// unreserve gives the slot back.
func (m *Multiplexer) unreserve() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.unreserveLocked()
	m.kick()
}

func (m *Multiplexer) unreserveLocked() {
	m.connecting--
	if m.hopelessLocked() == ErrNoConnections {
		m.wakeLocked()
	}
}

// Addr returns the remote address of the first connection that was admitted,
// nil before there is one.
func (m *Multiplexer) Addr() net.Addr {
	if addr := m.addr.Load(); addr != nil {
		return *addr
	}
	return nil
}

// Close refuses new leases, wakes every waiter with [ErrClosed], closes every
// connection, leased or not, and returns when all of plex's goroutines have
// ended. A Connect that ignores the end of its ctx is not waited for, and what
// it brings later is closed; no more is a log handler or backoff function that
// does not return. Close may be called twice, and from anywhere but the Close
// of a transport; it returns nil.
func (m *Multiplexer) Close() error {
	m.mu.Lock()
	settle := m.refuseLocked()
	if !m.closed {
		m.closed = true
		close(m.closing)
	}
	unwatch := m.unwatch
	victims := make([]*conn, 0, len(m.conns))
	for c := range m.conns {
		if c.owned {
			victims = append(victims, c)
		}
	}
	m.mu.Unlock()
	if unwatch != nil {
		unwatch()
	}

	// Side by side, for a transport may take long to close.
	var wg sync.WaitGroup
	for _, c := range victims {
		wg.Go(func() {
			c.fail(ErrClosed)
			c.r.haltStreams(ErrClosed)
			c.w.haltStreams(ErrClosed)
		})
	}
	for _, f := range settle {
		wg.Go(f)
	}
	wg.Wait()

	m.stopWatcher()
	late := time.AfterFunc(connectGrace, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.overdue = true
		m.changed.Broadcast()
	})
	defer late.Stop()
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.transports > 0 || m.goroutines > 0 || m.outside > 0 && !m.overdue {
		m.changed.Wait()
	}
	return nil
}

// Shutdown refuses new leases, wakes every waiter with [ErrClosed], waits until
// the live leases have ended, their streams flushed, and closes. If ctx ends
// first, it closes at once and returns the ctx's error. Idle connections are
// closed right away. Shutdown may be called twice, and from anywhere.
func (m *Multiplexer) Shutdown(ctx context.Context) error {
	if ctx == nil {
		return errNilContext("Shutdown")
	}
	m.mu.Lock()
	settle := m.refuseLocked()
	m.mu.Unlock()
	for _, f := range settle {
		m.aside(f)
	}

	stop := context.AfterFunc(ctx, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.changed.Broadcast()
	})
	defer stop()
	var err error
	m.mu.Lock()
	for m.alive > 0 && !m.closed && err == nil {
		if ctx.Err() != nil {
			err = caller.ContextError(ctx)
			break
		}
		m.changed.Wait()
	}
	m.mu.Unlock()
	return errors.Join(err, m.Close())
}

// refuseLocked begins the end: no new lease, no new connection, no waiter.
// The caller has to settle the halves that were idle, by the functions returned, one
// for each connection, which may take long. They are retired before anyone is told:
// who has been told of the end is not given a lease later.
func (m *Multiplexer) refuseLocked() (settle []func()) {
	if m.refusing {
		return nil
	}
	m.refusing = true
	for c := range m.conns {
		if !c.admitted {
			continue
		}
		if r, w := c.r.markGone(), c.w.markGone(); r || w {
			settle = append(settle, func() {
				if r {
					m.settle(&c.r)
				}
				if w {
					m.settle(&c.w)
				}
			})
		}
	}
	m.cancel()
	m.wakeLocked()
	return settle
}

// spawn runs f in a goroutine that Close waits for. It reports false when the
// multiplexer has been closed.
func (m *Multiplexer) spawn(f func()) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.spawnLocked(f)
}

// aside runs f, which may take long, in a goroutine as spawn does, and here and
// now when the multiplexer has been closed.
func (m *Multiplexer) aside(f func()) {
	if !m.spawn(f) {
		f()
	}
}

func (m *Multiplexer) spawnLocked(f func()) bool {
	if m.closed {
		return false
	}
	m.goroutines++
	go func() {
		defer func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.goroutines--
			m.changed.Broadcast()
		}()
		f()
	}()
	return true
}

// spawnOutsideLocked runs f, which may call the user's functions, in a
// goroutine. Close waits for it only as long as it may reasonably take to notice
// the end, since the user's function may be stuck, or be the one that called
// Close.
func (m *Multiplexer) spawnOutsideLocked(f func()) {
	m.outside++
	go func() {
		defer func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.outside--
			m.changed.Broadcast()
		}()
		f()
	}()
}
