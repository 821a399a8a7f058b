// Package plex lets many goroutines share a few connections to one service.
//
// A [Multiplexer] owns the connections, which are interchangeable [net.Conn]s. It makes them,
// replaces those that fail, and adds some when callers wait too long:
//
//	mux, err := plex.New(ctx,
//		plex.WithConnector(plex.Dial("tcp", "db.internal:9042")),
//		plex.WithMinConnections(2),
//		plex.WithMaxCapacity(8),
//		plex.WithAutoScaling(20*time.Millisecond),
//	)
//
// Most programs use it through one of two packages. [go.atomizer.io/plex/request] makes requests
// and finds the reply to each, by its identifier or by the order of the requests.
// [go.atomizer.io/plex/message] finds whole messages in what arrives on all connections, and writes
// whole ones. What follows is about leases, for those who need neither.
//
// # Leases
//
// A [Writer] or a [Reader] is a lease on one half of some connection. A consumer uses it and closes
// it, which puts the half back for the next consumer. The two halves of a connection are leased
// separately, so one consumer can read from it while another writes to it. A [Duplex] is a lease on
// both halves, and is itself a net.Conn: for protocols that keep a caller's state on the
// connection.
//
// Callers who find nothing idle wait in line, first come, first served, for as long as their
// timeout and their context allow. An [AcquireError] reads like a diagnosis. Closing a lease may
// interrupt whoever uses it, at any moment. Kill ends the connection instead: for a consumer that
// finds it to be bad, or that leaves it in the middle of a message. A lease that has ended reaches
// nothing.
//
// # Which connection
//
// plex makes no promise about which connection a lease belongs to. What is written through one
// lease may be answered on any connection that the service likes, and a read lease gets what
// arrives on its own. So messages have to be routed by what is in them, not by the connection that
// they came over. That suits every protocol whose messages carry an identifier, or need no reply. A
// consumer reads whole messages before it closes its Reader; what it has not read is there for the
// next.
//
// [Multiplexer.ReadyReader] leases the read half of whichever idle connection has something to
// deliver, so that a few goroutines read all connections. A [Conn] names the connection of a lease:
// for those whose interest in it outlasts the lease.
//
// # Life of a connection
//
// Connections are given to [New] or [Multiplexer.Add], or made by the [Connect] function of
// [WithConnector]. From then on they are plex's to close. One that fails, by an error, by the
// peer's close, by a write that was cut short, or because a consumer kills it, is taken out: both
// halves report the first error that it had, and it is closed. What the peer had sent before it
// closed is still delivered. Deadlines that a consumer sets, contexts that it cancels, and leases
// that it closes while they are in use say nothing about the connection.
//
// With a connector, a lost connection is replaced: at once, or under a backoff that probes a dead
// service by one connect at a time. Idle connections are watched, so that a dead one is replaced
// before anyone acquires it; [WithProbe] asks them. With [WithAutoScaling] callers that wait for
// too long add connections, and those that nobody needs any more are closed; with [WithMaxLifetime]
// old ones are replaced, and with [Multiplexer.Renew] all of them. A connect serves everyone: no
// caller's context ends it.
//
// [Multiplexer.Shutdown] waits for the leases that are live. [Multiplexer.Close] does not. When
// either has returned, every connection is closed, and plex's goroutines have ended.
//
// # What it does, seen from outside
//
// [Multiplexer.Stats] has the figures, and [Multiplexer.Conns] the connections. [WithObserver]
// tells of each [Event], [WithTrace] of each lease, [WithLogger] of what an operator wants to read,
// and [WithLeakDetection] of leases that are held for too long. Package
// [go.atomizer.io/plex/plexdebug] shows all of it on a live page. The modules plexprom and plexotel
// give the figures to Prometheus and OpenTelemetry.
//
// # What plex does not do
//
// By itself it does not know where a message ends and does not match replies to requests (see
// above). It does not order what goes over different leases, and sends nothing twice: a Write that
// returned no error is the operating system's to deliver, and what was on its way when a connection
// died may or may not have arrived.
package plex

import (
	"container/list"
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex/internal/caller"
)

// Multiplexer is a pool of connections to one service. Make one with [New]. All its methods may be
// called from any number of goroutines.
//
// The order of locks: deciding, then half.mu, then mu, then those of roster, watcher and observers,
// then that of outbox, and last that of tasks. queue.sweeping is held while nothing else is. No lock
// is held while a transport or a callback is called, except half.mu while a deadline is set, which
// nothing that holds mu waits for.
type Multiplexer struct {
	// What acquire touches. Constant but for what their types say.
	readers queue
	writers queue
	cfg     *config
	reading atomic.Int32 // how read halves are asked for, see ready.go; written under deciding
	decided atomic.Int32 // the same, once all that were there are listed or attended to
	short   atomic.Bool  // connections are missing, so that a waiter should wake the supervisor
	wanted  atomic.Bool  // a caller has found nothing since the supervisor looked

	deciding sync.Mutex
	capacity int
	ctx      context.Context // ends when no connect may go on
	cancel   context.CancelFunc
	unbind   func() bool // stops watching the ctx given to New
	timers   timers
	addr     atomic.Pointer[net.Addr]
	wake     chan struct{} // for the supervisor, holds one
	firsts   firsts
	refuse   sync.Once // for the beginning of the end

	roster  roster
	tasks   tasks
	news    news
	watcher *watcher

	mu       mutex     // guards what follows and the fields that say so
	changed  sync.Cond // signalled when something that Shutdown or a connect waits for may have happened
	accounts           // see books.go
	healer   healer
	scaler   scaler
	expiries expiries
	due      list.List // of connections that are due, and to be tried
	remains  remains
}

// New makes a multiplexer. It checks all options before it does anything, then admits the
// connections given and connects what is missing for [WithMinConnections]. If that fails, it leaves
// nothing open that it opened and has closed nothing that it was given.
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
		capacity: cfg.capacity.Get(),
		wake:     make(chan struct{}, 1),
	}
	m.changed.L = &m.mu
	m.known = make(map[any]struct{})
	m.tasks.init()
	m.news.init(cfg, &m.tasks)
	m.watcher = newWatcher(m)
	m.readers.init("reader", m.capacity, attendedRemains)
	m.readers.attended = cfg.quietIdle
	m.writers.init("writer", m.capacity, 1)
	// Connects outlive New and serve everyone, so they are bound to the multiplexer, not to ctx,
	// whose end closes it anyway.
	m.ctx, m.cancel = context.WithCancel(context.WithoutCancel(ctx))

	if err := m.populate(ctx); err != nil {
		_ = m.Close()
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.unbind = context.AfterFunc(ctx, func() { _ = m.Close() })
	return m, nil
}

// populate admits the connections given and connects up to the minimum. The former are admitted
// last, since from then on they are plex's to close.
func (m *Multiplexer) populate(ctx context.Context) error {
	all := m.cfg.connections
	missing := max(0, m.cfg.minimum.Get()-len(all))
	m.firsts.news = make(chan struct{}, 1)
	m.initHealer()
	m.healer.first = missing
	m.connecting = len(all)

	given := make([]*conn, 0, len(all))
	abandon := func() {
		for _, c := range given {
			c.unclaim()
		}
	}
	for i, nc := range all {
		c, err := m.claim(nc, false, Address{})
		if err == nil {
			given = append(given, c)
			err = c.prepare(ctx, m.cfg.connectTimeout.Get())
		}
		if err != nil {
			abandon()
			return connectionError("WithConnections", i, len(all), err)
		}
	}
	if len(given) > 0 && given[0].remote != nil {
		m.addr.Store(&given[0].remote)
	}
	if m.cfg.needsSupervisor() {
		m.startSupervisor()
	}
	if r := m.healer.resolver; r != nil {
		m.tasks.start(r.run)
	}
	if err := m.connectFirst(ctx, missing); err != nil {
		abandon()
		return err
	}
	for i, c := range given {
		// Nobody else knows c yet, or can have closed m: this does not fail, or it would leave some
		// connections plex's and others the caller's.
		if err := m.admit(c); err != nil {
			abandon()
			return connectionError("WithConnections", i, len(given), err)
		}
	}
	return nil
}

// Reader leases the read half of some connection. It waits until one is idle, first come first
// served, for at most timeout: zero means that only ctx bounds the wait, a negative timeout that
// there is none. Neither has a bearing on the lease that comes of it.
//
// A multiplexer's read halves are asked for in one way: once Reader has been called, ReadyReader,
// which packages message and request use, fails with [ErrReaderMode], and the other way round.
//
// Any error except that for a nil ctx and [ErrReaderMode] is an [AcquireError].
func (m *Multiplexer) Reader(ctx context.Context, timeout time.Duration) (Reader, error) {
	began := m.news.begun()
	h, lease, err := m.acquireReader(ctx, timeout, readsAny)
	if m.news.tracks {
		m.news.acquired(ctx, "reader", began, h, lease, err)
	}
	return Reader{h, lease}, err
}

// Writer leases the write half of some connection; all else is as in [Multiplexer.Reader].
func (m *Multiplexer) Writer(ctx context.Context, timeout time.Duration) (Writer, error) {
	if ctx == nil {
		return Writer{}, errNilContext("Writer")
	}
	began := m.news.begun()
	h, lease, err := m.acquire(ctx, timeout, &m.writers)
	if m.news.tracks {
		m.news.acquired(ctx, "writer", began, h, lease, err)
	}
	return Writer{h, lease}, err
}

// Add admits connections, in order, as far as they fit into the capacity. What it did not take is
// in rest, stays open and is the caller's; err then says why, for each, and matches
// [ErrTooManyConnections], [ErrClosed], [ErrNilConnection], [ErrKnownConnection] or the ctx's
// error. A TLS handshake that has not been made is made here, bounded by ctx and the connect
// timeout.
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
	err := m.addReserved(ctx, nc)
	if errors.Is(err, ErrClosed) {
		m.beginEnd() // which has begun: nobody is told before all halves are retired
	}
	return err
}

func (m *Multiplexer) addReserved(ctx context.Context, nc net.Conn) error {
	if err := m.reserve(); err != nil {
		return err
	}
	c, err := m.claim(nc, false, Address{})
	if err != nil {
		m.unreserve()
		return err
	}
	if err = c.prepare(ctx, m.cfg.connectTimeout.Get()); err == nil {
		err = m.admit(c)
	}
	if err != nil {
		c.unclaim()
		m.unreserve()
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	h := &m.healer
	h.target = min(m.capacity, max(h.target, m.open-m.leaving+h.pace.Under()+h.pace.Hung()))
	return nil
}

// Name returns the pool's name, see [WithName]; "" if it has none.
func (m *Multiplexer) Name() string { return m.news.pool }

// Addr returns the remote address of the first connection that was admitted, nil before there is
// one.
func (m *Multiplexer) Addr() net.Addr {
	if addr := m.addr.Load(); addr != nil {
		return *addr
	}
	return nil
}

// Close refuses new leases, wakes every waiter with [ErrClosed], closes every connection, leased or
// not, and returns when all of plex's goroutines have ended. It does not wait for long for foreign
// code: a Connect that ignores the end of its ctx, whose connection is closed when it comes; a
// callback or log handler, or a transport's Read, Write or Close, that does not return. Close may
// be called twice, and from anywhere; it returns nil.
func (m *Multiplexer) Close() error {
	m.beginEnd()
	m.tasks.close()
	m.mu.Lock()
	unbind := m.unbind
	m.mu.Unlock()
	if unbind != nil {
		unbind()
	}
	for _, c := range m.roster.all() {
		if !c.isOwned() {
			continue
		}
		c.fail(ErrClosed)
		c.r.haltStream(ErrClosed)
		c.w.haltStream(ErrClosed)
	}
	m.watcher.stop()
	m.tasks.wait([taskKinds]time.Duration{ownTask: closeGrace, transportTask: closeGrace, foreignTask: connectGrace})
	return nil
}

// closeGrace is how long Close waits for goroutines that a transport may keep.
const closeGrace = 3 * time.Second

// isOwned is owned for a caller that does not have the lock.
func (c *conn) isOwned() bool {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	return c.owned()
}

// Shutdown refuses new leases, wakes every waiter with [ErrClosed], waits until the live leases
// have ended, their streams flushed, and closes. If ctx ends first, it closes at once and returns
// the ctx's error. Idle connections are closed right away. Shutdown may be called twice, and from
// anywhere.
func (m *Multiplexer) Shutdown(ctx context.Context) error {
	if ctx == nil {
		return errNilContext("Shutdown")
	}
	m.beginEnd()
	stop := context.AfterFunc(ctx, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.changed.Broadcast()
	})
	defer stop()
	var err error
	m.mu.Lock()
	for m.alive > 0 && !m.tasks.isClosed() && err == nil {
		if ctx.Err() != nil {
			err = caller.ContextError(ctx)
			break
		}
		m.changed.Wait()
	}
	m.mu.Unlock()
	return errors.Join(err, m.Close())
}

// beginEnd begins the end: no new connection, no new lease, no waiter. All halves are retired
// before anyone is told, so once a caller has seen ErrClosed, no later call succeeds. Whoever else
// begins the end meanwhile waits for that.
func (m *Multiplexer) beginEnd() {
	m.refuse.Do(func() {
		m.mu.Lock()
		m.refusing = true
		m.mu.Unlock()
		var over []*half
		for _, c := range m.roster.all() { // to which nothing is added any more
			for _, h := range []*half{&c.r, &c.w} {
				if h.markRetired() {
					over = append(over, h)
				}
				h.leaveParking()
			}
		}
		m.mu.Lock()
		m.refused = true
		m.wakeLocked()
		m.mu.Unlock()
		m.cancel()
		for _, h := range over {
			h.settle()
		}
	})
}
