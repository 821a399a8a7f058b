package model

// What the machine and the histories have found, each as a test of its own.

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
)

// A connection that is too old was taken out of the hands of the waiter that it had just been handed to, who then found
// itself behind all others.
func TestWaitersKeepTheirOrderThoughTheConnectionIsTooOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n network
		m, err := plex.New(t.Context(), plex.WithMinConnections(1), plex.WithMaxLifetime(time.Second),
			plex.WithConnector(func(_ context.Context, handle net.Conn) error { return plex.Attach(handle, n.dial()) }))
		require.NoError(t, err)
		defer m.Close()

		first, err := m.Writer(t.Context(), 0)
		require.NoError(t, err)
		order := make(chan int, 3)
		for i := range 3 {
			go func() {
				w, err := m.Writer(context.Background(), 0)
				if err == nil {
					order <- i
					_ = w.Close()
				}
			}()
			synctest.Wait()
		}
		time.Sleep(2 * time.Second)
		require.NoError(t, first.Close())
		for i := range 3 {
			require.Equal(t, i, <-order)
		}
	})
}

// A connection that was due could not be retired, since its writer was leased. Each attempt had plex look for something
// to read, and the end of each look was another attempt: it was looked at without a pause, for as long as the lease went on.
func TestWhatIsDueAndLeasedIsNotLookedAtWithoutAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n network
		m, err := plex.New(t.Context(), plex.WithMinConnections(1), plex.WithMaxCapacity(1), plex.WithMaxLifetime(time.Second),
			plex.WithConnector(func(_ context.Context, handle net.Conn) error { return plex.Attach(handle, n.dial()) }))
		require.NoError(t, err)
		defer m.Close()
		_, err = m.ReadyReader(t.Context(), -1)
		require.ErrorIs(t, err, plex.ErrTimeout)
		w, err := m.Writer(t.Context(), 0)
		require.NoError(t, err)
		time.Sleep(2 * time.Second)
		first, looking := n.conns[0], 0
		for range 1000 { // one second
			time.Sleep(997 * time.Microsecond)
			synctest.Wait()
			if first.peek().looks {
				looking++
			}
		}
		require.Less(t, looking, 500, "it is looked at most of the time")
		require.NoError(t, w.Close())
		time.Sleep(time.Second)
		require.Equal(t, 1, first.peek().closes, "it was retired when the lease had ended")
	})
}
