package faulttest_test

// Transports that refuse deadlines, as SSH channels do, beside receivers.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/message"
	"go.atomizer.io/plex/request"
)

// undated is a transport that refuses deadlines.
type undated struct{ net.Conn }

func (undated) SetDeadline(time.Time) error      { return errors.New("not supported") }
func (undated) SetReadDeadline(time.Time) error  { return errors.New("not supported") }
func (undated) SetWriteDeadline(time.Time) error { return errors.New("not supported") }

// mixed are connections in memory of which all but one refuse deadlines, more of them than there are receivers. serve is
// called with the other end of each.
func mixed(t *testing.T, n int, serve func(net.Conn)) []net.Conn {
	conns := make([]net.Conn, n)
	for i := range conns {
		client, server := net.Pipe()
		if conns[i] = client; i > 0 {
			conns[i] = undated{client}
		}
		t.Cleanup(func() { _ = server.Close() })
		go serve(server)
	}
	return conns
}

const starves = "a connection that refuses deadlines counts as ready whenever it is idle, and whoever leases it sits in its Read"

// Requests over more connections that refuse deadlines than there are receivers: each is answered, over whichever it
// goes, and callers who give up cost no connection.
// Catches: receivers that sit in the Reads of silent connections, while nobody reads from the others.
func TestFaultRequestsOverTransportsThatRefuseDeadlines(t *testing.T) {
	t.Skip(starves)
	const n, receivers = 9, 2
	balance(t)
	m := newMux(t, plex.WithConnections(mixed(t, n, func(c net.Conn) { _, _ = io.Copy(c, c) })...))
	client, err := request.New[string, string](m, numbered{}, request.WithReceivers(receivers))
	require.NoError(t, err)
	defer client.Close()
	used := make(map[plex.Conn]bool)
	for i := range 20 * n {
		w := writer(t, m) // so that the request goes over the next one
		used[w.Conn()] = true
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		question := fmt.Sprintf("question %d", i)
		require.NoError(t, w.Close())
		answer, err := client.Do(ctx, question)
		cancel()
		require.NoError(t, err)
		require.Equal(t, question, answer)
	}
	require.Len(t, used, n)
	var callers sync.WaitGroup
	var answered atomic.Int64
	for caller := range 2 * n {
		callers.Go(func() {
			for i := range 100 {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				if i%10 == 0 {
					cancel() // before, or while it is sent
				}
				question := fmt.Sprintf("question %d of caller %d", i, caller)
				switch answer, err := client.Do(ctx, question); {
				case err == nil && answer != question:
					t.Errorf("%q is the answer to %q", answer, question)
				case err == nil:
					answered.Add(1)
				case ctx.Err() == nil || i%10 != 0:
					t.Errorf("%q: %v", question, err)
				}
				cancel()
			}
		})
	}
	within(t, "the callers", callers.Wait)
	require.GreaterOrEqual(t, answered.Load(), int64(2*n*90))
	require.Zero(t, m.Stats().Lost)
}

// Messages that arrive on each in turn: two loops get them all.
func TestFaultMessagesOverTransportsThatRefuseDeadlines(t *testing.T) {
	t.Skip(starves)
	const n, each = 9, 20
	balance(t)
	turn := make(chan string)
	var servers atomic.Int64
	ready := make(chan struct{})
	m := newMux(t, plex.WithConnections(mixed(t, n, func(c net.Conn) {
		if servers.Add(1) == n {
			close(ready)
		}
		for i := 0; ; i++ { // each of them has its turn in the end, for a Write returns when it has been read
			text, ok := <-turn
			if !ok {
				return
			}
			if _, err := io.WriteString(c, text); err != nil {
				return
			}
		}
	})...))
	defer close(turn)
	r, err := message.New(m, message.Lines)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var got sync.Map
	var count atomic.Int64
	var loops sync.WaitGroup
	for range 2 {
		loops.Go(func() {
			for msg, err := range r.All(ctx) {
				if err != nil {
					t.Errorf("a loop: %v", err)
					return
				}
				if _, again := got.LoadOrStore(string(msg.Data), msg.Conn); again {
					t.Errorf("%q came twice", msg.Data)
				}
				if count.Add(1) == n*each {
					cancel()
				}
			}
		})
	}
	<-ready
	go func() {
		for i := range n * each {
			select {
			case turn <- fmt.Sprintf("message %d\n", i):
			case <-ctx.Done():
				return
			}
		}
	}()
	within(t, "the loops", loops.Wait)
	require.EqualValues(t, n*each, count.Load())
	require.Zero(t, m.Stats().Lost)
}
