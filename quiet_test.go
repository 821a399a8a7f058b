package plex_test

import (
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex"
)

// quietPool is a multiplexer of n connections in which only requests are answered.
func quietPool(t *testing.T, books *ledger, tr transport, n int) (*plex.Multiplexer, links) {
	t.Helper()
	ls := openLinks(t, books, tr, n)
	return books.mux(plex.WithConnections(ls.clients()...), plex.WithQuietIdle()), ls
}

// requireOutOfStep waits until n connections are lost, and c is one of them, for bytes that said.
func requireOutOfStep(t *testing.T, m *plex.Multiplexer, c plex.Conn, n int, said string) {
	t.Helper()
	eventually(t, func() bool { return m.Stats().Lost == uint64(n) }, "lost connections: %d", n)
	err := c.Info().Err
	require.ErrorIs(t, err, plex.ErrOutOfStep)
	assert.Contains(t, err.Error(), said, "the cause shows what came")
}

func askOne(t *testing.T, d plex.Duplex, server net.Conn, reply string) {
	t.Helper()
	later(func() error {
		b := make([]byte, 1)
		_, err := io.ReadFull(server, b)
		if err == nil {
			_, err = io.WriteString(server, reply)
		}
		return err
	})
	_, err := d.Write([]byte("q"))
	require.NoError(t, err)
	b := make([]byte, 1)
	_, err = io.ReadFull(d, b)
	require.NoError(t, err)
	require.Equal(t, reply[:1], string(b))
}

func TestQuietIdleKeepsConnectionsInStep(t *testing.T) {
	forEachTransport(t, func(tr transport) bool { return tr.deadlines }, func(t *testing.T, books *ledger, tr transport) {
		m, ls := quietPool(t, books, tr, 2)
		for range 20 {
			d, err := m.Duplex(soon(t), 0)
			require.NoError(t, err)
			askOne(t, d, ls.of(d.LocalAddr()).server, "a")
			require.NoError(t, d.Close())
		}
		s := m.Stats()
		assert.Zero(t, s.Lost)
		assert.Equal(t, 2, s.Open)
	})
}

// What a Duplex has left unread is nobody else's reply.
func TestBytesThatADuplexLeavesUnreadLoseTheConnection(t *testing.T) {
	forEachTransport(t, func(tr transport) bool { return tr.deadlines }, func(t *testing.T, books *ledger, tr transport) {
		m, ls := quietPool(t, books, tr, 2)
		d, err := m.Duplex(soon(t), 0)
		require.NoError(t, err)
		server := ls.of(d.LocalAddr()).server
		askOne(t, d, server, "abandoned")
		require.NoError(t, d.Close())
		requireOutOfStep(t, m, d.Conn(), 1, `"bandoned"`)
		assert.ErrorIs(t, d.Err(), plex.ErrOutOfStep)
		next, err := m.Duplex(soon(t), 0)
		require.NoError(t, err)
		assert.False(t, d.Conn() == next.Conn())
		require.NoError(t, next.Close())
	})
}

func TestUnaskedBytesLoseAnIdleConnection(t *testing.T) {
	for name, first := range map[string]func(*testing.T, *plex.Multiplexer){
		"undecided": func(*testing.T, *plex.Multiplexer) {},
		"Reader": func(t *testing.T, m *plex.Multiplexer) {
			require.NoError(t, leaseReader(t, m).Close())
		},
		"ReadyReader": func(t *testing.T, m *plex.Multiplexer) {
			_, err := m.ReadyReader(t.Context(), -1)
			require.ErrorIs(t, err, plex.ErrTimeout)
		},
	} {
		t.Run(name, func(t *testing.T) {
			sees := func(tr transport) bool { return tr.deadlines && (tr.name != "pipe" || name != "Reader") }
			forEachTransport(t, sees, func(t *testing.T, books *ledger, tr transport) {
				m, ls := quietPool(t, books, tr, 2)
				first(t, m)
				d, err := m.Duplex(soon(t), 0)
				require.NoError(t, err)
				askOne(t, d, ls.of(d.LocalAddr()).server, "a")
				require.NoError(t, d.Close())
				server := ls.of(d.LocalAddr()).server
				later(func() error {
					_, err := io.WriteString(server, "421 go away")
					return err
				})
				requireOutOfStep(t, m, d.Conn(), 1, "421 go away")
				eventually(t, func() bool { return m.Stats().Open == 1 }, "its slot is free")
			})
		})
	}
}

// Nobody waits for the poller to tell: whoever leases a whole connection looks first, also if that is at
// once.
func TestADuplexNeverBeginsWithUnaskedBytes(t *testing.T) {
	forEachTransport(t, func(tr transport) bool { return tr.deadlines && tr.name != "pipe" }, func(t *testing.T, books *ledger, tr transport) {
		for range 20 {
			m, ls := quietPool(t, books, tr, 2)
			late := plex.Conn{}
			for c := range m.Conns() { // in the order of the queue, or not
				late = c
			}
			_, err := io.WriteString(ls.of(late.LocalAddr()).server, "late")
			require.NoError(t, err)
			for range 2 { // each connection would come once
				d, err := m.Duplex(soon(t), 0)
				require.NoError(t, err)
				require.False(t, late == d.Conn(), "leased with the bytes of another")
				require.NoError(t, d.Close())
			}
		}
	})
}

// What somebody waits for without a lease is asked for.
func TestWhatAPinIsForIsNotUnasked(t *testing.T) {
	forEachTransport(t, func(tr transport) bool { return tr.deadlines }, func(t *testing.T, books *ledger, tr transport) {
		m, ls := quietPool(t, books, tr, 1)
		_, err := m.ReadyReader(t.Context(), -1)
		require.ErrorIs(t, err, plex.ErrTimeout)
		w := leaseWriter(t, m)
		unpin := w.Conn().Pin()
		require.NoError(t, w.Close())
		later(func() error {
			_, err := io.WriteString(ls[0].server, "a")
			return err
		})
		r, err := m.ReadyReader(soon(t), 0)
		require.NoError(t, err)
		b := make([]byte, 8)
		n, err := r.Read(b)
		require.NoError(t, err)
		assert.Equal(t, "a", string(b[:n]))
		require.NoError(t, r.Close())
		unpin()
		assert.Zero(t, m.Stats().Lost)
		later(func() error {
			_, err := io.WriteString(ls[0].server, "b")
			return err
		})
		requireOutOfStep(t, m, r.Conn(), 1, `"b"`)
	})
}

// Without the option what a Duplex leaves is there for the next.
func TestWithoutQuietIdleWhatADuplexLeavesIsTheNexts(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		m, _, peer := l.single()
		d := duplexOf(t, m, -1)
		askOne(t, d, peer, "ab")
		require.NoError(t, d.Close())
		d = duplexOf(t, m, -1)
		b := make([]byte, 1)
		_, err := io.ReadFull(d, b)
		require.NoError(t, err)
		assert.Equal(t, "b", string(b))
		require.NoError(t, d.Close())
	})
}
