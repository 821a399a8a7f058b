package plex_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex"
)

type traceKey struct{}

// tracer keeps what a trace is told.
type tracer struct {
	waiting  []string
	acquired []plex.Acquired
	released []plex.Released
	contexts []any // what the contexts carried
}

func (r *tracer) option() plex.Option {
	return plex.WithTrace(plex.Trace{
		Waiting: func(ctx context.Context, half string) {
			r.waiting = append(r.waiting, half)
			r.contexts = append(r.contexts, ctx.Value(traceKey{}))
		},
		Acquired: func(ctx context.Context, a plex.Acquired) {
			r.acquired = append(r.acquired, a)
			r.contexts = append(r.contexts, ctx.Value(traceKey{}))
		},
		Released: func(rel plex.Released) { r.released = append(r.released, rel) },
	})
}

func TestATraceIsToldOfEachLease(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		var r tracer
		m, _, _ := l.single(r.option())
		ctx := context.WithValue(t.Context(), traceKey{}, "span")

		w, err := m.Writer(ctx, 0)
		require.NoError(t, err)
		conn := w.Conn()
		waits := wantWriter(ctx, m, time.Minute)
		time.Sleep(time.Second)
		requireClosed(t, w)
		requireClosed(t, got(t, waits).w)
		require.Equal(t, []string{"writer"}, r.waiting)
		require.Equal(t, []plex.Acquired{{Half: "writer", Conn: conn}, {Half: "writer", Conn: conn, Waited: time.Second}}, r.acquired)
		require.Equal(t, []plex.Released{{Half: "writer", Conn: conn, Held: time.Second}, {Half: "writer", Conn: conn}}, r.released)
		require.Equal(t, []any{"span", "span", "span"}, r.contexts)

		r = tracer{}
		d, err := m.Duplex(ctx, 0)
		require.NoError(t, err)
		_, err = m.Writer(ctx, time.Second)
		require.ErrorIs(t, err, plex.ErrTimeout)
		require.NoError(t, d.Close())
		named, err := conn.Writer(ctx, 0)
		require.NoError(t, err)
		requireClosed(t, named)
		reader := readerOf(t, m)
		require.NoError(t, reader.Kill())
		require.ErrorIs(t, reader.Close(), plex.ErrLeaseClosed)
		_, err = conn.Writer(ctx, 0)
		require.ErrorIs(t, err, plex.ErrKilled)

		require.Len(t, r.acquired, 5)
		require.Equal(t, plex.Acquired{Half: "whole connection", Conn: conn}, r.acquired[0])
		require.Equal(t, time.Second, r.acquired[1].Waited)
		require.ErrorIs(t, r.acquired[1].Err, plex.ErrTimeout)
		require.Zero(t, r.acquired[1].Conn)
		require.Equal(t, plex.Acquired{Half: "writer of this connection", Conn: conn}, r.acquired[2])
		require.Equal(t, plex.Acquired{Half: "reader", Conn: conn}, r.acquired[3])
		require.ErrorIs(t, r.acquired[4].Err, plex.ErrKilled)
		require.Equal(t, []plex.Released{
			{Half: "whole connection", Conn: conn, Held: time.Second},
			{Half: "writer of this connection", Conn: conn},
			{Half: "reader", Conn: conn, Killed: true},
		}, r.released)
	})
}

func TestATraceThatPanicsCostsNothing(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, _, _ := l.single(plex.WithTrace(plex.Trace{
			Waiting:  func(context.Context, string) { panic("1") },
			Acquired: func(context.Context, plex.Acquired) { panic("2") },
			Released: func(plex.Released) { panic("3") },
		}))
		w := writerOf(t, m)
		waits := wantWriter(t.Context(), m, 0)
		requireClosed(t, w)
		requireClosed(t, got(t, waits).w)
		synctest.Wait()
	})
}

// Each may call the pool, also the one that is told of a lease's end.
func TestATraceMayCallThePool(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		var m *plex.Multiplexer
		released := 0
		m, _, _ = l.single(plex.WithTrace(plex.Trace{Released: func(plex.Released) {
			if released++; released == 1 {
				requireClosed(t, writerOf(t, m)) // which is back already
			}
			require.Zero(t, m.Stats().LeasedWriters)
		}}))
		requireClosed(t, writerOf(t, m))
		require.Equal(t, 2, released)
	})
}
