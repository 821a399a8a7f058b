package plex

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestWhatAFailedConnectWasForIsReplacedFirst(t *testing.T) {
	addr := func(s string) Address { return Address{Network: "memory", Address: s} }
	var ls losses
	add := func(names ...string) {
		for _, s := range names {
			ls.add(loss{from: addr(s)})
		}
	}
	take := func(want string) loss {
		t.Helper()
		l, ok := ls.take()
		require.True(t, ok)
		require.Equal(t, addr(want), l.from)
		return l
	}
	order := func(want ...string) {
		t.Helper()
		from := ls.from()
		for i, s := range want {
			require.Equal(t, addr(s), from(i))
			require.Equal(t, addr(s), from(i), "each address of the service asks")
		}
		require.Zero(t, from(len(want)))
		require.Zero(t, from(len(want)+5))
	}
	none := func() {
		t.Helper()
		order()
		_, ok := ls.take()
		require.False(t, ok)
	}

	none()
	add("a", "b", "c")
	order("a", "b", "c")
	a, b := take("a"), take("b")
	add("d")
	ls.handBack(b)
	order("b", "c", "d")
	ls.handBack(a)
	order("a", "b", "c", "d")
	require.Equal(t, addr("c"), ls.from()(2), "and the first ones need not be asked about")
	for _, s := range []string{"a", "b", "c"} {
		take(s)
	}
	d := take("d")
	none()
	ls.handBack(d)
	add("e")
	order("d", "e")
	take("d")
	take("e")
	none()
}

// A connect that fails gives its loss back ahead of those that nobody has tried to replace.
func TestAFailedConnectHandsItsLossBack(t *testing.T) {
	m, began := new(Multiplexer), time.Now() // nobody else knows it, so the lock is not needed
	m.healer.losses.add(loss{at: began})
	m.healer.losses.add(loss{at: began.Add(1)})
	for n := range 3 {
		l := m.nextLossLocked()
		require.Equal(t, began, l.at)
		require.Equal(t, n, l.attempts)
		(&attempt{loss: l}).handBackLocked(m, 0)
	}
}
