package plex

import (
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// The supervisor must not wait for a lock that a transport may keep.
func TestLeakDetectionDoesNotWaitForALock(t *testing.T) {
	client, peer := net.Pipe()
	defer peer.Close()
	m := muxOf(t, client)
	h := &m.roster.all()[0].w
	h.mu.Lock()
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		h.suspect(time.Now(), time.Second)
	}()
	select {
	case <-asked:
	case <-time.After(sweepPatience):
		t.Error("it waits")
	}
	h.mu.Unlock()
}

// Looking at all connections at each wake-up costs more the larger a pool is. But however often the
// supervisor wakes up, a leak is told when the lease is half as old again as it may be.
func TestLeaksAreLookedForTwiceInEachThreshold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const threshold = 10 * time.Second
		client, peer := net.Pipe()
		defer peer.Close()
		m, err := New(t.Context(), WithConnections(client), WithLeakDetection(threshold))
		require.NoError(t, err)
		defer m.Close()
		time.Sleep(threshold / 4)
		w, err := m.Writer(t.Context(), 0)
		require.NoError(t, err)
		for n := range 60 { // it is overdue after 40, between two looks
			want := 0
			if n >= 50 {
				want = 1
			}
			require.EqualValues(t, want, m.Stats().SuspectedLeaks, n)
			m.kick()
			synctest.Wait()
			time.Sleep(threshold / 40)
			synctest.Wait()
		}
		require.NoError(t, w.Close())
	})
}
