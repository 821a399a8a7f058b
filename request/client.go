package request

// The client, from New to Close. Do is in do.go.

import (
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

// Client makes requests over the connections of a multiplexer. Make one with [New]. All methods may
// be called from any number of goroutines.
type Client[Q, R any] struct {
	mux      *plex.Multiplexer
	protocol Protocol[Q, R]
	cfg      *config
	parseOne func(message []byte) (id uint64, reply R, err error) // Parse or ParseBorrowed
	borrows  bool                                                 // it is the latter
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
	cfg, err := configure(options)
	if caller.IsNil(p) {
		err = errors.Join(errors.New("request: New: the protocol is nil; give one that is not"), err)
	}
	if m == nil {
		err = errors.Join(errors.New("request: New: the multiplexer is nil; make one with plex.New"), err)
	}
	if err != nil {
		return nil, err
	}
	var forMessages []message.Option
	if cfg.maxSize.Given() {
		forMessages = append(forMessages, message.WithMaxSize(cfg.maxSize.Get()))
	}
	messages, err := message.New(m, p.Split, forMessages...)
	if err == nil {
		err = ready(m)
	}
	if err != nil {
		return nil, fmt.Errorf("request: New: %w", err)
	}
	return start(m, p, cfg, messages), nil
}

// start makes the client and starts its goroutines.
func start[Q, R any](m *plex.Multiplexer, p Protocol[Q, R], cfg *config, messages *message.Receiver) *Client[Q, R] {
	c := &Client[Q, R]{mux: m, protocol: p, cfg: cfg, messages: messages, parseOne: p.Parse}
	if b, ok := p.(Borrower[R]); ok {
		c.parseOne, c.borrows = b.ParseBorrowed, true
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.calls.New = func() any { return &call[R]{done: make(chan signal, 2)} }
	c.flushers.New = func() any { return new(flusher[R]) }
	c.scratches.New = func() any { return new(scratch) }
	c.table.init(cfg, c.lost, c.watch)
	for range cfg.receivers.Get() {
		c.wg.Go(c.receive)
	}
	return c
}

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
