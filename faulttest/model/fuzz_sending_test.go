package model

// What is sent on a stream is written once and in order, or counted as not written. A program of writes, streams,
// stalls, deadlines and leases is played on one connection; what the peer has of it and what Close counts have to add
// up to the byte. Two bytes of the program are one step.

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/oracle"
)

func FuzzSending(f *testing.F) {
	for _, program := range []string{
		"", "w9n0w9", "b0s9n0", "b5s9s9f0w3", "c0s9s1s1s9n0", "c4s9s9s9f0c1s5n0", "c3a5s9s9n0", "b9a3s9n0", "c9a0s9s9x0f0n0", "b4a2s9x0s5s5n0",
		"c3a4s9d0n0", "a3w9", "a3w9a~w9n0", "b9a1s9k0", "c9s9s9k0", "b0s5f0b0s5f0c0s5f0n0", "c2a9s9s9s9a~s9f0w5n0", "c9a5s9f0n0",
	} {
		f.Add([]byte(program))
	}
	f.Fuzz(func(t *testing.T, program []byte) {
		if len(program) > 300 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			var n network
			g := &sender{t: t, nc: n.dial()}
			m, err := plex.New(t.Context(), plex.WithConnections(g.nc))
			require.NoError(t, err)
			g.m = m
			g.lease()
			for ; len(program) >= 2 && !g.over; program = program[2:] {
				synctest.Wait()
				g.step(program[0], int(program[1]%40))
			}
			if !g.over {
				g.end(g.w.Close, false)
			}
			g.letGo()
			require.NoError(t, m.Close())
			require.Equal(t, 1, g.nc.peek().closes)
			require.NoError(t, g.nc.verdict())
		})
	})
}

type sender struct {
	t  *testing.T
	m  *plex.Multiplexer
	nc *memConn

	w    plex.Writer
	over bool // the connection is lost

	bytes    chan<- byte
	chunks   chan<- []byte
	cancel   context.CancelFunc
	accepted uint64 // by the streams of the lease
	plain    uint64 // written by Write in the lease
	start    uint64 // what had been written when the lease began
	base     uint64 // where the stream's bytes begin, less what the streams before had accepted
}

func (g *sender) lease() {
	var err error
	g.w, err = g.m.Writer(g.t.Context(), -1)
	if err != nil {
		require.ErrorIs(g.t, err, plex.ErrNoConnections)
		g.over = true
		return
	}
	g.start, g.accepted, g.plain = g.nc.peek().written, 0, 0
}

// next is the bytes of the connection's stream from offset on.
func (g *sender) next(offset uint64, n int) []byte {
	p := make([]byte, n)
	oracle.Fill(oracle.ID(g.nc.id, false), offset, p)
	return p
}

func (g *sender) step(op byte, arg int) {
	switch op {
	case 'w':
		before := g.nc.peek().written
		require.NoError(g.t, g.w.SetWriteDeadline(time.Now().Add(time.Millisecond)))
		n, err := g.w.Write(g.next(before, arg))
		if errors.Is(err, plex.ErrStreaming) {
			require.Zero(g.t, n)
		} else {
			require.Equal(g.t, g.nc.peek().written-before, uint64(n))
			require.Equal(g.t, n == arg, err == nil, "%v", err)
			g.plain += uint64(n)
		}
		require.NoError(g.t, g.w.SetWriteDeadline(time.Time{}))
	case 'b', 'c':
		g.stream(op == 'c', arg)
	case 's':
		g.send(arg)
	case 'f':
		g.closeChannel()
	case 'x':
		if g.cancel != nil {
			g.cancel()
		}
	case 'a':
		g.nc.allow(arg)
		if arg == '~'%40 {
			g.nc.allow(-1)
		}
	case 'd':
		require.NoError(g.t, g.w.SetWriteDeadline(time.Unix(1, 0)))
		synctest.Wait()
		require.NoError(g.t, g.w.SetWriteDeadline(time.Time{}))
	case 'n':
		g.end(g.w.Close, false)
		if !g.over {
			g.lease()
		}
	case 'k':
		g.end(g.w.Kill, true)
		g.over = true
	}
}

func (g *sender) stream(chunks bool, arg int) {
	if g.bytes != nil || g.chunks != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	var err error
	if chunks {
		g.chunks, err = g.w.SendChunks(ctx, arg)
	} else {
		g.bytes, err = g.w.Send(ctx, arg%20)
	}
	if err != nil { // the last one has been closed, and is not yet written
		cancel()
		g.bytes, g.chunks = nil, nil
		require.ErrorIs(g.t, err, plex.ErrStreaming)
		return
	}
	g.cancel = cancel
	g.base = g.nc.peek().written - g.accepted
}

// send sends on the stream what it takes.
func (g *sender) send(n int) {
	if g.bytes != nil {
		for range n {
			select {
			case g.bytes <- g.next(g.base+g.accepted, 1)[0]:
				g.accepted++
			default:
				return
			}
		}
	}
	if g.chunks != nil {
		select {
		case g.chunks <- g.next(g.base+g.accepted, n):
			g.accepted += uint64(n)
		default:
		}
	}
}

func (g *sender) closeChannel() {
	if g.bytes != nil {
		close(g.bytes)
	}
	if g.chunks != nil {
		close(g.chunks)
	}
	g.bytes, g.chunks = nil, nil
}

// letGo ends the stream for its sender.
func (g *sender) letGo() {
	g.closeChannel()
	if g.cancel != nil {
		g.cancel()
		g.cancel = nil
	}
}

// end ends the lease and adds up. A flush that the peer does not take is bounded by a deadline.
func (g *sender) end(how func() error, kill bool) {
	require.NoError(g.t, g.w.SetWriteDeadline(time.Now().Add(time.Second)))
	err := how()
	synctest.Wait() // the transport is closed in a goroutine of its own
	w := g.nc.peek()
	unsent := g.accepted + g.plain - (w.written - g.start)
	var e *plex.UnsentError
	switch {
	case unsent > 0 && err != nil:
		require.ErrorAs(g.t, err, &e)
		require.Equal(g.t, int64(unsent), e.Unsent)
	case unsent > 0:
		require.True(g.t, kill, "Close has not counted %d bytes", unsent) // Kill does not
	default:
		require.NoError(g.t, err)
	}
	g.letGo()
	g.over = w.torn
	require.Equal(g.t, w.torn || kill, w.closes == 1, "torn writes and Kill, and nothing else, cost the connection")
}
