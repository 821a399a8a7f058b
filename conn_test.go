package plex_test

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
)

func TestAConnectionIsKilledByItsName(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		conn, peer := l.pair()
		m := l.mux(plex.WithConnections(conn), plex.WithConnector(s.connect))
		w := writerOf(t, m)
		requireClosed(t, w)
		name := w.Conn()

		r := readerOf(t, m)
		read := reading(r, make([]byte, 1))
		synctest.Wait()
		name.Kill()
		require.ErrorIs(t, (<-read).err, plex.ErrKilled)
		requireClosed(t, r)
		synctest.Wait()
		require.Equal(t, 1, peer.conn.closeCount())

		st := settled(m)
		require.Equal(t, []uint64{1, 1, 1}, []uint64{st.Killed, st.Lost, st.Healed})
		name.Kill()
		st = settled(m)
		require.Equal(t, []uint64{1, 1, 1}, []uint64{st.Killed, st.Lost, st.Healed}, "its replacement is another")
		plex.Conn{}.Kill()
	})
}
