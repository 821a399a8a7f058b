package model

// Readers: Read, streams, deadlines, Close and Kill.

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/oracle"
	"pgregory.net/rapid"
)

// inflow is a stream of what arrives.
type inflow struct {
	bytes    <-chan byte
	chunks   <-chan []byte
	cancel   context.CancelFunc
	canceled bool
	timed    bool // a deadline may have ended it
	reread   bool // a Read has taken back what its channel held
	over     bool // its channel was found closed
}

// poll takes from the channel what is there now.
func (in *inflow) poll() (p []byte, came, open bool) {
	if in.bytes != nil {
		select {
		case b, ok := <-in.bytes:
			return []byte{b}, ok, ok
		default:
			return nil, false, true
		}
	}
	select {
	case p, ok := <-in.chunks:
		return p, ok, ok
	default:
		return nil, false, true
	}
}

// deliver compares what a consumer was given with what the peer sent.
func (m *machine) deliver(c *conn, p []byte) {
	id := oracle.ID(c.id, true)
	require.Equal(m.t, len(p), oracle.Match(id, c.delivered, p), "bytes delivered at %d of connection %d", c.delivered, c.id)
	c.delivered += uint64(len(p))
	require.LessOrEqual(m.t, c.delivered, c.peek().sent)
}

// streams reports whether the lease's stream certainly runs, and whether it may.
func (m *machine) receives(l *lease) (must, may bool) {
	if l.in == nil || l.in.over || l.in.canceled {
		return false, false
	}
	w := l.conn.peek()
	return !l.conn.dead && !l.conn.retired && !w.fin && w.err == nil && !l.in.timed, true
}

func (m *machine) read(t *rapid.T) {
	l := pick(t, "reader", m.readers.live())
	if l.busy {
		t.Skip("a Read is under way")
	}
	l.busy = true
	c, p := l.conn, make([]byte, rapid.IntRange(1, 40).Draw(t, "size"))
	must, may := m.receives(l)
	var n int
	var err error
	m.start("Read of "+describe(l.side, c), func() { n, err = l.read(p) },
		func() bool {
			w := c.peek()
			return c.left() == 0 && !w.fin && w.err == nil && !c.dead && !c.retired && !l.closing && !l.expired()
		},
		func() {
			l.busy = false
			if errors.Is(err, plex.ErrStreaming) {
				require.True(m.t, may, "there is no stream")
				require.Zero(m.t, n)
				return
			}
			require.False(m.t, must, "a Read beside a stream")
			if l.in != nil {
				l.in.reread = true
			}
			m.deliver(c, p[:n])
			if c.ended && n == 0 && (err == io.EOF || errors.Is(err, plex.ErrRetired) || c.dead && errors.Is(err, c.cause)) {
				c.untold = false
			}
			switch {
			case n > 0:
				require.NoError(m.t, err)
			case err == io.EOF: // never wrapped, as of any reader
				require.True(m.t, c.atEnd || c.retired)
				require.Zero(m.t, c.left(), "an end before all was delivered")
				require.False(m.t, c.dead, "an end of a connection that failed: %v", c.cause)
			default:
				require.Error(m.t, err, "a Read of nothing")
				m.explained(l, err)
			}
		})
}

// drawDeadline draws a deadline in the past or future, or none.
func drawDeadline(t *rapid.T) time.Time {
	d := rapid.SampledFrom([]time.Duration{-time.Second, 0, 20 * time.Millisecond, 2 * time.Second}).Draw(t, "deadline")
	if d == 0 {
		return time.Time{}
	}
	return time.Now().Add(d)
}

func (m *machine) setReadDeadline(t *rapid.T) {
	l := pick(t, "reader", m.readers.live())
	deadline := drawDeadline(t)
	m.deadlineSet(l, l.setDeadline(deadline), deadline)
}

func (m *machine) deadlineSet(l *lease, err error, deadline time.Time) {
	c := l.conn
	switch {
	case err == nil:
		l.deadline = deadline
		if l.in != nil {
			l.in.timed = true
		}
		if l.out != nil {
			l.out.timed = true
		}
	case c.dead:
		require.ErrorIs(m.t, err, c.cause)
	default:
		require.Equal(m.t, 1, c.peek().closes, "%v", err) // at its end, and read from memory
		require.True(m.t, c.atEnd || c.retired, "%v", err)
	}
}

func (m *machine) recv(t *rapid.T) {
	l := pick(t, "reader", m.readers.single())
	if l.busy {
		t.Skip("it would wait for its turn")
	}
	must, may := m.receives(l)
	in := &inflow{timed: !l.deadline.IsZero()}
	var ctx context.Context
	ctx, in.cancel = context.WithCancel(context.Background())
	var err error
	if rapid.Bool().Draw(t, "chunks") {
		in.chunks, err = l.r.RecvChunks(ctx, rapid.SampledFrom([]int{0, 1, 7, 30}).Draw(t, "chunk"))
	} else {
		in.bytes, err = l.r.Recv(ctx, rapid.SampledFrom([]int{0, 1, 7, 30}).Draw(t, "buffer"))
	}
	switch {
	case errors.Is(err, plex.ErrStreaming):
		in.cancel()
		require.True(t, may, "there is no stream")
		return
	case err != nil:
		in.cancel()
		m.tellsTheEnd(l.conn, err)
		return
	}
	require.False(t, must, "two streams")
	if l.in != nil {
		l.in.cancel()
		_, came, _ := l.in.poll()
		require.False(t, came, "what a stream left has gone to the next")
	}
	l.in, l.streamed = in, true
}

// take takes from a stream.
func (m *machine) take(t *rapid.T) {
	var streaming []*lease
	for _, l := range m.readers.live() {
		if l.in != nil && !l.in.over && !l.busy { // a Read that comes behind a stream takes back what is in its channel
			streaming = append(streaming, l)
		}
	}
	l := pick(t, "stream", streaming)
	for range rapid.IntRange(1, 30).Draw(t, "pieces") {
		if !m.takeOne(l) {
			return
		}
		m.quiet()
	}
}

// takeOne reports whether there was anything.
func (m *machine) takeOne(l *lease) bool {
	c := l.conn
	p, came, open := l.in.poll()
	w := c.peek()
	switch {
	case came:
		require.NotEmpty(m.t, p)
		m.deliver(c, p)
	case open:
		require.False(m.t, l.in.canceled, "a stream goes on after its ctx has ended")
		require.Zero(m.t, c.left(), "a stream does not deliver what has arrived")
		require.False(m.t, w.fin || c.dead || c.retired || w.err != nil || l.expired(), "a stream that has come to its end goes on")
	default:
		l.in.over = true
		m.streamOver(l)
	}
	return came
}

// streamOver compares the reason why a stream has ended.
func (m *machine) streamOver(l *lease) {
	c := l.conn
	switch err := l.r.Err(); {
	case err == nil:
		require.True(m.t, c.atEnd || c.retired, "a stream has ended for no reason")
		require.True(m.t, c.left() == 0 || l.in.reread, "a stream has ended before all was delivered")
	case errors.Is(err, context.Canceled):
		require.True(m.t, l.in.canceled)
	case errors.Is(err, os.ErrDeadlineExceeded):
		// The deadline may have been moved since.
	default:
		m.tellsTheEnd(c, err)
	}
}

func (m *machine) cancelRecv(t *rapid.T) {
	var streaming []*lease
	for _, l := range m.readers.live() {
		if l.in != nil && !l.in.canceled {
			streaming = append(streaming, l)
		}
	}
	l := pick(t, "stream", streaming)
	l.in.cancel()
	l.in.canceled = true
}

func (m *machine) closeReader(t *rapid.T) { m.endReader(pick(t, "reader", m.readers.single()), false) }

func (m *machine) killReader(t *rapid.T) { m.endReader(pick(t, "reader", m.readers.single()), true) }

func (m *machine) endReader(l *lease, kill bool) {
	l.closing = true
	if kill {
		m.fail(l.conn, plex.ErrKilled)
	}
	var err error
	m.start("the end of a lease of "+describe(l.side, l.conn), func() {
		if kill {
			err = l.r.Kill()
		} else {
			err = l.r.Close()
		}
	}, func() bool { return false }, func() {
		require.NoError(m.t, err)
		if l.in != nil {
			l.in.cancel()
			_, came, open := l.in.poll()
			require.False(m.t, came, "what a stream left has gone back to the connection")
			require.False(m.t, open, "a stream goes on after its lease")
		}
		m.ended(l)
	})
}
