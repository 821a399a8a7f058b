package plex_test

import (
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
)

// The kernel tells of a refused datagram once. If plex looks at the connection in that moment, whoever
// reads next is told, and the connection lives on.
func TestARefusalThatPlexHasReadGoesToTheNextReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := fakenet.NewDatagrams()
		m, err := plex.New(t.Context(), plex.WithConnections(c))
		require.NoError(t, err)
		defer m.Close()
		_, err = m.ReadyReader(t.Context(), -1)
		require.Error(t, err, "nothing has arrived")

		c.FailRead(syscall.ECONNREFUSED)
		for range 2 {
			r, err := m.ReadyReader(t.Context(), time.Second)
			require.NoError(t, err, "there is something to deliver")
			p := make([]byte, 10)
			_, err = r.Read(p)
			require.ErrorIs(t, err, syscall.ECONNREFUSED)
			require.NoError(t, r.Close())

			_, err = m.ReadyReader(t.Context(), time.Second)
			require.ErrorIs(t, err, plex.ErrTimeout, "the refusal is told once")

			c.Deliver("reply")
			r, err = m.ReadyReader(t.Context(), time.Second)
			require.NoError(t, err)
			n, err := r.Read(p)
			require.NoError(t, err)
			assert.Equal(t, "reply", string(p[:n]))
			require.NoError(t, r.Close())
			c.FailRead(syscall.ECONNREFUSED)
		}
		assert.Equal(t, 1, m.Stats().Open)
	})
}
