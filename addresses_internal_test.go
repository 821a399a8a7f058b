package plex

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex/internal/fakenet"
)

// What is moved is found from where the last one was found, an idle connection before one in use,
// and whatever the place, all of an address can be found.
func TestWhatIsMovedIsLookedForFromTheLastPlace(t *testing.T) {
	const conns = 6
	var connects atomic.Int32
	m, err := New(t.Context(), WithMinConnections(conns), WithMaxCapacity(2*conns), WithResolver(Addresses("memory", "a", "b"), 0),
		WithConnector(DialFunc(func(context.Context) (net.Conn, error) {
			if connects.Add(1) > conns {
				return nil, errors.New("nothing is replaced") // so everything stays where it is
			}
			c, _ := fakenet.Pair()
			return c, nil
		})))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	all := m.roster.all()
	var at, other []*conn
	from := all[0].at
	for _, c := range all {
		if c.at == from {
			at = append(at, c)
		} else {
			other = append(other, c)
		}
	}
	require.Len(t, at, conns/2)
	busy := at[1]
	_, err = Conn{busy}.Writer(t.Context(), 0)
	require.NoError(t, err)

	r := &resolver{m: m, moved: len(all) + 1} // behind the end, as after losses
	due := func() (due []*conn) {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, c := range at {
			if c.life.why == whyMoved {
				due = append(due, c)
			}
		}
		return due
	}
	r.moveOne(from)
	require.Equal(t, []*conn{at[0]}, due())
	require.Equal(t, 1, r.moved)
	r.moveOne(from)
	require.Equal(t, []*conn{at[0], at[2]}, due(), "not the one in use")
	r.moveOne(from)
	require.Equal(t, at, due(), "but that if there is no other")
	r.moveOne(from)
	for _, c := range other {
		require.True(t, c.isOpen())
	}
}
