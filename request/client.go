package request

// The client, from New to Close. Do is in do.go.

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/caller"
	"go.atomizer.io/plex/message"
)

// killedGrace is how long to wait, after a connection was killed, for the reason to become known.
const killedGrace = 10 * time.Millisecond

// Client makes requests over the connections of a multiplexer. Make one with [New] or
// [NewOrdered]. All methods may
// be called from any number of goroutines.
type Client[Q, R any] struct {
	mux       *plex.Multiplexer
	cfg       *config
	appendOne func(dst []byte, id uint64, request Q) ([]byte, error)
	parseOne  func(message []byte) (id uint64, reply R, err error) // Parse or ParseBorrowed
	borrows   bool                                                 // it is the latter

	// Optional; nil if the protocol has none.
	parsePart    func(message []byte) (id uint64, part R, last bool, err error) // called instead of parseOne
	appendCancel func(dst []byte, id uint64, request Q) ([]byte, error)
	pingRequest  func() Q

	// Of ordered replies; nil for others.
	parseOrdered func(message []byte, request Q) (R, error)
	replies      func(request Q) int // nil also if every request has one
	splitOf      func(plex.Conn) bufio.SplitFunc
	sessions     sessions[Q, R]

	messages *message.Receiver
	table    table[R]
	ctx      context.Context // ends when the client is closed
	cancel   context.CancelFunc
	wg       sync.WaitGroup // goroutines of the client

	// Pools belong to one client, because channels and timers must not cross the bubbles of
	// testing/synctest.
	calls     sync.Pool // *call[R], with an empty channel
	flushers  sync.Pool // *flusher[R], with a timer that does not run
	scratches sync.Pool // *scratch
}

// New makes a client for the protocol p over the connections of m, and starts the goroutines that
// receive the replies. The caller closes m, after the client. The error says what is wrong with the
// arguments and the options.
func New[Q, R any](m *plex.Multiplexer, p Protocol[Q, R], options ...Option) (*Client[Q, R], error) {
	const call = "New"
	cfg, err := configure(call, options)
	if err := refuse(call, m == nil, caller.IsNil(p), err); err != nil {
		return nil, err
	}
	ping, err := pinger[Q](call, p, cfg)
	if err != nil {
		return nil, err
	}
	messages, _, err := receive(m, p, p.Split, cfg)
	if err != nil {
		return nil, fmt.Errorf("request: %s: %w", call, err)
	}
	c := newClient[Q, R](m, cfg, messages)
	c.appendOne, c.parseOne, c.pingRequest = p.Append, p.Parse, ping
	if b, ok := p.(Borrower[R]); ok {
		c.parseOne, c.borrows = b.ParseBorrowed, true
	}
	if p, ok := p.(PartParser[R]); ok {
		c.parsePart, c.borrows = p.ParsePart, false
	}
	if p, ok := p.(Canceler[Q]); ok {
		c.appendCancel = p.AppendCancel
	}
	c.start()
	return c, nil
}

// refuse returns what is wrong with the arguments of New or NewOrdered. options is what is wrong with
// the options.
func refuse(call string, noMux, noProtocol bool, options error) error {
	err := options
	if noProtocol {
		err = errors.Join(fmt.Errorf("request: %s: the protocol is nil; give one that is not", call), err)
	}
	if noMux {
		err = errors.Join(fmt.Errorf("request: %s: the multiplexer is nil; make one with plex.New", call), err)
	}
	return err
}

// pinger returns the Ping of a protocol; nil if it is not needed.
func pinger[Q any](call string, protocol any, cfg *config) (func() Q, error) {
	if !cfg.idle.Given() {
		return nil, nil
	}
	if p, ok := protocol.(Pinger[Q]); ok {
		return p.Ping, nil
	}
	return nil, fmt.Errorf("request: %s: WithHeartbeat: the protocol has no method Ping that returns a request; add one, or leave the option out", call)
}

// receive makes the receiver of the messages of a protocol. splitOf returns the split function of a
// connection.
func receive(m *plex.Multiplexer, protocol any, split bufio.SplitFunc, cfg *config) (r *message.Receiver, splitOf func(plex.Conn) bufio.SplitFunc, err error) {
	var options []message.Option
	if cfg.maxSize.Given() {
		options = append(options, message.WithMaxSize(cfg.maxSize.Get()))
	}
	splitOf = func(plex.Conn) bufio.SplitFunc { return split }
	s, own := protocol.(Splitter)
	if own {
		splitOf = (&splits{make: s.SplitFor, of: make(map[plex.Conn]bufio.SplitFunc)}).get
	}
	if cfg.pulses != nil {
		splitOf = cfg.pulses.feel(splitOf)
	}
	if own || cfg.pulses != nil {
		r, err = message.NewFor(m, splitOf, options...)
	} else {
		r, err = message.New(m, split, options...)
	}
	if err == nil {
		err = ready(m)
	}
	return r, splitOf, err
}

// newClient makes a client that has no protocol yet.
func newClient[Q, R any](m *plex.Multiplexer, cfg *config, messages *message.Receiver) *Client[Q, R] {
	c := &Client[Q, R]{mux: m, cfg: cfg, messages: messages}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.calls.New = func() any { return &call[R]{done: make(chan signal, 2)} }
	c.flushers.New = func() any { return new(flusher[R]) }
	c.scratches.New = func() any { return new(scratch) }
	return c
}

// start starts the goroutines of a client.
func (c *Client[Q, R]) start() {
	c.table.init(c.cfg, c.lost, c.watch)
	c.table.cancels = c.appendCancel != nil
	if c.ordered() {
		c.table.inOrder, c.table.perConn, c.table.quiet = true, c.cfg.depth.Get(), c.replies != nil
	}
	for range c.cfg.receivers.Get() {
		c.wg.Go(c.receive)
	}
	c.startHeartbeat()
}

// ordered reports whether replies come in the order of the requests.
func (c *Client[Q, R]) ordered() bool { return c.parseOrdered != nil }

// ready has plex begin to watch for what arrives, which can fail. It also reports whether m is
// open.
func ready(m *plex.Multiplexer) error {
	r, err := m.ReadyReader(context.Background(), -1)
	var none *plex.AcquireError
	switch {
	case err == nil:
		_ = r.Close() // what has arrived stays there
	case !errors.As(err, &none) || errors.Is(err, plex.ErrClosed):
		return err
	}
	return nil
}

// Stats returns a snapshot, in which all figures are from the same moment.
func (c *Client[Q, R]) Stats() Stats { return c.table.snapshot() }

// Close fails what is in flight, and all later requests, with [ErrClosed], and returns when the
// client's goroutines have ended. It does not close the multiplexer. It kills connections that a
// reply can still come over, because another Client uses the same identifiers and would take the
// reply for one of its own: those with requests in flight, and those where a request was given up
// before its reply had come. It also kills connections that have brought part of a message, because
// nobody could make sense of the rest. Close may be called twice, and from anywhere but the methods
// of the Protocol and the function of [WithUnsolicited]. It returns nil.
func (c *Client[Q, R]) Close() error {
	c.end(ErrClosed)
	c.wg.Wait()
	c.table.wg.Wait()
	c.messages.Discard()
	return nil
}

// end fails everything with a reason, unless that has been done. It interrupts calls that wait for
// a connection, or for a peer to accept what they write.
func (c *Client[Q, R]) end(reason error) {
	victims, links := c.table.close(reason)
	victims.fail(reason)
	c.cancel()
	c.sessions.end(reason)
	var wg sync.WaitGroup
	for _, l := range links { // at the same time, because each may take long
		wg.Go(func() {
			if l.owes && reason != plex.ErrClosed { // which ends its connections anyway
				l.conn.Kill()
			}
			_ = l.writer.Close() // the one who writes gets the error
		})
	}
	wg.Wait()
}

// lost is called when a connection has ended and everything that it had brought is delivered.
func (c *Client[Q, R]) lost(l *link[R], cause error) {
	if errors.Is(cause, plex.ErrKilled) {
		// Whoever finds a message to be nonsense without having a lease kills the connection first,
		// and notes the reason a moment later.
		select {
		case <-l.known:
		case <-time.After(killedGrace):
		case <-c.ctx.Done():
		}
	}
	victims, w, why := c.table.end(l, errLost(l.conn, cause))
	victims.fail(why)
	_ = w.Close() // writing on to a peer that has only closed its own direction is useless
}
