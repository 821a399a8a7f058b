package pools_test

import (
	"context"
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex/bench/pools"
)

// Each kind lends a connection, to one user at a time.
func TestAPoolLendsAConnectionToOneAtATime(t *testing.T) {
	for _, kind := range append(pools.All, pools.Whole...) {
		t.Run(kind.Name, func(t *testing.T) {
			var peers []net.Conn
			p, err := kind.Open(pools.Config{Max: 1, Open: 1, Dial: func(context.Context) (net.Conn, error) {
				ours, theirs := net.Pipe()
				peers = append(peers, theirs)
				return ours, nil
			}})
			require.NoError(t, err)
			require.NoError(t, p.Cycle(10))
			require.NoError(t, p.Use(t.Context(), func(nc net.Conn) {
				gone, stop := context.WithCancel(t.Context())
				stop()
				require.Error(t, p.Use(gone, func(net.Conn) { t.Error("it is lent twice") }))
			}))
			require.NoError(t, p.Cycle(10), "it has come back")
			p.Close()
			require.Len(t, peers, 1)
			_, err = peers[0].Read(make([]byte, 1))
			assert.Error(t, err, "it is closed with the pool")
		})
	}
}

func TestAWrapperGivesItsConnectionBackOnce(t *testing.T) {
	p, err := pools.Wrapped.Open(pools.Config{Max: 2, Open: 2, Dial: func(context.Context) (net.Conn, error) {
		ours, _ := net.Pipe()
		return ours, nil
	}})
	require.NoError(t, err)
	defer p.Close()
	var lent net.Conn
	require.NoError(t, p.Use(t.Context(), func(nc net.Conn) { lent = nc }))
	require.ErrorIs(t, lent.Close(), net.ErrClosed)
	require.NoError(t, p.Cycle(4))
}
