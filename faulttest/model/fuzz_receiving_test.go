package model

// What streams have read and nobody took goes back to the connection, in order, for whoever is next. A program of sends,
// reads, streams and leases is played on one connection, of bytes or of datagrams; what comes out has to be what went
// in. Two bytes of the program are one step.

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/oracle"
)

func FuzzReceiving(f *testing.F) {
	for _, program := range []string{
		"", "s9r5r9", "s0s5r9r9r9", "s9c1t1n0r9", "s9b3t2x0t1r5b0t1n0c4r9", "s3s4s5c1n0c1n0c1n0r9r9",
		"s9c2t1x0c2t1x0c2t1x0r9", "s9s9s9s9s9s9b9n0c9t2n0r3", "s5e0c1n0r9", "s5c1e0n0b1t1n0r9r9", "s9b0t1d0r3", "s0s0s1c9t1n0t1r1",
		"s9c3t1s9x0s9c1t3n0s9b2t9n0r9r9r9", "k0s5r9", "s5c1k0", "c1s5k0",
	} {
		f.Add(false, []byte(program))
		f.Add(true, []byte(program))
	}
	f.Fuzz(func(t *testing.T, datagrams bool, program []byte) {
		if len(program) > 300 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			var n network
			g := &receiver{t: t, datagrams: datagrams}
			if g.nc = n.dial(); datagrams {
				g.nc = n.dialDatagrams()
			}
			m, err := plex.New(t.Context(), plex.WithConnections(g.nc))
			require.NoError(t, err)
			g.m = m
			g.lease()
			for ; len(program) >= 2 && !g.over; program = program[2:] {
				synctest.Wait()
				g.step(program[0], int(program[1]%40))
			}
			g.rest()
			require.NoError(t, m.Close())
			require.Equal(t, 1, g.nc.peek().closes)
		})
	})
}

// receiver is a game: what it is played against, and what it has to come to.
type receiver struct {
	t         *testing.T
	m         *plex.Multiplexer
	nc        *memConn
	datagrams bool

	offset uint64 // of a stream of bytes: delivered
	expect [][]byte

	r         plex.Reader
	over      bool // there is nothing more to lease
	bytes     <-chan byte
	chunks    <-chan []byte
	cancel    context.CancelFunc
	streaming bool
}

const largest = 64 // of a datagram

func (g *receiver) lease() {
	var err error
	g.r, err = g.m.Reader(g.t.Context(), -1)
	if err != nil {
		require.ErrorIs(g.t, err, plex.ErrNoConnections)
		g.over = true
		g.complete()
	}
}

// complete checks that nothing is missing.
func (g *receiver) complete() {
	require.Empty(g.t, g.expect)
	if !g.datagrams {
		require.Equal(g.t, g.nc.peek().sent, g.offset)
	}
}

// got compares what came with what was sent.
func (g *receiver) got(p []byte, buffer int) {
	if !g.datagrams {
		require.Equal(g.t, len(p), oracle.Match(oracle.ID(g.nc.id, true), g.offset, p), "at %d", g.offset)
		g.offset += uint64(len(p))
		return
	}
	require.NotEmpty(g.t, g.expect, "a datagram that was not sent: %x", p)
	want := g.expect[0]
	g.expect = g.expect[1:]
	require.Equal(g.t, want[:min(buffer, len(want))], p)
}

func (g *receiver) step(op byte, arg int) {
	switch op {
	case 's':
		g.send(arg)
	case 'e':
		g.nc.end()
	case 'r':
		g.read(1 + arg)
	case 'b':
		if !g.datagrams {
			g.stream(func(ctx context.Context) (err error) {
				g.bytes, err = g.r.Recv(ctx, arg%20)
				g.chunks = nil
				return err
			})
		}
	case 'c':
		g.stream(func(ctx context.Context) (err error) {
			size := 1 + arg
			if g.datagrams {
				size = largest
			}
			g.chunks, err = g.r.RecvChunks(ctx, size)
			g.bytes = nil
			return err
		})
	case 't':
		for range 1 + arg {
			if !g.take() {
				return
			}
			synctest.Wait()
		}
	case 'x':
		if g.cancel != nil {
			g.cancel()
		}
	case 'd':
		require.NoError(g.t, g.r.SetReadDeadline(time.Unix(1, 0)))
		synctest.Wait()
		require.NoError(g.t, g.r.SetReadDeadline(time.Time{}))
	case 'n':
		g.close()
		g.lease()
	case 'k': // the end of the game: what was not delivered may be lost
		require.NoError(g.t, g.r.Kill())
		g.over = true
		g.stop()
	}
}

func (g *receiver) send(n int) {
	if g.nc.peek().fin {
		return
	}
	if g.datagrams {
		p := make([]byte, n)
		oracle.Fill(oracle.ID(g.nc.id, true), g.nc.peek().sent, p)
		g.expect = append(g.expect, p)
	}
	g.nc.send(n)
}

func (g *receiver) read(size int) {
	if g.datagrams {
		size = largest
	}
	require.NoError(g.t, g.r.SetReadDeadline(time.Now().Add(time.Millisecond)))
	p := make([]byte, size)
	n, err := g.r.Read(p)
	switch {
	case errors.Is(err, plex.ErrStreaming):
		require.True(g.t, g.streaming)
	case err == nil:
		g.got(p[:n], size)
	case err == io.EOF: // never wrapped
		require.True(g.t, g.nc.peek().fin)
		g.complete()
	default:
		require.ErrorIs(g.t, err, os.ErrDeadlineExceeded)
		g.complete()
	}
	require.NoError(g.t, g.r.SetReadDeadline(time.Time{}))
}

func (g *receiver) stream(begin func(context.Context) error) {
	if g.streaming {
		return
	}
	g.stop()
	ctx, cancel := context.WithCancel(context.Background())
	if err := begin(ctx); err != nil {
		cancel()
		require.ErrorIs(g.t, err, plex.ErrStreaming)
		return
	}
	g.cancel, g.streaming = cancel, true
}

// take takes one piece from the stream, and reports whether there was one.
func (g *receiver) take() bool {
	select {
	case b, ok := <-g.bytes:
		g.streaming = g.streaming && ok
		if ok {
			g.got([]byte{b}, 1)
		}
		return ok
	case p, ok := <-g.chunks:
		g.streaming = g.streaming && ok
		if ok {
			g.got(p, largest)
		}
		return ok
	default:
		return false
	}
}

// stop lets go of the stream.
func (g *receiver) stop() {
	if g.cancel != nil {
		g.cancel()
	}
	g.bytes, g.chunks, g.cancel, g.streaming = nil, nil, nil, false
}

// close ends the lease. What is in the stream's channel has gone back by then.
func (g *receiver) close() {
	require.NoError(g.t, g.r.Close())
	require.False(g.t, g.take(), "it was given to two")
	g.stop()
}

// rest receives what is left.
func (g *receiver) rest() {
	if g.over {
		return
	}
	g.close()
	for g.lease(); !g.over; g.lease() {
		before, left := g.offset, len(g.expect)
		synctest.Wait()
		g.read(largest)
		g.close()
		if g.offset == before && len(g.expect) == left {
			g.complete()
			return
		}
	}
}

// A datagram conn that loses one would make the test above blind.
func TestPacketConnKeepsBoundaries(t *testing.T) {
	var n network
	c := n.dialDatagrams()
	for _, size := range []int{3, 0, 5} {
		c.send(size)
	}
	var sizes []int
	var all []byte
	for range 3 {
		p := make([]byte, 10)
		k, err := c.Read(p)
		require.NoError(t, err)
		sizes, all = append(sizes, k), append(all, p[:k]...)
	}
	want := make([]byte, 8)
	oracle.Fill(oracle.ID(1, true), 0, want)
	require.True(t, slices.Equal([]int{3, 0, 5}, sizes) && bytes.Equal(want, all))
}
