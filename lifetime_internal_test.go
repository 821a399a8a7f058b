package plex

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex/internal/fakenet"
)

// A connection that leaves at the end of a lease may still wait to be tried by the supervisor. No
// other is connected to replace it first: it would be one too many, for good.
func TestWhatHasLeftIsNotReplacedFirst(t *testing.T) {
	m, err := New(t.Context(), WithMinConnections(2), WithMaxCapacity(4), WithConnector(DialFunc(func(context.Context) (net.Conn, error) {
		c, _ := fakenet.Pair()
		return c, nil
	})))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	conns := m.roster.all()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range conns {
		require.True(t, c.markDueLocked(whyRenewed, time.Now()))
	}
	require.Equal(t, 3, m.demandLocked().Target, "what is due is replaced first")
	now, next := time.Now(), time.Now().Add(time.Hour)
	require.True(t, conns[0].leaveLocked(whyRenewed))
	m.dueLocked(now, &next)
	require.Equal(t, 3, m.demandLocked().Target, "the other is still due")
	require.True(t, conns[1].leaveLocked(whyRenewed))
	m.dueLocked(now, &next)
	require.Equal(t, 2, m.demandLocked().Target)
	require.False(t, conns[0].dueAt != nil || conns[1].dueAt != nil)
}
