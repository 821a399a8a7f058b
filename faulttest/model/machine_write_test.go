package model

// Writers: Write, streams, deadlines, Close and Kill.

import (
	"context"
	"errors"
	"slices"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/oracle"
	"pgregory.net/rapid"
)

// outflow is a stream of what is to be sent.
type outflow struct {
	bytes    chan<- byte
	chunks   chan<- []byte
	cancel   context.CancelFunc
	canceled bool
	timed    bool   // a deadline may have ended it
	closed   bool   // its channel
	base     uint64 // what the client had written when it began
	accepted uint64 // by the channel
	besides  uint64 // written by Write when the stream was over
}

// offer sends p if the channel takes it now.
func (out *outflow) offer(p []byte) bool {
	if out.bytes != nil {
		select {
		case out.bytes <- p[0]:
			return true
		default:
			return false
		}
	}
	select {
	case out.chunks <- p:
		return true
	default:
		return false
	}
}

// next is the bytes of the connection's stream from offset on.
func (c *conn) next(offset uint64, n int) []byte {
	p := make([]byte, n)
	oracle.Fill(oracle.ID(c.id, false), offset, p)
	return p
}

// stalled reports whether a write to the connection blocks.
func (c *conn) stalled() bool {
	w := c.peek()
	return w.credit == 0 && w.err == nil && !c.dead
}

// sends reports whether the lease's stream certainly runs, and whether it may.
func (m *machine) sends(l *lease) (must, may bool) {
	if l.out == nil || l.out.canceled {
		return false, false
	}
	c := l.conn
	if l.out.closed {
		return false, c.stalled()
	}
	return !c.dead && c.peek().err == nil && !l.out.timed, true
}

func (m *machine) write(t *rapid.T) {
	l := pick(t, "writer", m.writers.live())
	if l.busy {
		t.Skip("a Write is under way")
	}
	l.busy = true
	c, must, may := l.conn, false, false
	must, may = m.sends(l)
	before := c.peek().written
	p := c.next(before, rapid.IntRange(1, 40).Draw(t, "size"))
	var n int
	var err error
	m.start("Write to "+describe(l.side, c), func() { n, err = l.write(p) },
		func() bool { return c.stalled() && !l.closing && !l.expired() },
		func() {
			l.busy = false
			if errors.Is(err, plex.ErrStreaming) {
				require.True(m.t, may, "there is no stream")
				require.Zero(m.t, n)
				return
			}
			require.False(m.t, must, "a Write beside a stream")
			require.Equal(m.t, c.peek().written-before, uint64(n), "bytes written")
			if l.out != nil {
				l.out.besides += uint64(n)
			}
			if n == len(p) {
				require.NoError(m.t, err)
				return
			}
			require.Error(m.t, err, "a short Write")
			m.explained(l, err)
		})
}

func (m *machine) setWriteDeadline(t *rapid.T) {
	l := pick(t, "writer", m.writers.live())
	deadline := drawDeadline(t)
	m.deadlineSet(l, l.setDeadline(deadline), deadline)
}

func (m *machine) send(t *rapid.T) {
	l := pick(t, "writer", m.writers.single())
	if l.busy {
		t.Skip("it would wait for its turn")
	}
	if l.out != nil && !l.out.closed && !l.out.canceled {
		if must, _ := m.sends(l); !must {
			// A stream whose sender has not ended it may be over or not, and if it is, what is sent to it until the next
			// begins is counted.
			t.Skip("it may be refused or not")
		}
	}
	must, may := m.sends(l)
	out := &outflow{base: l.conn.peek().written, timed: !l.deadline.IsZero()}
	var ctx context.Context
	ctx, out.cancel = context.WithCancel(context.Background())
	var err error
	if rapid.Bool().Draw(t, "chunks") {
		out.chunks, err = l.w.SendChunks(ctx, rapid.SampledFrom([]int{0, 1, 7, 30}).Draw(t, "chunk"))
	} else {
		out.bytes, err = l.w.Send(ctx, rapid.SampledFrom([]int{0, 1, 7, 30}).Draw(t, "buffer"))
	}
	switch {
	case errors.Is(err, plex.ErrStreaming):
		out.cancel()
		require.True(t, may, "there is no stream")
		return
	case err != nil:
		out.cancel()
		require.True(t, l.conn.dead, "%v", err)
		require.ErrorIs(t, err, l.conn.cause)
		return
	}
	require.False(t, must, "two streams")
	if l.out != nil {
		l.unsent += l.out.missing(out.base)
		l.out.release()
	}
	l.out = out
}

// missing is what the stream has accepted and not written, if the client has written so much when it is over.
func (out *outflow) missing(written uint64) uint64 {
	return out.accepted - (written - out.base - out.besides)
}

// release lets go of the channel.
func (out *outflow) release() {
	out.cancel()
	if !out.closed {
		out.closed = true
		if out.bytes != nil {
			close(out.bytes)
		} else {
			close(out.chunks)
		}
	}
}

// senders returns the leases whose stream can be sent to.
func (m *machine) senders() (senders []*lease) {
	for _, l := range m.writers.live() {
		if l.out != nil && !l.out.closed {
			senders = append(senders, l)
		}
	}
	return senders
}

// give sends to a stream.
func (m *machine) give(t *rapid.T) {
	l := pick(t, "stream", m.senders())
	c, out := l.conn, l.out
	for range rapid.IntRange(1, 10).Draw(t, "pieces") {
		n := 1
		if out.chunks != nil {
			n = rapid.IntRange(1, 40).Draw(t, "size")
		}
		if !out.offer(c.next(out.base+out.accepted, n)) {
			require.True(t, c.stalled(), "a stream takes nothing, though its connection does")
			return
		}
		out.accepted += uint64(n)
		m.quiet()
		if must, _ := m.sends(l); must && !c.stalled() {
			require.Zero(t, out.missing(c.peek().written), "something sent is not on the wire")
		}
	}
}

// closeChannel ends a stream.
func (m *machine) closeChannel(t *rapid.T) {
	l := pick(t, "stream", m.senders())
	l.out.closed = true
	if l.out.bytes != nil {
		close(l.out.bytes)
	} else {
		close(l.out.chunks)
	}
}

func (m *machine) cancelSend(t *rapid.T) {
	l := pick(t, "stream", m.senders())
	if l.out.canceled {
		t.Skip("cancelled already")
	}
	l.out.cancel()
	l.out.canceled = true
}

func (m *machine) closeWriter(t *rapid.T) { m.endWriter(pick(t, "writer", m.writers.single()), false) }

// killWriter kills a lease, which may already be waiting for its flush.
func (m *machine) killWriter(t *rapid.T) {
	l := pick(t, "writer", slices.DeleteFunc(slices.Clone(m.writers.leases), func(l *lease) bool { return l.mate != nil }))
	if !l.closing {
		m.endWriter(l, true)
		return
	}
	m.fail(l.conn, plex.ErrKilled)
	var err error
	m.start("a second end of a lease of "+describe(l.side, l.conn), func() { err = l.w.Kill() },
		func() bool { return false },
		func() {
			if err != nil {
				require.ErrorIs(m.t, err, plex.ErrLeaseClosed) // another has killed it
				require.True(m.t, l.conn.dead)
			}
		})
}

func (m *machine) endWriter(l *lease, kill bool) {
	l.closing = true
	c := l.conn
	if kill {
		m.fail(c, plex.ErrKilled)
	}
	var err error
	end := m.start("the end of a lease of "+describe(l.side, c), func() {
		if kill {
			err = l.w.Kill()
		} else {
			err = l.w.Close()
		}
	}, func() bool {
		// The flush of a stream waits for the peer.
		return !kill && l.out != nil && c.stalled() && !l.expired() && l.out.missing(c.peek().written) > 0
	}, func() {
		unsent := l.unsent
		if l.out != nil {
			unsent += l.out.missing(c.peek().written)
			l.out.release()
		}
		var e *plex.UnsentError
		switch {
		case kill:
			require.NoError(m.t, err)
		case unsent > 0:
			require.ErrorAs(m.t, err, &e)
			require.Equal(m.t, int64(unsent), e.Unsent)
		default:
			require.NoError(m.t, err)
		}
		m.ended(l)
	})
	end.ends = l
}
