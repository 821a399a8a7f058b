package plex

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRosterHasWhatIsAddedUntilItIsRemoved(t *testing.T) {
	var r roster
	a, b, c := new(conn), new(conn), new(conn)
	require.False(t, r.remove(a), "it is not in")
	for _, x := range []*conn{a, b, c} {
		r.add(x)
	}
	copied := r.all()
	require.True(t, r.remove(a))
	require.False(t, r.remove(a))
	require.ElementsMatch(t, []*conn{b, c}, r.all())
	require.Equal(t, []*conn{a, b, c}, copied, "a copy stays as it is")
	require.Equal(t, []*conn{a}, r.appendTo([]*conn{a})[:1])
	require.Len(t, r.appendTo([]*conn{a}), 3)
	require.True(t, r.remove(c), "the last one, which took the place of the first")
	require.True(t, r.remove(b))
	require.Empty(t, r.all())
	r.add(a)
	require.Equal(t, []*conn{a}, r.all())
}

// A connection that is forgotten between the copy and the look at its halves is not counted twice.
func TestRosterCountsTheLeasesOfEachConnectionOnce(t *testing.T) {
	var r roster
	c := new(conn)
	c.r.state.Store(uint64(firstLease + 2*leaseOne))
	c.w.state.Store(uint64(firstLease + leaseOne))
	r.add(c)
	conns, gone := r.appendWithLeases(nil)
	require.True(t, r.remove(c))
	require.EqualValues(t, 3, gone+conns[0].leases())
	conns, gone = r.appendWithLeases(nil)
	require.Empty(t, conns)
	require.EqualValues(t, 3, gone)
}

func TestRosterServesSeveralGoroutines(t *testing.T) {
	const goroutines, each = 4, 300
	var r roster
	stay := make([][]*conn, goroutines)
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for i := range each {
				c := new(conn)
				r.add(c)
				if !slices.Contains(r.all(), c) {
					t.Error("it is not in")
				}
				if i%2 == 0 {
					stay[g] = append(stay[g], c)
				} else if !r.remove(c) {
					t.Error("it was not in")
				}
			}
		})
	}
	wg.Wait()
	require.ElementsMatch(t, slices.Concat(stay...), r.all())
	for i, c := range r.all() {
		require.Equal(t, i+1, c.rosterAt)
	}
}

func TestExpiriesComeInTheirOrder(t *testing.T) {
	var e expiries
	_, any := e.next()
	require.False(t, any)
	require.Nil(t, e.due(time.Now()))
	e.drop(new(conn)) // which is not in

	began := time.Now()
	at := func(i int) time.Time { return began.Add(time.Duration(i) * time.Second) }
	const n = 100
	conns := make([]*conn, n)
	for _, i := range rand.Perm(n) {
		conns[i] = &conn{expiresAt: at(i)}
		e.add(conns[i])
	}
	for _, i := range rand.Perm(n) {
		if i%3 == 0 {
			e.drop(conns[i])
			e.drop(conns[i])
			require.Zero(t, conns[i].expiryAt)
		}
	}
	for i, c := range conns {
		if i%3 == 0 {
			continue
		}
		next, any := e.next()
		require.True(t, any)
		require.Equal(t, at(i), next)
		require.Nil(t, e.due(at(i).Add(-1)), "not before its time")
		require.Same(t, c, e.due(at(i)))
		require.Zero(t, c.expiryAt)
	}
	require.Empty(t, e.conns)
}

func TestRosterGoesAround(t *testing.T) {
	var r roster
	place := 0
	require.Nil(t, r.turn(&place))
	a, b, c := new(conn), new(conn), new(conn)
	for _, x := range []*conn{a, b, c} {
		r.add(x)
	}
	require.Equal(t, 3, r.size())
	for _, x := range []*conn{a, b, c, a, b, c} {
		require.Same(t, x, r.turn(&place))
	}
	require.True(t, r.remove(b))
	require.True(t, r.remove(c))
	require.Same(t, a, r.turn(&place), "the place is behind the end")
}
