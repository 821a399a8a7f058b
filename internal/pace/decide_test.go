package pace

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// situation is a Demand and what is under way at the one address of a service.
type situation struct {
	Target, Capacity, Open, Leaving, Connecting, MaxConnecting int

	Hung, Healing, Growing int // of those connecting

	Waiting, Overdue int
	Tried            bool
}

type decision struct{ Heal, Grow int }

// only is a service of one address.
func only(st State) *Service[int] {
	s := &Service[int]{}
	s.List([]int{0}, begin)
	s.places[0].State = st
	return s
}

func counted(starts []Start[int]) (d decision) {
	for _, s := range starts {
		if s.Grows {
			d.Grow++
		} else {
			d.Heal++
		}
	}
	return d
}

// decide is what is started with a window; careful says that something has failed.
func (d situation) decide(window int, careful bool) decision {
	st := State{grown: window - Window}
	if careful {
		st = State{failures: 1, grown: window - 1, goodAt: begin}
	}
	s := only(st)
	for stage, n := range map[Stage]int{Hung: d.Hung, Healing: d.Healing, Growing: d.Growing} {
		for range n {
			s.Begin(0, stage)
		}
	}
	starts, _ := s.Decide(begin, Demand{
		Target: d.Target, Capacity: d.Capacity, Open: d.Open, Leaving: d.Leaving, Connecting: d.Connecting, MaxConnecting: d.MaxConnecting,
		Waiting: d.Waiting, Overdue: d.Overdue, Tried: d.Tried,
	}, nil)
	return counted(starts)
}

func TestDecide(t *testing.T) {
	const well, careful = false, true

	for _, c := range []struct {
		name       string
		d          situation
		window     int
		careful    bool
		heal, grow int
	}{
		{"nothing to do", situation{Target: 4, Open: 4, Capacity: 8}, 4, well, 0, 0},
		{"nothing wanted of an empty pool", situation{Capacity: 8}, 4, well, 0, 0},
		{"one is lost", situation{Target: 4, Open: 3, Capacity: 8}, 4, well, 1, 0},
		{"one is lost and on its way", situation{Target: 4, Open: 3, Connecting: 1, Healing: 1, Capacity: 8}, 4, well, 0, 0},
		{"many are lost: as many as the window has", situation{Target: 32, Capacity: 32}, 4, well, 4, 0},
		{"the window is used up", situation{Target: 32, Connecting: 4, Healing: 4, Capacity: 32}, 4, well, 0, 0},
		{"the window is more than used up", situation{Target: 32, Connecting: 4, Healing: 4, Capacity: 32}, 1, careful, 0, 0},
		{"a slow one has left its place in the window", situation{Target: 32, Connecting: 4, Healing: 3, Capacity: 32}, 4, well, 1, 0},
		{"one hangs, and its place is another's", situation{Target: 2, Open: 1, Connecting: 1, Hung: 1, Capacity: 4}, 4, well, 1, 0},
		{"one hangs in the last slot", situation{Target: 2, Open: 1, Connecting: 1, Hung: 1, Capacity: 2}, 4, well, 0, 0},
		{"a probe", situation{Target: 32, Capacity: 32}, 1, careful, 1, 0},
		{"the ramp", situation{Target: 32, Open: 7, Connecting: 2, Healing: 2, Capacity: 32}, 8, careful, 6, 0},
		{"a place that an Add has reserved is none", situation{Target: 4, Open: 2, Connecting: 2, Capacity: 4}, 4, well, 0, 0},
		{"one is lost, and takes long to close", situation{Target: 2, Open: 2, Leaving: 1, Capacity: 8}, 4, well, 1, 0},
		{"one that is lost still has the last slot", situation{Target: 2, Open: 2, Leaving: 1, Capacity: 2}, 4, well, 0, 0},
		{"more are open than there should be", situation{Target: 2, Open: 4, Capacity: 8}, 4, well, 0, 0},
		{"a new pool's minimum goes by the window", situation{Target: 1000, Capacity: 1000}, 4, well, 4, 0},

		{"the bound on connecting", situation{Target: 32, Capacity: 32, MaxConnecting: 2}, 4, well, 2, 0},
		{"the bound on connecting is used up by others", situation{Target: 32, Connecting: 2, Capacity: 32, MaxConnecting: 2}, 4, well, 0, 0},
		{"the bound on connecting counts those that hang", situation{Target: 32, Connecting: 2, Hung: 2, Capacity: 32, MaxConnecting: 2}, 4, well, 0, 0},
		{"the bound on connecting is wider than the window", situation{Target: 32, Capacity: 32, MaxConnecting: 9}, 4, well, 4, 0},
		{"the bound on connecting is for growth, too", situation{Target: 2, Open: 1, Capacity: 32, MaxConnecting: 3, Overdue: 9, Waiting: 9}, 4, well, 1, 2},

		{"one is overdue", situation{Target: 1, Open: 1, Capacity: 8, Overdue: 1, Waiting: 1}, 4, well, 0, 1},
		{"many are overdue: a healthy window is not for them", situation{Target: 1, Open: 1, Capacity: 100, Overdue: 20, Waiting: 60}, 4, well, 0, 20},
		{"many are overdue: not all at once", situation{Target: 1, Open: 1, Capacity: 100, Overdue: 50, Waiting: 60}, 4, well, 0, MaxWindow},
		{"many are overdue: not all at once, what is under way counts", situation{
			Target: 15, Open: 1, Connecting: 14, Healing: 4, Growing: 10, Capacity: 100, Overdue: 50, Waiting: 60,
		}, 4, well, 0, MaxWindow - 14},
		{"many were overdue: healing beside them is bounded, too", situation{Target: 40, Connecting: 30, Growing: 30, Capacity: 100}, 4, well, 2, 0},
		{"many were overdue: nothing is healed beside them", situation{Target: 40, Connecting: 33, Growing: 33, Capacity: 100}, 4, well, 0, 0},
		{"many are overdue: up to the capacity", situation{Target: 1, Open: 1, Capacity: 8, Overdue: 50, Waiting: 60}, 4, well, 0, 7},
		{"many are overdue: what is on its way has its place", situation{Target: 4, Open: 1, Connecting: 3, Capacity: 8, Overdue: 50, Waiting: 60}, 4, well, 0, 4},
		{"overdue at the capacity", situation{Target: 8, Open: 8, Capacity: 8, Overdue: 5, Waiting: 5}, 4, well, 0, 0},
		{"a dead service gets one probe for all who are overdue", situation{Target: 1, Open: 1, Capacity: 8, Overdue: 5, Waiting: 5}, 1, careful, 0, 1},
		{"a dead service has its probe", situation{Target: 2, Open: 1, Connecting: 1, Healing: 1, Capacity: 8, Overdue: 5, Waiting: 5}, 1, careful, 0, 0},
		{"a dead service has its probe, for those who wait", situation{Target: 3, Open: 1, Connecting: 1, Growing: 1, Capacity: 8}, 1, careful, 0, 0},
		{"a dead service is probed for what is lost first", situation{Target: 3, Open: 1, Capacity: 8, Overdue: 5, Waiting: 5}, 1, careful, 1, 0},
		{"on the ramp the lost come first", situation{Target: 3, Open: 1, Capacity: 8, Overdue: 5, Waiting: 5}, 4, careful, 2, 2},
		{"what is to be healed serves those who are overdue, too", situation{Target: 6, Capacity: 8, Overdue: 5, Waiting: 5}, 4, well, 4, 1},
		{"what is to be healed later takes no place of theirs", situation{Target: 6, Capacity: 8, Overdue: 10, Waiting: 10}, 4, well, 4, 2},

		{"nothing is open and somebody waits", situation{Capacity: 8, Waiting: 5}, 4, well, 0, 1},
		{"nothing is open and somebody has tried without waiting", situation{Capacity: 8, Tried: true}, 4, well, 0, 1},
		{"nothing is open, somebody has tried, the service is being probed", situation{Connecting: 1, Growing: 1, Capacity: 8, Tried: true}, 1, careful, 0, 0},
		{"one is open and somebody has tried", situation{Target: 1, Open: 1, Capacity: 8, Tried: true}, 4, well, 0, 0},
		{"nothing is open, somebody waits, one is on its way", situation{Connecting: 1, Capacity: 8, Waiting: 5}, 4, well, 0, 0},
		{"nothing is open, somebody waits, one hangs", situation{Connecting: 1, Hung: 1, Capacity: 8, Waiting: 5}, 4, well, 0, 1},
		{"nothing is open, somebody waits, all hang", situation{Connecting: 8, Hung: 8, Capacity: 8, Waiting: 5}, 4, well, 0, 0},
		{"nothing is open, somebody waits, the lost is healed", situation{Target: 1, Capacity: 8, Waiting: 5}, 4, well, 1, 0},
		{"all that is open is leaving and somebody waits", situation{Open: 2, Leaving: 2, Capacity: 8, Waiting: 5}, 4, well, 0, 1},
		{"one is open and somebody waits", situation{Target: 1, Open: 1, Capacity: 8, Waiting: 5}, 4, well, 0, 0},
		{"nothing is open, somebody waits, the service is dead", situation{Capacity: 8, Waiting: 5}, 1, careful, 0, 1},
		{"nothing is open, somebody waits, the service is being probed", situation{Connecting: 1, Healing: 1, Capacity: 8, Waiting: 5}, 1, careful, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := c.d.decide(c.window, c.careful)
			require.Equal(t, decision{c.heal, c.grow}, got)
		})
	}
}

// Every small demand, against what must always hold.
func TestDecideKeepsItsBounds(t *testing.T) {
	const most = 3

	checked := 0
	check := func(d situation, window int, careful bool) {
		checked++

		got := d.decide(window, careful)
		usable, coming := d.Open-d.Leaving, d.Connecting-d.Hung
		healing := d.Target - usable - coming
		places := window - d.Healing

		if careful {
			places -= d.Growing
		}

		room := d.Capacity - d.Open - d.Connecting
		if d.MaxConnecting > 0 {
			room = min(room, d.MaxConnecting-d.Connecting)
		}

		wanted := d.Waiting > 0 || d.Tried
		bad := func(what string) {
			t.Fatalf("%s: %+v of %+v, window %d, careful %v", what, got, d, window, careful)
		}

		switch {
		case got.Heal < 0 || got.Grow < 0:
			bad("below zero")
		case got.Heal+got.Grow > max(0, room):
			bad("beyond the capacity, or more connects than the user allows")
		case got.Heal > max(0, healing):
			bad("heals more than is missing")
		case got.Heal > max(0, places):
			bad("heals more than the window has")
		case careful && got.Heal+got.Grow > max(0, places):
			bad("storms a dead service")
		case got.Grow > max(d.Overdue, 1):
			bad("grows by more than was asked for")
		case got.Grow > max(0, d.Overdue-coming-got.Heal) && usable+coming+got.Heal > 0:
			bad("connects more than there are waiters without a connect")
		case got.Grow > 0 && d.Overdue == 0 && (!wanted || usable+coming+got.Heal > 0):
			bad("grows for nobody")
		case got.Grow > 0 && max(d.Target, usable+d.Connecting+got.Heal)+got.Grow > d.Capacity:
			bad("wants more than the capacity")
		case got.Heal == 0 && healing > 0 && places > 0 && room > 0:
			bad("heals not what it could")
		case got == decision{} && wanted && usable+coming == 0 && room > 0 && d.Target <= d.Connecting && places > 0:
			bad("leaves those who wait alone")
		}
	}

	for d := range demands(most) {
		for window := 1; window <= most; window++ {
			check(d, window, false)
			check(d, window, true)
		}
	}

	require.Greater(t, checked, 100_000)
}

// demands yields every demand with a capacity up to most.
func demands(most int) func(yield func(situation) bool) {
	return func(yield func(situation) bool) {
		var d situation

		fields := []struct {
			field *int
			from  func() int
			to    func() int
		}{
			{&d.Capacity, func() int { return 1 }, func() int { return most }},
			{&d.Open, nil, func() int { return d.Capacity }},
			{&d.Leaving, nil, func() int { return d.Open }},
			{&d.Connecting, nil, func() int { return d.Capacity - d.Open }},
			{&d.Hung, nil, func() int { return d.Connecting }},
			{&d.Healing, nil, func() int { return d.Connecting - d.Hung }},
			{&d.Growing, nil, func() int { return d.Connecting - d.Hung - d.Healing }},
			{&d.MaxConnecting, nil, func() int { return most }},
			{&d.Target, nil, func() int { return d.Capacity + 1 }},
			{&d.Waiting, nil, func() int { return 2 }},
			{&d.Overdue, nil, func() int { return d.Waiting }},
		}

		var walk func(i int) bool
		walk = func(i int) bool {
			if i == len(fields) {
				d.Tried = false
				if !yield(d) {
					return false
				}

				d.Tried = true

				return yield(d)
			}

			f := fields[i]
			*f.field = 0
			if f.from != nil {
				*f.field = f.from()
			}

			for ; *f.field <= f.to(); *f.field++ {
				if !walk(i + 1) {
					return false
				}
			}

			return true
		}

		walk(0)
	}
}

func TestDecideHoldsBackUntilTheNextConnectIsAllowed(t *testing.T) {
	now := time.Now()
	at := func(d time.Duration) time.Time { return now.Add(d) }
	one := Demand{Target: 1, Capacity: 1}

	service := only(State{})
	s := &service.places[0].State
	decide := func(of *Service[int], now time.Time, d Demand) (decision, time.Time) {
		starts, wake := of.Decide(now, d, nil)
		return counted(starts), wake
	}
	got, wake := decide(service, now, one)
	require.Equal(t, decision{Heal: 1}, got)
	require.Zero(t, wake)

	s.Failed(s.Epoch(), now)
	got, wake = decide(service, now, one)
	require.Zero(t, got, "the pause is not known yet")
	require.Zero(t, wake)

	users := *s
	users.SetPause(1, time.Minute, false)
	s.SetPause(1, time.Minute, true)
	got, wake = decide(service, at(time.Second), one)
	require.Zero(t, got)
	require.Equal(t, at(time.Minute), wake)

	got, wake = decide(service, at(time.Second), Demand{Target: 1, Open: 1, Capacity: 1})
	require.Zero(t, got)
	require.Zero(t, wake, "nothing is held back")

	for name, d := range map[string]Demand{
		"waits": {Target: 1, Capacity: 1, Waiting: 1},
		"tried": {Target: 1, Capacity: 1, Tried: true},
	} {
		got, wake = decide(service, at(WaiterFloor-1), d)
		require.Zero(t, got, name)
		require.Equal(t, at(WaiterFloor), wake, name)
		got, wake = decide(service, at(WaiterFloor), d)
		require.Equal(t, decision{Heal: 1}, got, name)
		require.Zero(t, wake, name)

		_, wake = decide(only(users), at(WaiterFloor), d)
		require.Equal(t, at(time.Minute), wake, "the user's own backoff")
	}

	_, wake = decide(service, at(WaiterFloor), Demand{Target: 1, Capacity: 1})
	require.Equal(t, at(time.Minute), wake, "nobody waits")

	got, wake = decide(service, at(time.Minute), one)
	require.Equal(t, decision{Heal: 1}, got)
	require.Zero(t, wake)
}
