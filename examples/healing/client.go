package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex"
)

// client makes requests over whichever connections are there.
//
// plex replaces the connections that die. What was on its way over one of them is gone, and whether the server has seen
// it nobody can know; so plex sends nothing twice, and to try again is the client's decision. It may, because to ask
// this server twice does no harm.
type client struct {
	mux       *plex.Multiplexer
	receivers sync.WaitGroup

	answered atomic.Int64 // requests
	wrong    atomic.Int64 // replies that were not what had been asked for
	retried  atomic.Int64 // attempts that failed and were made again

	mu        sync.Mutex
	lastID    uint64
	waiting   map[uint64]chan uint64 // for the reply to the request with this id
	lastReply time.Time
	longest   time.Duration // without any reply
	why       error         // the latest failure to get a connection
}

// A message is an id, by which the reply is found, and a number that is to come back.
const messageSize = 16

// newClient starts as many receivers as there can be connections.
func newClient(mux *plex.Multiplexer, connections int) *client {
	c := &client{mux: mux, waiting: make(map[uint64]chan uint64), lastReply: time.Now()}
	for range connections {
		c.receivers.Go(c.receive)
	}

	return c
}

// request asks until it has an answer, or ctx ends.
func (c *client) request(ctx context.Context, number uint64) {
	for ctx.Err() == nil {
		reply, err := c.attempt(ctx, number)
		switch {
		case err != nil:
			if ctx.Err() == nil {
				c.retried.Add(1)
			}
			continue
		case reply != number:
			c.wrong.Add(1)
		default:
			c.answered.Add(1)
		}

		return
	}
}

// attempt asks once.
func (c *client) attempt(ctx context.Context, number uint64) (uint64, error) {
	id, reply := c.expect()
	defer c.forget(id)

	w, err := c.mux.Writer(ctx, patience)
	if err != nil { // there is no connection, and the error says why
		c.mu.Lock()
		defer c.mu.Unlock()
		c.why = err

		return 0, err
	}

	message := binary.BigEndian.AppendUint64(nil, id)
	message = binary.BigEndian.AppendUint64(message, number)
	_, err = w.Write(message)
	if err := errors.Join(err, w.Close()); err != nil {
		return 0, err
	}

	select {
	case number := <-reply:
		return number, nil
	case <-time.After(patience): // perhaps the connection has died
		return 0, fmt.Errorf("no reply within %v", patience)
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// receive hands out the replies of one connection after another, until the multiplexer is closed.
func (c *client) receive() {
	for {
		r, err := c.mux.Reader(context.Background(), 0)
		if err != nil {
			return
		}

		replies := bufio.NewReader(r)
		var message [messageSize]byte
		for {
			if _, err := io.ReadFull(replies, message[:]); err != nil {
				break // the connection has died, and is being replaced
			}
			c.deliver(binary.BigEndian.Uint64(message[:8]), binary.BigEndian.Uint64(message[8:]))
		}
		_ = r.Close() // what was wrong with the connection is known
	}
}

func (c *client) expect() (id uint64, reply <-chan uint64) {
	ch := make(chan uint64, 1)

	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastID++
	c.waiting[c.lastID] = ch

	return c.lastID, ch
}

func (c *client) deliver(id, number uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()

	now := time.Now()
	c.longest = max(c.longest, now.Sub(c.lastReply))
	c.lastReply = now
	if reply, ok := c.waiting[id]; ok { // else it is late: the request has been made again
		reply <- number
		delete(c.waiting, id)
	}
}

func (c *client) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
}
