package pace

import "time"

// Demand is what decides how many connects to start. Its owner fills it in under the lock that
// guards the State.
type Demand struct {
	Target   int // connections that there should be
	Capacity int // the most that may be open or under way
	Open     int // connections that have a slot
	Leaving  int // of those open, how many are of no more use

	Connecting    int // connects under way, of whatever reason
	MaxConnecting int // the most that may be; 0 if there is no bound
	Hung          int // of those under way, how many should have ended long ago and are not counted on
	Healing       int // of those under way, how many replace something and are within Patience
	Growing       int // of those under way, how many are for waiting callers and are within Patience

	Waiting int  // callers who wait
	Overdue int  // callers of one kind who have waited for too long and are not served yet
	Tried   bool // a caller who never waits has found nothing open since the last connect
}

// Decision is how many connects to start: to replace what is lost, and because callers want more.
// Growing raises the target by as much.
type Decision struct{ Heal, Grow int }

// None reports whether nothing is to be started.
func (d Decision) None() bool { return d == Decision{} }

// Decide returns how many connects to start now. If the pace holds any back, wake is when to ask
// again; otherwise it is the zero Time. While the pause after a failure is not known
// ([State.Unpaused]) nothing is started, and the owner asks again once it has told it.
func (s *State) Decide(now time.Time, d Demand) (start Decision, wake time.Time) {
	at, known := s.Next(now, d.wanted())
	start = decide(d, s.window(), s.careful())
	switch {
	case start.None():
		return start, time.Time{}
	case !known:
		return Decision{}, time.Time{}
	case !at.IsZero():
		return Decision{}, at
	}
	return start, time.Time{}
}

// wanted reports whether any caller wants a connection.
func (d Demand) wanted() bool { return d.Waiting > 0 || d.Tried }

// decide is Decide without the pauses. careful says that something has failed: then the window is
// for growth, too.
func decide(d Demand, window int, careful bool) Decision {
	room := d.Capacity - d.Open - d.Connecting
	if d.MaxConnecting > 0 {
		// Also those that hang: the user wants no more than this inside Connect.
		room = min(room, d.MaxConnecting-d.Connecting)
	}
	most := MaxWindow - d.Healing - d.Growing
	slots := window - d.Healing
	if careful {
		slots -= d.Growing
	}
	slots = min(slots, most)
	usable := d.Open - d.Leaving
	coming := d.Connecting - d.Hung
	heal := max(0, min(d.Target-usable-coming, room, slots))

	coming += heal
	want := d.Overdue - coming
	if d.wanted() && usable+coming == 0 {
		want = max(want, 1) // nothing is open or on its way
	}
	if careful {
		want = min(want, slots-heal) // a dead service gets its probe, for whatever reason
	} else {
		want = min(want, most-heal)
	}
	// Growing goes beyond the target: what is to be healed serves callers, too.
	beyond := d.Capacity - max(d.Target, usable+d.Connecting+heal)
	return Decision{Heal: heal, Grow: max(0, min(want, room-heal, beyond))}
}
