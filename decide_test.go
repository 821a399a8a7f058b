package plex

// The pure decisions of the healer, the auto-scaler and the lifetimes, by tables.

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestDecide(t *testing.T) {
	for _, c := range []struct {
		name       string
		d          demand
		heal, grow int
	}{
		{"nothing to do", demand{target: 4, open: 4, capacity: 8, window: 4}, 0, 0},
		{"nothing wanted of an empty pool", demand{capacity: 8, window: 4}, 0, 0},
		{"one is lost", demand{target: 4, open: 3, capacity: 8, window: 4}, 1, 0},
		{"one is lost and on its way", demand{target: 4, open: 3, connecting: 1, active: 1, capacity: 8, window: 4}, 0, 0},
		{"many are lost: as many as the window has", demand{target: 32, capacity: 32, window: 4}, 4, 0},
		{"the window is used up", demand{target: 32, connecting: 4, active: 4, capacity: 32, window: 4}, 0, 0},
		{"the window is more than used up", demand{target: 32, connecting: 4, active: 4, capacity: 32, window: 1, failures: 1}, 0, 0},
		{"a slow one has left its place in the window", demand{target: 32, connecting: 4, active: 3, hung: 1, capacity: 32, window: 4}, 1, 0},
		{"one hangs, and its place is another's", demand{target: 2, open: 1, connecting: 1, hung: 1, capacity: 4, window: 4}, 1, 0},
		{"one hangs in the last slot", demand{target: 2, open: 1, connecting: 1, hung: 1, capacity: 2, window: 4}, 0, 0},
		{"a probe", demand{target: 32, capacity: 32, window: 1, failures: 3}, 1, 0},
		{"the ramp", demand{target: 32, open: 7, connecting: 2, active: 2, capacity: 32, window: 8, failures: 3}, 6, 0},
		{"a place that an Add has reserved is none", demand{target: 4, open: 2, connecting: 2, capacity: 4, window: 4}, 0, 0},
		{"one is lost, and takes long to close", demand{target: 2, open: 2, leaving: 1, capacity: 8, window: 4}, 1, 0},
		{"one is lost, takes long to close, and has the last slot", demand{target: 2, open: 2, leaving: 1, capacity: 2, window: 4}, 0, 0},
		{"more are open than there should be", demand{target: 2, open: 4, capacity: 8, window: 4}, 0, 0},

		{"one is overdue", demand{target: 1, open: 1, capacity: 8, window: 4, overdue: 1, waiting: 1}, 0, 1},
		{"many are overdue: the window is not for them", demand{target: 1, open: 1, capacity: 100, window: 4, overdue: 50, waiting: 60}, 0, 50},
		{"many are overdue: up to the capacity", demand{target: 1, open: 1, capacity: 8, window: 4, overdue: 50, waiting: 60}, 0, 7},
		{"many are overdue: what is on its way has its place", demand{target: 4, open: 1, connecting: 3, capacity: 8, window: 4, overdue: 50, waiting: 60}, 0, 4},
		{"overdue at the capacity", demand{target: 8, open: 8, capacity: 8, window: 4, overdue: 5, waiting: 5}, 0, 0},
		{"a dead service gets one probe for all who are overdue", demand{target: 1, open: 1, capacity: 8, window: 1, failures: 1, overdue: 5, waiting: 5}, 0, 1},
		{"a dead service has its probe", demand{target: 2, open: 1, connecting: 1, active: 1, capacity: 8, window: 1, failures: 1, overdue: 5, waiting: 5}, 0, 0},
		{"a dead service is probed for what is lost first", demand{target: 3, open: 1, capacity: 8, window: 1, failures: 1, overdue: 5, waiting: 5}, 1, 0},
		{"on the ramp the lost come first", demand{target: 3, open: 1, capacity: 8, window: 4, failures: 1, overdue: 5, waiting: 5}, 2, 2},
		{"what is to be healed serves those who are overdue, too", demand{target: 6, open: 0, capacity: 8, window: 4, overdue: 5, waiting: 5}, 4, 1},
		{"what is to be healed later takes no place of theirs", demand{target: 6, open: 0, capacity: 8, window: 4, overdue: 10, waiting: 10}, 4, 2},

		{"nothing is open and somebody waits", demand{capacity: 8, window: 4, waiting: 5}, 0, 1},
		{"nothing is open, somebody waits, one is on its way", demand{connecting: 1, capacity: 8, window: 4, waiting: 5}, 0, 0},
		{"nothing is open, somebody waits, one hangs", demand{connecting: 1, hung: 1, capacity: 8, window: 4, waiting: 5}, 0, 1},
		{"nothing is open, somebody waits, all hang", demand{connecting: 8, hung: 8, capacity: 8, window: 4, waiting: 5}, 0, 0},
		{"nothing is open, somebody waits, the lost is healed", demand{target: 1, capacity: 8, window: 4, waiting: 5}, 1, 0},
		{"nothing but what is being closed is open and somebody waits", demand{open: 2, leaving: 2, capacity: 8, window: 4, waiting: 5}, 0, 1},
		{"one is open and somebody waits", demand{target: 1, open: 1, capacity: 8, window: 4, waiting: 5}, 0, 0},
		{"nothing is open, somebody waits, the service is dead", demand{capacity: 8, window: 1, failures: 3, waiting: 5}, 0, 1},
		{"nothing is open, somebody waits, the service is being probed", demand{connecting: 1, active: 1, capacity: 8, window: 1, failures: 3, waiting: 5}, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, decision{c.heal, c.grow}, decide(c.d))
		})
	}
}

// Every small demand, against what must always hold.
func TestDecideKeepsItsBounds(t *testing.T) {
	const most = 4

	checked := 0
	upTo := func(n int, f func(int)) {
		for i := range n + 1 {
			f(i)
		}
	}
	check := func(d demand) {
		checked++

		got := decide(d)
		usable := d.open - d.leaving
		healing := d.target - usable - (d.connecting - d.hung)
		bad := func(what string) { t.Fatalf("%s: %+v of %+v", what, got, d) }

		switch {
		case got.heal < 0 || got.grow < 0:
			bad("below zero")
		case d.open+d.connecting+got.heal+got.grow > d.capacity:
			bad("beyond the capacity")
		case got.heal > max(0, healing):
			bad("heals more than is missing")
		case got.heal > max(0, d.window-d.active):
			bad("heals more than the window has")
		case d.failures > 0 && got.heal+got.grow > max(0, d.window-d.active):
			bad("storms a dead service")
		case got.grow > max(d.overdue, 1):
			bad("grows by more than was asked for")
		case got.grow > max(0, d.overdue-(d.connecting-d.hung)-got.heal) && usable+d.connecting-d.hung+got.heal > 0:
			bad("connects more than there are waiters without a connect")
		case got.grow > 0 && d.overdue == 0 && (d.waiting == 0 || usable+d.connecting-d.hung+got.heal > 0):
			bad("grows for nobody")
		case got.grow > 0 && max(d.target, usable+d.connecting+got.heal)+got.grow > d.capacity:
			bad("wants more than the capacity")
		case got.heal == 0 && healing > 0 && d.window > d.active && d.open+d.connecting < d.capacity:
			bad("heals not what it could")
		case got.heal+got.grow == 0 && d.waiting > 0 && usable == 0 && d.connecting == d.hung && d.open+d.connecting < d.capacity &&
			d.target <= d.connecting && d.window > d.active:
			bad("leaves those who wait alone")
		}
	}

	for capacity := 1; capacity <= most; capacity++ {
		upTo(capacity, func(open int) {
			upTo(capacity-open, func(connecting int) {
				upTo(connecting, func(hung int) {
					upTo(connecting-hung, func(active int) {
						upTo(capacity+1, func(target int) {
							upTo(2, func(waiting int) {
								upTo(waiting, func(overdue int) {
									upTo(1, func(failures int) {
										for window := 1; window <= most; window++ {
											upTo(open, func(leaving int) {
												check(demand{
													target: target, open: open, leaving: leaving, connecting: connecting, capacity: capacity,
													active: active, hung: hung, window: window, failures: failures, overdue: overdue, waiting: waiting,
												})
											})
										}
									})
								})
							})
						})
					})
				})
			})
		})
	}

	require.Greater(t, checked, 10_000)
}

func TestDefaultBackoff(t *testing.T) {
	const ms = time.Millisecond

	for _, c := range []struct {
		failures    int
		least, most time.Duration
	}{
		{-1, 50 * ms, 100 * ms},
		{0, 50 * ms, 100 * ms},
		{1, 50 * ms, 100 * ms},
		{2, 200 * ms, 300 * ms},
		{3, 320 * ms, 480 * ms},
		{4, 512 * ms, 768 * ms},
		{5, 819200 * time.Microsecond, 1228800 * time.Microsecond},
		{8, 3355443200, 5033164800},
		{11, 13743895347, 20615843020},
		{13, 20 * time.Second, 30 * time.Second},
		{100, 20 * time.Second, 30 * time.Second},
		{math.MaxInt, 20 * time.Second, 30 * time.Second},
	} {
		t.Run(fmt.Sprint(c.failures), func(t *testing.T) {
			assert.InDelta(t, c.least, defaultBackoff(c.failures, 0), 10)
			assert.InDelta(t, c.most, defaultBackoff(c.failures, 1), 10)
			assert.InDelta(t, (c.least+c.most)/2, defaultBackoff(c.failures, 0.5), 10)
			assert.LessOrEqual(t, defaultBackoff(c.failures, 1), 30*time.Second)
		})
	}

	for n := 1; n < 50; n++ {
		require.GreaterOrEqual(t, defaultBackoff(n+1, 0.5), defaultBackoff(n, 0.5), "pause %d", n)
		require.Less(t, defaultBackoff(n, 0.2), defaultBackoff(n, 0.8), "pause %d is spread", n)
	}
}

func TestJitteredLifetime(t *testing.T) {
	for _, c := range []struct {
		d      time.Duration
		chance float64
		want   time.Duration
	}{
		{time.Hour, 0, time.Hour},
		{time.Hour, 1, 54 * time.Minute},
		{time.Hour, 0.5, 57 * time.Minute},
		{1, 1, 1},
		{100, 1, 90},
		{time.Duration(math.MaxInt64), 0, time.Duration(math.MaxInt64)},
	} {
		require.Equal(t, c.want, jitteredLifetime(c.d, c.chance), "%v, %v", c.d, c.chance)
	}

	// The longest there is loses its tenth, and does not overflow.
	got := jitteredLifetime(time.Duration(math.MaxInt64), 1)
	require.InEpsilon(t, 0.9*float64(math.MaxInt64), float64(got), 1e-9)
}

func TestSoonerAndEarlier(t *testing.T) {
	first := time.Now()
	second := first.Add(time.Nanosecond)

	require.Equal(t, first, earlier(first, second))
	require.Equal(t, first, earlier(second, first))
	require.Equal(t, first, earlier(first, first))

	next := second
	sooner(&next, second.Add(time.Hour))
	require.Equal(t, second, next)
	sooner(&next, first)
	require.Equal(t, first, next)
}
