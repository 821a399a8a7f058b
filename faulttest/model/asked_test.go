package model

// Tests that a seeded defect has asked for, as nothing else noticed it (see faulttest/mutants).

import (
	"context"
	"crypto/tls"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
)

// Callers wait for a connection that is being added. If that comes to nothing, and there is nothing else to wait for,
// they have to be told.
func TestWaitersAreToldThatTheConnectionBeingAddedHasFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n network
		m, err := plex.New(t.Context(), plex.WithConnections(n.dial()))
		require.NoError(t, err)
		defer m.Close()
		r, err := m.Reader(t.Context(), 0)
		require.NoError(t, err)
		require.NoError(t, r.Kill())
		synctest.Wait() // until its slot is free

		// Its peer never answers the handshake.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		mute := n.dial()
		added := make(chan error, 1)
		go func() {
			_, err := m.Add(ctx, tls.Client(mute, &tls.Config{ServerName: "nobody"}))
			added <- err
		}()
		synctest.Wait()

		told := make(chan error, 2)
		for range 2 {
			go func() {
				_, err := m.Writer(context.Background(), time.Hour)
				told <- err
			}()
		}
		synctest.Wait()
		require.Empty(t, told, "there was something to wait for")
		start := time.Now()
		require.Error(t, <-added)
		for range 2 {
			require.ErrorIs(t, <-told, plex.ErrNoConnections)
		}
		require.LessOrEqual(t, time.Since(start), 2*time.Second)
		require.NoError(t, mute.Close()) // it is ours
	})
}
