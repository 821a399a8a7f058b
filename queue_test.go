package plex_test

// The queues of idle halves have room, whatever lost or leased connections leave in them.

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
)

func TestTheHalvesOfLostConnectionsThatNobodyAsksForDoNotPileUp(t *testing.T) {
	for _, s := range sides {
		t.Run("only "+s.name+"s are used", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLedger(t)
				m := l.mux(plex.WithMaxCapacity(2))

				for range 200 {
					c, _ := l.Pair()
					_, err := m.Add(context.Background(), c)
					require.NoError(t, err)
					require.NoError(t, s.must(t, m).Kill())
					synctest.Wait() // the slot is free once the transport is closed
				}

				conns, _ := l.Pairs(2)
				_, err := m.Add(context.Background(), conns...)
				require.NoError(t, err)
				s.other().all(t, m, 2)
			})
		})
	}
}

// Consumers that keep leases on connections which are over and have been replaced: there is no bound to these, and their
// places in the queues must not keep others out, nor Close from its end.
func TestLeasesOnConnectionsThatAreOverLeaveRoomInTheQueues(t *testing.T) {
	const leases = 60 // there is room for 14 in either queue
	for name, lease := range map[string]func(*plex.Multiplexer, context.Context, time.Duration) (plex.Reader, error){
		"ready readers": (*plex.Multiplexer).ReadyReader,
		"readers":       (*plex.Multiplexer).Reader,
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(t)
			m := l.mux(plex.WithConnector(hangUps(t)), plex.WithMinConnections(1),
				plex.WithBackoff(func(int) time.Duration { return 0 }))
			for i := range leases {
				r, err := lease(m, t.Context(), patience)
				require.NoError(t, err, "lease %d", i)
				require.Equal(t, "x", readN(t, r, 1))
				defer requireClosedSoon(t, r)
			}
			finish(t, "Stats", func() { require.NotZero(t, m.Stats().LeasedReaders) })
			finish(t, "Close", func() { require.NoError(t, m.Close()) })
		})
	}
}
