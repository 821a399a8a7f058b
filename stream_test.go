package plex_test

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
)

// FuzzReadsAndStreamsDeliverWhatWasSent plays a program of sends, Reads, streams, cancels and lease changes against a
// model that is no more than the bytes sent and how many of them were delivered. Two bytes of the program are one step.
func FuzzReadsAndStreamsDeliverWhatWasSent(f *testing.F) {
	for _, program := range []string{
		"", "a0b1", "a9b9", "a9c1d5f0b9", "a9c9d2e0d9b9", "a9i4d1f0i1d1f0b9b9", "a9g0c0d3f0b9b9b9", "a9c0d4e0c0d4e0i1d1f0b9",
		"a~i1d1f0h0b5f0c9d2f0i9d1e0b9", "a9i2a9a9a9a9a9g0d1f0c2f0c2f0i2f0", "a1a1a1a1a1a1a1i1d1f0i2d1e0i3d1b9f0g0b9",
		"c1a9d1k0d9b9", "a9i1k0b9i1a9k0f0b9", "c0d1f0c0f0i0f0", "a9c9g0d1f0c0e0b1f0b1b9",
	} {
		f.Add([]byte(program))
	}

	f.Fuzz(func(t *testing.T, program []byte) {
		if len(program) > 400 {
			return
		}

		bubble(t, func(t *testing.T, l *ledger) {
			g := &game{t: t}
			g.m, _, g.peer = l.single()
			g.lease()

			for ; len(program) >= 2 && !g.over; program = program[2:] {
				g.step(program[0], int(program[1]))
			}

			g.finish()
		})
	})
}

// game is the state of one run: the model, and what it is played against.
type game struct {
	t    *testing.T
	m    *plex.Multiplexer
	peer *fakenet.Peer

	sent      string
	delivered int
	eof       bool // sent by the peer
	over      bool // and delivered: there are no more leases

	r         plex.Reader
	streaming bool // a stream was started and has not been seen to end
	in        inflow
	cancel    context.CancelFunc
}

func (g *game) take(p []byte) {
	require.LessOrEqual(g.t, g.delivered+len(p), len(g.sent), "more than was sent")
	require.Equal(g.t, g.sent[g.delivered:g.delivered+len(p)], string(p), "at %d", g.delivered)
	g.delivered += len(p)
}

func (g *game) lease() {
	r, err := g.m.Reader(g.t.Context(), -1)
	if errors.Is(err, plex.ErrTimeout) {
		synctest.Wait() // until a lost connection is closed
		r, err = g.m.Reader(g.t.Context(), -1)
	}
	if err != nil {
		require.ErrorIs(g.t, err, plex.ErrNoConnections)
		require.True(g.t, g.eof, "lost before the EOF")
		require.Len(g.t, g.sent, g.delivered, "lost before all was delivered")

		g.over = true
	}

	g.r = r
}

func (g *game) release() {
	require.NoError(g.t, g.r.Close())

	if g.cancel != nil {
		g.cancel()
	}

	g.streaming = false
}

func (g *game) step(op byte, arg int) {
	synctest.Wait()

	switch op % 11 {
	case 'a' % 11: // the peer sends
		if !g.eof {
			p := make([]byte, arg%60)
			oracle(p, 1, int64(len(g.sent)))
			g.sent += string(p)
			g.peer.Send(string(p))
		}
	case 'b' % 11:
		g.read(1 + arg%70)
	case 'c' % 11:
		g.stream(perByte, arg%20)
	case 'i' % 11:
		g.stream(inChunks, arg%20)
	case 'd' % 11: // take from the channel, which may be that of an ended stream
		for range arg % 30 {
			if g.in == (inflow{}) {
				break
			}

			p, came, open := g.in.poll()
			if !came {
				g.streaming = g.streaming && open

				break
			}

			g.take(p)
			synctest.Wait()
		}
	case 'e' % 11:
		if g.cancel != nil {
			g.cancel()
		}
	case 'f' % 11:
		g.release()
		g.lease()
	case 'g' % 11:
		g.eof = true
		g.peer.CloseWrite()
	case 'h' % 11: // a deadline passes
		require.NoError(g.t, g.r.SetReadDeadline(time.Now().Add(time.Millisecond)))
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		require.NoError(g.t, g.r.SetReadDeadline(time.Time{}))
	case 'k' % 11: // cancel, and read at once what the channel holds
		if g.cancel != nil {
			g.cancel()
			synctest.Wait()
		}

		g.read(1 + arg%70)
	}
}

// read does what a Read must do in the state of the model.
func (g *game) read(size int) {
	synctest.Wait()
	require.NoError(g.t, g.r.SetReadDeadline(time.Now().Add(time.Millisecond)))

	p := make([]byte, size)
	n, err := g.r.Read(p)
	g.take(p[:n])

	switch left := len(g.sent) - g.delivered; {
	case err == plex.ErrStreaming: //nolint:errorlint // it is never wrapped
		require.True(g.t, g.streaming)
		require.Zero(g.t, n)
	case n > 0:
		require.NoError(g.t, err)
	case g.eof && left == 0:
		require.Equal(g.t, io.EOF, err)
	default:
		require.Zero(g.t, left, "a Read that found nothing though something is left: %v", err)
		require.ErrorIs(g.t, err, os.ErrDeadlineExceeded)
	}

	require.NoError(g.t, g.r.SetReadDeadline(time.Time{}))
}

func (g *game) stream(k streamKind, size int) {
	ctx, cancel := context.WithCancel(g.t.Context())

	in, err := receive(ctx, g.r, k, size)
	if err != nil {
		cancel()
		require.ErrorIs(g.t, err, plex.ErrStreaming)
		require.True(g.t, g.streaming)

		return
	}

	if g.cancel != nil {
		g.cancel()
	}

	g.in, g.cancel, g.streaming = in, cancel, true
}

// finish delivers the rest.
func (g *game) finish() {
	if g.over {
		return
	}

	g.release()
	g.lease()

	for !g.over && g.delivered < len(g.sent) {
		g.read(50)
	}

	if !g.over {
		g.read(1) // nothing, or the EOF
		g.release()
	}

	require.Len(g.t, g.sent, g.delivered)
	require.Equal(g.t, g.eof, g.m.Stats().Lost == 1 && g.m.Stats().Killed == 0, "lost by the EOF and nothing else")
}

func TestStreamsAreOneAtATime(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, _, p := l.single()
		r := readerOf(t, m)
		in := receiving(t, t.Context(), r, k, 2)

		for range 2 { // once while its Read is blocked, once while it waits for its consumer
			synctest.Wait()

			_, err := r.Read(make([]byte, 1))
			require.ErrorIs(t, err, plex.ErrStreaming)
			_, err = r.Recv(t.Context(), 1)
			require.ErrorIs(t, err, plex.ErrStreaming)
			_, err = r.RecvChunks(t.Context(), 1)
			require.ErrorIs(t, err, plex.ErrStreaming)
			require.NoError(t, r.Err())
			p.Send(text(20))
		}

		require.Equal(t, text(20)+text(20), in.take(40))
		requireClosed(t, r)
		requireKept(t, m, 1)
	})
}

func TestStreamIsRefusedWhileAReadIsUnderWayOrWaitsForIt(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, _, p := l.single()
		r := readerOf(t, m)
		read := reading(r, make([]byte, 1))

		synctest.Wait()

		started := later(func() error {
			in, err := receive(t.Context(), r, k, 1)
			if err != nil {
				return err
			}

			if got := in.take(1); got != "b" {
				return errors.New("the stream got " + got)
			}

			return nil
		})

		synctest.Wait()
		p.Send("a")
		require.Equal(t, outcome{1, nil}, <-read)
		p.Send("b")

		if err := <-started; err != nil {
			require.ErrorIs(t, err, plex.ErrStreaming)
			require.Equal(t, "b", readN(t, r, 1))
		}

		requireClosed(t, r)
		requireKept(t, m, 1)
	})
}

func TestSendStreamsAreOneAtATime(t *testing.T) {
	forEachKind(t, func(t *testing.T, l *ledger, k streamKind) {
		m, _, p := l.single()
		w := writerOf(t, m)
		out := sending(t, t.Context(), w, k, 4)

		for range 2 { // once while it waits for its sender, once while its Write is blocked
			synctest.Wait()

			_, err := w.Write([]byte("no"))
			require.ErrorIs(t, err, plex.ErrStreaming)
			_, err = w.Send(t.Context(), 1)
			require.ErrorIs(t, err, plex.ErrStreaming)
			_, err = w.SendChunks(t.Context(), 1)
			require.ErrorIs(t, err, plex.ErrStreaming)
			require.NoError(t, w.Err())
			p.Allow(0)
			out.send("x")
		}

		p.Allow(-1)
		out.end()
		requireClosed(t, w)
		require.Equal(t, "xx", p.Unread())
		requireKept(t, m, 1)
	})
}

func TestSendStreamsOfOneLeaseFollowEachOther(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, _, p := l.single()
		w := writerOf(t, m)
		var want strings.Builder

		for i, k := range []streamKind{perByte, perByte, inChunks, inChunks, perByte} {
			out := sending(t, t.Context(), w, k, i)
			out.send("stream")
			out.end()
			synctest.Wait()

			_, err := w.Write([]byte(" then "))
			require.NoError(t, err)

			want.WriteString("stream then ")
		}

		require.Equal(t, want.String(), p.Unread())
		requireClosed(t, w)
		requireKept(t, m, 1)
	})
}
