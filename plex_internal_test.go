package plex

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex/internal/fakenet"
)

// The end retires all halves before it tells anyone. A connection that is closed in between is no
// reason for ErrNoConnections.
func TestTheEndIsNotToldAsALoss(t *testing.T) {
	t.Skip("between refusing and refused, the close of the last connection is told as ErrNoConnections")
	synctest.Test(t, func(t *testing.T) {
		nc, _ := fakenet.Pair()
		m := muxOf(t, nc)
		told := make(chan error, 1)
		go func() {
			_, err := m.ReadyReader(t.Context(), 0)
			told <- err
		}()
		synctest.Wait()
		m.mu.Lock()
		m.refusing = true // beginEnd has come so far
		m.mu.Unlock()
		for _, c := range m.roster.all() {
			c.w.retire()
			c.r.retire()
			c.r.leaveParking()
		}
		synctest.Wait()
		require.NoError(t, m.Close())
		require.ErrorIs(t, <-told, ErrClosed)
	})
}
