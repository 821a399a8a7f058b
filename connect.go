package plex

// Connecting: the user's Connect function, the handle that it is given, the adapters for common
// cases, and the one place that calls it.

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"sync"
	"time"

	"go.atomizer.io/plex/internal/caller"
	"go.atomizer.io/plex/internal/sock"
)

// connectGrace is how long Close, and New, wait for a connector whose ctx has ended. One that
// honours its ctx returns well within it.
const connectGrace = 250 * time.Millisecond

// Connect establishes conn: it makes a transport, gives it to conn with [Attach], does what
// handshake or login there is, through conn or before, and returns nil. For a lost connection
// conn.RemoteAddr is the address that it had; for an additional one it is that of the pool's first
// connection, nil if there was none. With [WithResolver] it is the address that was chosen.
//
// ctx ends after the connect timeout, when the multiplexer closes, and when Connect returns, so it
// must not be what keeps the transport alive. Nothing that a caller of Reader or Writer does ends
// it. When it ends, what has been attached fails, and with it whatever Connect is waiting for
// there; a Connect that hangs elsewhere and ignores ctx holds its slot of the capacity until it
// returns.
//
// conn is usable until Connect returns. Deadlines set on it end then. What its handshake has not
// read is there for the first Reader. An error, a panic, or a return without an attached transport
// makes the connect fail; a transport that was attached is then closed.
//
// Connect may be called from several goroutines at once.
type Connect func(ctx context.Context, conn net.Conn) error

// ContextDialer is what [net.Dialer], [crypto/tls.Dialer] and the dialers of golang.org/x/net/proxy
// have in common.
type ContextDialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Attach makes conn, which has to be the handle that a [Connect] was given, run over transport.
// From then on transport is plex's to close, also if Attach returns an error: it has then closed
// it, unless it is in the pool already.
//
// A transport whose LocalAddr is of a network named udp…, ip…, unixgram or unixpacket is one of
// datagrams: a Read takes one, and what does not fit is lost. A stream that runs over such a
// socket, as QUIC's do, must have an address of another network; examples/quic shows one.
//
// Errors: [ErrNilConnection], [ErrKnownConnection] if transport is in the pool, [ErrAttached] if
// conn has a transport (the connect then fails, and both are closed), [ErrClosed] if the
// multiplexer has been closed, and one that says so if conn is no handle or its Connect has
// returned.
func Attach(conn, transport net.Conn) error {
	h, ok := conn.(*handle)
	if !ok || h == nil {
		return fmt.Errorf("plex: Attach: conn is a %T, not the connection that Connect was given; nothing was attached", conn)
	}
	return h.attach(transport)
}

// Dial returns a Connect that dials with a [net.Dialer]. The name in address is resolved anew each
// time.
func Dial(network, address string) Connect {
	return DialContext(&net.Dialer{}, network, address)
}

// DialContext returns a Connect that dials with d, or nil if d is nil, which WithConnector refuses.
func DialContext(d ContextDialer, network, address string) Connect {
	if caller.IsNil(d) {
		return nil
	}
	return DialFunc(func(ctx context.Context) (net.Conn, error) {
		return d.DialContext(ctx, network, address)
	})
}

// DialFunc returns a Connect that calls dial, or nil if dial is nil, which WithConnector refuses.
// If dial returns both a connection and an error, the connection is closed.
func DialFunc(dial func(ctx context.Context) (net.Conn, error)) Connect {
	if dial == nil {
		return nil
	}
	return DialAddr(func(ctx context.Context, _ net.Addr) (net.Conn, error) { return dial(ctx) })
}

// DialAddr is DialFunc for a function that wants to know the remote address of the connection that
// is to be replaced. For a connection that replaces none it is that of the pool's first connection,
// see [Multiplexer.Addr], and nil as long as there has been none.
func DialAddr(dial func(ctx context.Context, addr net.Addr) (net.Conn, error)) Connect {
	if dial == nil {
		return nil
	}
	return func(ctx context.Context, conn net.Conn) error {
		transport, err := dial(ctx, conn.RemoteAddr())
		if err != nil {
			if !caller.IsNil(transport) {
				_ = caller.Guard("the transport's Close", transport.Close) // the dial's error says more
			}
			return err
		}
		return Attach(conn, transport)
	}
}

// handle is the net.Conn that a Connect works with. Its reads and writes are those of leases on the
// halves of the connection to be, so that what holds for every lease holds here: it can be
// interrupted, leaves no deadline behind, and reaches nothing once it has ended.
type handle struct {
	m    *Multiplexer
	addr net.Addr // of the connection that is replaced, or that was chosen
	at   Address  // that was chosen, see WithResolver

	mu       sync.Mutex
	c        *conn // nil before Attach
	returned bool  // Connect has returned
	misuse   error // of Attach, which makes the connect fail whatever Connect returns
}

var errNoTransport = errors.New("plex: the connection has no transport yet; Attach gives it one")

func (h *handle) attach(transport net.Conn) error {
	unwanted, err := h.take(transport)
	if err == nil {
		return nil
	}
	if unwanted { // err says why
		_ = caller.Guard("the transport's Close", transport.Close)
	}
	return fmt.Errorf("plex: Attach: %w", err)
}

// take claims transport for h, or says why it cannot, and whether it has to be closed. A transport
// that is in the pool already is left alone; so is one that is no transport.
func (h *handle) take(transport net.Conn) (unwanted bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	defer func() {
		if err != nil && h.misuse == nil {
			h.misuse = fmt.Errorf("plex: Attach: %w", err)
		}
	}()
	if caller.IsNil(transport) {
		return false, ErrNilConnection
	}
	if _, ok := transport.(*handle); ok {
		return false, errors.New("the transport is itself a connection to be established; attach what was dialled")
	}
	switch {
	case h.returned:
		err = fmt.Errorf("Connect has returned: %w", net.ErrClosed)
	case h.c != nil:
		err = ErrAttached
	default:
		if h.c, err = h.m.claim(transport, true, h.at); err == nil {
			return false, nil
		}
	}
	return !h.m.knows(transport), err
}

// giveUp is called when the time for the Connect is up: what it has attached fails, so that it does
// not go on waiting for the transport.
func (h *handle) giveUp(cause error) {
	h.mu.Lock()
	c := h.c
	if h.returned {
		c = nil
	}
	h.mu.Unlock()
	if c != nil {
		c.fail(cause)
	}
}

// finish ends the Connect that was given h: it returns the connection, which has failed if there is
// an error, and is nil if none was attached.
func (h *handle) finish(err error) (*conn, error) {
	h.mu.Lock()
	h.returned = true
	c, misuse := h.c, h.misuse
	h.mu.Unlock()
	switch {
	case err != nil:
	case misuse != nil:
		err = misuse
	case c == nil:
		err = ErrNotAttached
	default:
		err = c.failure()
	}
	if c != nil && err != nil {
		c.fail(err)
	}
	return c, err
}

func (h *handle) lease() (r Reader, w Writer, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.c == nil {
		return r, w, errNoTransport
	}
	return Reader{&h.c.r, firstLease}, Writer{&h.c.w, firstLease}, nil
}

func (h *handle) Read(p []byte) (int, error) {
	r, _, err := h.lease()
	if err != nil {
		return 0, err
	}
	return r.Read(p)
}

func (h *handle) Write(p []byte) (int, error) {
	_, w, err := h.lease()
	if err != nil {
		return 0, err
	}
	return w.Write(p)
}

// Close gives the connection up: the connect fails.
func (h *handle) Close() error {
	r, _, err := h.lease()
	if err != nil {
		return err
	}
	if !r.h.live(r.id) {
		return ErrLeaseClosed
	}
	r.h.conn.fail(errors.New("plex: Connect has closed the connection"))
	return nil
}

func (h *handle) SetDeadline(t time.Time) error {
	return errors.Join(h.SetReadDeadline(t), h.SetWriteDeadline(t))
}

func (h *handle) SetReadDeadline(t time.Time) error {
	r, _, err := h.lease()
	if err != nil {
		return err
	}
	return r.SetReadDeadline(t)
}

func (h *handle) SetWriteDeadline(t time.Time) error {
	_, w, err := h.lease()
	if err != nil {
		return err
	}
	return w.SetWriteDeadline(t)
}

func (h *handle) LocalAddr() net.Addr {
	r, _, _ := h.lease() // without a transport there is no address, which is no error
	return r.LocalAddr()
}

func (h *handle) RemoteAddr() net.Addr {
	if r, _, err := h.lease(); err == nil {
		return r.RemoteAddr()
	}
	return h.addr
}

// connect calls the connector once, in a slot that the supervisor has reserved, and admits what it
// brings. It returns when the connector does, however long that takes; then the slot is taken or
// free.
func (m *Multiplexer) connect(a *attempt) {
	ctx, cancel := context.WithTimeout(m.ctx, min(m.cfg.connectTimeout.Get(), maxWait))
	defer cancel()
	h := &handle{m: m, addr: a.loss.addr, at: a.to}
	// A handshake that blocks in the transport without a deadline would not notice.
	gaveUp := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(gaveUp)
		h.giveUp(caller.ContextError(ctx))
	})
	// The user's function may end its goroutine, which is why it gets one of its own.
	err := caller.Apart("Connect", func() error { return m.cfg.connect(ctx, h) })
	if !stop() {
		<-gaveUp // so that what is admitted below does not fail behind its back
	}
	c, err := h.finish(err)
	if err == nil {
		c.attempt = a // c is not admitted yet, so nobody else looks
		if err = c.prepare(ctx, m.cfg.connectTimeout.Get()); err == nil {
			err = m.admit(c)
		}
		if err != nil {
			c.fail(err)
		}
	}
	if err != nil {
		m.connectFailed(c, a, err)
	}
}

// connectFailed frees the slot of a connect that has failed.
func (m *Multiplexer) connectFailed(c *conn, a *attempt, err error) {
	m.mu.Lock()
	for c != nil && c.life.phase != phaseClosed { // a slot is not free as long as the peer has a connection in it
		m.changed.Wait()
	}
	m.lastErr = err
	m.stats.ConnectFailed++
	m.unreserveLocked()
	now := time.Now()
	if !m.refusing {
		m.news.connectFailed(a, now.Sub(a.started), err)
	}
	m.failedLocked(a, now, err)
	m.mu.Unlock()
}

// connectFirst waits for the connects of New's minimum, which the supervisor makes at the pace of
// the service. The first error is New's, with three exceptions, in which the supervisor tries again
// and New gives up when nothing has succeeded for the connect timeout: a full backlog; once others
// have succeeded, whatever says that it is temporary; and an error of one address while another
// answers. The caller closes the multiplexer then, and with it what the others bring.
func (m *Multiplexer) connectFirst(ctx context.Context, n int) error {
	if r := m.healer.resolver; r != nil && n > 0 {
		select {
		case err := <-r.first:
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return fmt.Errorf("plex: WithResolver: %w", caller.ContextError(ctx))
		}
	}
	timeout := min(m.cfg.connectTimeout.Get(), maxWait)
	err := m.firsts.await(ctx, n, timeout, func(err error, done int) bool {
		if sock.BacklogFull(err) || done > 0 && isTemporary(err) {
			return true
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.healer.resolver != nil && m.healer.pace.Answers(time.Now())
	})
	if err != nil {
		return fmt.Errorf("plex: WithMinConnections: connecting %d connections: %w", n, err)
	}
	return nil
}

// firsts is what has become of the connects for New's minimum.
type firsts struct {
	news chan struct{} // there is something to take; holds one

	mu   sync.Mutex
	done int     // how many have succeeded
	errs []error // of those that have failed since take
}

func (f *firsts) report(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		f.done++
	} else {
		f.errs = append(f.errs, err)
	}
	wakeUp(f.news)
}

func (f *firsts) take() (done int, errs []error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	errs, f.errs = f.errs, nil
	return f.done, errs
}

// await waits until n have succeeded, one has failed with an error that is not tolerated, or none has
// succeeded for a time.
func (f *firsts) await(ctx context.Context, n int, timeout time.Duration, tolerated func(err error, done int) bool) error {
	patience := time.NewTimer(math.MaxInt64)
	defer patience.Stop()
	last := error(context.DeadlineExceeded)
	waits := false // patience runs
	for before := 0; ; {
		done, errs := f.take()
		if done >= n {
			return nil
		}
		for _, err := range errs {
			if last = err; !tolerated(err, done) {
				return err
			}
		}
		if done > before || len(errs) > 0 && !waits {
			before, waits = done, true
			patience.Reset(timeout)
		}
		select {
		case <-f.news:
		case <-patience.C:
			return last
		case <-ctx.Done():
			return caller.ContextError(ctx)
		}
	}
}

// isTemporary reports whether an error says that it may be gone the next time.
func isTemporary(err error) bool {
	var temporary interface{ Temporary() bool }
	return errors.As(err, &temporary) && temporary.Temporary()
}
