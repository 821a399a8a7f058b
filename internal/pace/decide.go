package pace

import "time"

// Demand is what decides how many connects to start. Its owner fills it in under the lock that
// guards the Service, which knows by itself what is under way.
type Demand struct {
	Target   int // connections that there should be
	Capacity int // the most that may be open or under way
	Open     int // connections that have a slot
	Leaving  int // of those open, how many are of no more use

	Connecting    int // slots taken by what is on its way, of whatever reason
	MaxConnecting int // the most that may be; 0 if there is no bound

	Waiting int  // callers who wait
	Overdue int  // callers of one kind who have waited for too long and are not served yet
	Tried   bool // a caller who never waits has found nothing open since the last connect
}

// wanted reports whether any caller wants a connection.
func (d Demand) wanted() bool { return d.Waiting > 0 || d.Tried }

// Decide returns the connects to start now. If the pace holds any back, wake is when to ask again;
// otherwise it is the zero Time. While the pause after a failure is not known ([Service.Unpaused])
// nothing is started there, and the owner asks again once it has told it.
//
// Lost says from which address the connection is gone that the i-th healing connect replaces; it
// may be nil. It is asked in order: i never falls.
func (s *Service[K]) Decide(now time.Time, d Demand, lost func(i int) K) (starts []Start[K], wake time.Time) {
	room := d.Capacity - d.Open - d.Connecting
	if d.MaxConnecting > 0 {
		// Also those that hang: the user wants no more than this inside Connect.
		room = min(room, d.MaxConnecting-d.Connecting)
	}
	usable := d.Open - d.Leaving
	coming := d.Connecting - s.under[Hung]
	heal := min(d.Target-usable-coming, room)
	lanes := s.lanes(now, d.wanted())
	for i := range heal {
		l := s.choose(lanes, healing, i, lost)
		if l == nil {
			wake = earliest(lanes, healing)
			break
		}
		starts = append(starts, Start[K]{At: l.place.key})
	}
	healed := len(starts)

	coming += healed
	want := d.Overdue - coming
	if d.wanted() && usable+coming == 0 {
		want = max(want, 1) // nothing is open or on its way
	}
	// Growing goes beyond the target: what is to be healed serves callers, too.
	beyond := d.Capacity - max(d.Target, usable+d.Connecting+healed)
	for range min(want, room-healed, beyond) {
		l := s.choose(lanes, growing, 0, nil)
		if l == nil {
			wake = sooner(wake, earliest(lanes, growing))
			break
		}
		starts = append(starts, Start[K]{At: l.place.key, Grows: true})
	}
	return starts, wake
}

// lane is what may be started at one address.
type lane[K comparable] struct {
	place *place[K]
	free  [2]int    // how many connects the window has room for, to heal and to grow
	at    time.Time // not before; zero: now
	known bool      // at is known
	begun int       // how many have been chosen
}

const (
	healing = iota
	growing
)

// lanes returns what may be started at each address. If no address answers, it is what may be
// started in all, at the address that has failed the longest ago.
func (s *Service[K]) lanes(now time.Time, wanted bool) []lane[K] {
	if st := s.state(now); st != nil {
		next := s.listed[0]
		for _, p := range s.listed[1:] {
			if p.badAt.Before(next.badAt) {
				next = p
			}
		}
		l := lane[K]{place: next}
		l.at, l.known = st.Next(now, wanted) // first, as it draws what has been proved by now
		l.free = st.free(s.under[Healing], s.under[Growing])
		return []lane[K]{l}
	}
	lanes := make([]lane[K], 0, len(s.listed))
	for _, p := range s.listed {
		l := lane[K]{place: p}
		l.at, l.known = p.Next(now, false) // others answer callers who wait
		if again := p.badAt.Add(Wellness); !p.Answers(now) && now.Before(again) {
			// Others answer; one that does not would cost each round of healing a connect timeout.
			l.at = later(l.at, again)
		}
		l.free = p.free(p.under[Healing], p.under[Growing])
		lanes = append(lanes, l)
	}
	return lanes
}

// free is how many connects the window has room for, to heal and to grow, beside those under way. If
// something has failed, the window is for growth, too.
func (s *State) free(underHealing, underGrowing int) (free [2]int) {
	most := MaxWindow - underHealing - underGrowing
	free[healing], free[growing] = min(s.window()-underHealing, most), most
	if s.careful() {
		free[healing] = min(free[healing]-underGrowing, most)
		free[growing] = free[healing]
	}
	return free
}

// choose takes a place in the window of the address with the fewest connections, and of several such
// the one that something was to be moved to, or else a random one. An address counts as if it still
// had the connection that is to be replaced.
func (s *Service[K]) choose(lanes []lane[K], why, i int, lost func(i int) K) (best *lane[K]) {
	least, ties := 0, 0
	for j := range lanes {
		l := &lanes[j]
		if l.free[why] <= 0 || !l.known || !l.at.IsZero() {
			continue
		}
		load := l.place.load() + l.begun
		if lost != nil && lost(i) == l.place.key {
			load++
		}
		switch {
		case best == nil || load < least || load == least && l.place == s.to:
			best, least, ties = l, load, 1
		case load == least && best.place != s.to:
			if ties++; s.Chance(int64(ties)) == 0 {
				best = l
			}
		}
	}
	if best != nil {
		best.free[healing]--
		best.free[growing]--
		best.begun++
		if best.place == s.to {
			s.to = nil
		}
	}
	return best
}

// earliest is when the first address may be connected to that has room in its window, the zero Time
// if there is none.
func earliest[K comparable](lanes []lane[K], why int) (at time.Time) {
	for _, l := range lanes {
		if l.known && l.free[why] > 0 {
			at = sooner(at, l.at)
		}
	}
	return at
}

// sooner is the earlier of two times that are not zero.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
