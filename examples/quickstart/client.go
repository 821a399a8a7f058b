package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"go.atomizer.io/plex"
)

// client makes calls over whichever connections are free.
//
// Writing and reading are separate on purpose. A caller leases a writer for as long as it takes to write one message.
// The replies come back in any order and over any connection, so callers do not read: one goroutine per connection
// does, and hands each reply to the caller whose id it carries.
//
// Package request does all of this, and more: see examples/dns. This is how to do it by hand.
type client struct {
	mux       *plex.Multiplexer
	receivers sync.WaitGroup

	mu      sync.Mutex
	lastID  uint64
	waiting map[uint64]chan uint64 // by id; each channel has room for its one reply
	err     error                  // the first failure of a receiver
}

func newClient(ctx context.Context, address string, connections int) (*client, error) {
	mux, err := plex.New(ctx,
		plex.WithConnector(plex.Dial("tcp", address)),
		plex.WithMinConnections(connections),
		plex.WithMaxCapacity(connections),
	)
	if err != nil {
		return nil, err
	}
	c := &client{mux: mux, waiting: make(map[uint64]chan uint64)}
	for range connections {
		c.receivers.Go(c.receive)
	}
	return c, nil
}

// call sends one request and waits for its reply.
func (c *client) call(ctx context.Context, number uint64) (uint64, error) {
	// First, since the reply may be here before Write has returned.
	id, reply := c.expect()
	defer c.forget(id)

	if err := c.send(ctx, frame{id, number}); err != nil {
		return 0, fmt.Errorf("send request %d: %w", id, err)
	}
	select {
	case number := <-reply:
		return number, nil
	case <-ctx.Done():
		return 0, fmt.Errorf("wait for reply %d: %w", id, context.Cause(ctx))
	}
}

// send writes one message. Nobody else can write to the connection meanwhile, so messages never mix.
func (c *client) send(ctx context.Context, f frame) error {
	w, err := c.mux.Writer(ctx, 10*time.Second)
	if err != nil {
		return err
	}
	_, err = w.Write(f.bytes())

	// The lease goes back after a failed write too. plex knows how the write ended, and whether the connection can be
	// used again.
	return errors.Join(err, w.Close())
}

// receive leases readers, one after the other, until the multiplexer is closed.
func (c *client) receive() {
	for {
		r, err := c.mux.Reader(context.Background(), 0)
		if err != nil {
			c.fail(err)
			return
		}
		// Kill, not Close: the connection broke, and the rest of a message may be on its way, which the next lease would
		// take for the start of one.
		err = c.route(r)
		c.fail(errors.Join(err, r.Kill()))
	}
}

// route hands out the replies of one connection. It returns only when the connection has failed or plex was closed.
//
// It keeps its lease all that time, because a reader that reads ahead, as bufio.Reader does, takes bytes that the
// next lease would miss. Where a lease must be short, read exactly one message and close the lease between two messages.
func (c *client) route(r io.Reader) error {
	for replies := bufio.NewReader(r); ; {
		f, err := readFrame(replies)
		if err != nil {
			return err
		}
		c.mu.Lock()
		if reply, ok := c.waiting[f.id]; ok { // otherwise it is late: its caller has given up
			reply <- f.number
			delete(c.waiting, f.id)
		}
		c.mu.Unlock()
	}
}

// expect draws an id and announces a reply to it.
func (c *client) expect() (id uint64, reply <-chan uint64) {
	ch := make(chan uint64, 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastID++
	c.waiting[c.lastID] = ch
	return c.lastID, ch
}

func (c *client) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
}

// fail keeps the first failure. That the multiplexer was closed is none: it is how receivers end.
func (c *client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil && !errors.Is(err, plex.ErrClosed) {
		c.err = err
	}
}

// close ends the receivers' leases by closing the connections, and returns what a receiver failed with before.
func (c *client) close() error {
	err := c.mux.Close()
	c.receivers.Wait()
	return errors.Join(err, c.err)
}
