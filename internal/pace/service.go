package pace

// One service that has several addresses: which of them to connect to, and when to move.

import (
	"cmp"
	"slices"
	"time"
)

// Stage is how far a connect has come.
type Stage int8

// The stages of a connect. One that has taken longer than [Patience] is slow, whatever it is for;
// one that should have ended long ago hangs, and is not counted on.
const (
	NotBegun Stage = iota
	Healing        // it replaces something
	Growing        // it is for waiting callers
	Slow
	Hung

	stages
)

// tally is how many connects there are at each stage.
type tally [stages]int

// turn counts one that has come from one stage to another.
func (t *tally) turn(from, to Stage) {
	if from != NotBegun {
		t[from]--
	}
	if to != NotBegun {
		t[to]++
	}
}

// coming is how many are under way, without those that hang.
func (t *tally) coming() int { return t[Healing] + t[Growing] + t[Slow] }

// Service is the pace of connects to one service with one or more addresses, of which K names each.
// Each address has a [State] of its own, so that one that is dead slows down nothing but itself.
// When no address answers, the service as a whole is probed as a dead one is: one connect at a time,
// the addresses in turn, under one backoff.
//
// What has been said of State goes for a Service, too: it is pure, and its owner guards it. An
// address that is not known has no pace: what is told of it does nothing.
type Service[K comparable] struct {
	// Chance returns a random number from 0 to n-1, for ties. Nil is for a service with one
	// address.
	Chance func(n int64) int64

	all    State       // of the service as a whole; not used with one address
	listed []*place[K] // in the order of the list
	places map[K]*place[K]
	under  tally     // connects at all addresses
	moveAt time.Time // nothing is moved before; zero if nothing is to be moved
	from   *place[K] // of the last move
	to     *place[K] // of the last move, until it is connected to
}

// place is one address.
type place[K comparable] struct {
	State
	key    K
	listed bool
	since  time.Time // it is in the list
	open   int       // connections in service
	due    int       // of those, how many are to be retired
	under  tally     // connects
	share  share
	gainAt time.Time // when something was last moved here
}

// share is whether an address that is new, or has lost connections, should get one of those that
// cannot be spread evenly.
type share struct {
	draws bool      // it is new, so chance decides
	gets  bool      // that has been decided
	had   int       // connections before it lost any
	of    int       // of so many at all addresses
	since time.Time // when it was first seen to lack one
}

// Epochs are the epochs of an address and of the whole service.
type Epochs struct{ one, all Epoch }

// Start is a connect to be started.
type Start[K comparable] struct {
	At    K
	Grows bool // it is for waiting callers, and raises the target by one
}

// List says which addresses the service has from now on. It returns those that are new and those
// that are gone. A place that is gone is connected to no more, but known as long as it has
// connections.
func (s *Service[K]) List(keys []K, now time.Time) (added, gone []K) {
	before := s.listed
	s.listed = nil
	if s.places == nil {
		s.places = make(map[K]*place[K])
	}
	for _, k := range keys {
		p := s.places[k]
		switch {
		case p == nil:
			p = &place[K]{key: k}
			s.places[k] = p
		case slices.Contains(s.listed, p):
			continue
		}
		if !p.listed {
			p.listed, p.since, p.share = true, now, share{draws: len(before) > 0}
			added = append(added, k)
		}
		s.listed = append(s.listed, p)
	}
	for _, p := range before {
		if !slices.Contains(s.listed, p) {
			p.listed = false
			gone = append(gone, p.key)
			s.forget(p)
		}
	}
	return added, gone
}

// Listed returns the addresses in the order of the list, and after them those that are gone and
// still have connections.
func (s *Service[K]) Listed() (keys []K) {
	for _, p := range s.listed {
		keys = append(keys, p.key)
	}
	for k, p := range s.places {
		if !p.listed {
			keys = append(keys, k)
		}
	}
	return keys
}

// forget drops a place that is gone when nothing of it is left.
func (s *Service[K]) forget(p *place[K]) {
	if !p.listed && p.open == 0 && p.under == (tally{}) {
		delete(s.places, p.key)
	}
}

// Begin, Turn and End keep the account of connects: one has begun, has come to another stage, or is
// over.
func (s *Service[K]) Begin(k K, to Stage) { s.Turn(k, NotBegun, to) }
func (s *Service[K]) End(k K, from Stage) { s.Turn(k, from, NotBegun) }

func (s *Service[K]) Turn(k K, from, to Stage) {
	s.under.turn(from, to)
	if p := s.places[k]; p != nil {
		p.under.turn(from, to)
		s.forget(p)
	}
}

// Under is how many connects are under way, without those that hang.
func (s *Service[K]) Under() int { return s.under.coming() }

// Hung is how many connects hang.
func (s *Service[K]) Hung() int { return s.under[Hung] }

// Opened, Marked and Left keep the account of connections: one has come into service, is to be
// retired, or has left service.
func (s *Service[K]) Opened(k K) {
	if p := s.places[k]; p != nil {
		p.open++
		p.share.gets = false // it has got it
	}
}

func (s *Service[K]) Marked(k K) {
	if p := s.places[k]; p != nil {
		p.due++
	}
}

func (s *Service[K]) Left(k K, wasMarked bool) {
	if p := s.places[k]; p != nil {
		if !wasMarked && len(s.listed) > 1 {
			p.share.had = max(p.share.had, p.staying())
			p.share.of = max(p.share.of, s.staying())
		}
		p.open--
		if wasMarked {
			p.due--
		}
		s.forget(p)
	}
}

// staying is how many connections there are at all addresses that are not to be retired.
func (s *Service[K]) staying() (n int) {
	for _, p := range s.listed {
		n += p.staying()
	}
	return n
}

// staying is how many connections an address has that are not to be retired.
func (p *place[K]) staying() int { return p.open - p.due }

// load is what counts when an address is chosen: the connections that stay, and those on their way.
func (p *place[K]) load() int { return p.staying() + p.under.coming() }

// Epoch is [State.Epoch].
func (s *Service[K]) Epoch(k K) Epochs {
	if p := s.places[k]; p != nil {
		return Epochs{p.Epoch(), s.all.Epoch()}
	}
	return Epochs{}
}

// Failed is [State.Failed] for a connect to an address.
func (s *Service[K]) Failed(k K, started Epochs, now time.Time) {
	if p := s.places[k]; p != nil {
		p.Failed(started.one, now)
		if s.down(now) {
			s.all.Failed(started.all, now)
		}
	}
}

// Connected is [State.Connected].
func (s *Service[K]) Connected(k K, now time.Time) Epochs {
	p := s.places[k]
	if p == nil {
		return Epochs{}
	}
	return Epochs{p.Connected(now), s.all.Connected(now)}
}

// Delivered is [State.Delivered].
func (s *Service[K]) Delivered(k K, connected Epochs, admitted, now time.Time) {
	if p := s.places[k]; p != nil {
		p.Delivered(connected.one, admitted, now)
		s.all.Delivered(connected.all, admitted, now)
	}
}

// Lost is [State.Lost].
func (s *Service[K]) Lost(k K, connected Epochs, admitted, now time.Time) {
	p := s.places[k]
	if p == nil {
		return
	}
	p.Lost(connected.one, admitted, now)
	if s.down(now) {
		s.all.Lost(connected.all, admitted, now)
	} else {
		s.all.Gone(connected.all, admitted, now)
	}
}

// Gone is [State.Gone].
func (s *Service[K]) Gone(k K, connected Epochs, admitted, now time.Time) {
	if p := s.places[k]; p != nil {
		p.Gone(connected.one, admitted, now)
		s.all.Gone(connected.all, admitted, now)
	}
}

// Whole is [State.Whole], for all addresses.
func (s *Service[K]) Whole(now time.Time) {
	for _, p := range s.listed {
		p.Whole(now)
	}
	s.all.Whole(now)
}

// Unpaused returns the state of an address, or of the whole service, whose pause has yet to be told
// by [State.SetPause], and after how many failures in a row it is; nil if there is none.
func (s *Service[K]) Unpaused() (of *State, failures int) {
	for _, p := range s.listed {
		if p.unpaused {
			return &p.State, p.failures
		}
	}
	if s.all.unpaused && len(s.listed) > 1 {
		return &s.all, s.all.failures
	}
	return nil, 0
}

// down reports whether no address answers.
func (s *Service[K]) down(now time.Time) bool {
	return !slices.ContainsFunc(s.listed, func(p *place[K]) bool { return p.Answers(now) })
}

// Answers is [State.Answers] of any address.
func (s *Service[K]) Answers(now time.Time) bool { return !s.down(now) }

// AnswersAt is [State.Answers] of one address.
func (s *Service[K]) AnswersAt(k K, now time.Time) bool {
	p := s.places[k]
	return p == nil || p.Answers(now)
}

// Proving reports whether an address answers again that has yet to prove well.
func (s *Service[K]) Proving(now time.Time) bool {
	return slices.ContainsFunc(s.listed, func(p *place[K]) bool { return p.Failures(now) > 0 && p.Answers(now) })
}

// Failures is [State.Failures] of the service: 0 while any address answers.
func (s *Service[K]) Failures(now time.Time) int {
	if st := s.state(now); st != nil {
		return st.Failures(now)
	}
	return 0
}

// Backoff is [State.Backoff] of the service: 0 while any address answers.
func (s *Service[K]) Backoff(now time.Time) time.Duration {
	if st := s.state(now); st != nil {
		return st.Backoff(now, false)
	}
	return 0
}

// state is that of the only address, or of a service of which no address answers.
func (s *Service[K]) state(now time.Time) *State {
	switch {
	case len(s.listed) == 1:
		return &s.listed[0].State
	case len(s.listed) > 1 && s.down(now):
		return &s.all
	}
	return nil
}

// Figures are what can be told of one address.
type Figures struct {
	Listed     bool
	Open       int
	Connecting int
	Failures   int // in a row
	Backoff    time.Duration
}

// Look returns the figures of an address.
func (s *Service[K]) Look(k K, now time.Time) Figures {
	p := s.places[k]
	if p == nil {
		return Figures{}
	}
	return Figures{
		Listed: p.listed, Open: p.open, Connecting: p.under.coming() + p.under[Hung], Failures: p.Failures(now), Backoff: p.Backoff(now, false),
	}
}

// Wellness is how long an address must not have failed before anything is moved to it.
const Wellness = 10 * time.Second

// Shift is a connection to be moved from one address to another. If Try is set, it is not known
// whether the other answers: it has failed, and nothing has been connected to it since.
type Shift[K comparable] struct {
	From, To K
	Try      bool
}

// Move returns what to move, if anything: from the address with the most connections to one that has
// two or more fewer, and that has neither failed nor come into the list for [Wellness]. An address
// that is new, or has lost connections, may get one if it has just one fewer, see wants.
//
// At most one connection is moved in every/target, jittered, so that all could be moved in the time
// in which the list is asked for once. The first waits for up to as long, at random, since many
// pools see an address come back at the same time. If something is to be moved later, wake is when
// to ask again; otherwise it is the zero Time.
func (s *Service[K]) Move(now time.Time, every time.Duration, target int) (shift Shift[K], move bool, wake time.Time) {
	if len(s.listed) < 2 {
		return shift, false, time.Time{}
	}
	full, all := s.fullest(), s.staying()
	var to *place[K]
	var try bool
	for _, p := range s.listed {
		more := full.staying() - p.load()
		if more < 1 || more == 1 && !s.wants(p, all, now) {
			continue
		}
		at := p.since.Add(Wellness)
		if more == 1 {
			at = later(at, p.share.since.Add(Wellness))
		}
		if !p.badAt.IsZero() {
			at = later(at, p.badAt.Add(Wellness))
		}
		if next, known := p.Next(now, false); known {
			at = later(at, next)
		}
		fails := p.Failures(now) > 0
		switch {
		case now.Before(at):
			wake = sooner(wake, at)
		case to == nil || try && !fails: // one that is known to be well comes first
			to, try = p, fails
		}
	}
	pause := max(every/time.Duration(max(1, target)), time.Millisecond)
	switch {
	case to == nil:
		if !now.Before(s.moveAt) {
			s.moveAt = time.Time{}
		}
		return shift, false, wake
	case s.moveAt.IsZero():
		s.moveAt = now.Add(s.jitter(pause))
	}
	if now.Before(s.moveAt) {
		return shift, false, sooner(wake, s.moveAt)
	}
	s.moveAt = now.Add(pause/2 + s.jitter(pause))
	s.from, s.to, to.gainAt = full, to, now
	return Shift[K]{full.key, to.key, try}, true, s.moveAt
}

func (s *Service[K]) jitter(most time.Duration) time.Duration {
	return time.Duration(s.Chance(int64(min(most, maxJitter))))
}

// wants reports whether an address that has one connection fewer than another should get it. Which
// addresses have one more than others is of no account in one pool, but many pools must not agree
// on it: a server that was restarted, or is new, would get nothing from pools with fewer connections
// than addresses. So one that has lost connections gets what it had, and one that is new has the
// chance that each has.
func (s *Service[K]) wants(p *place[K], staying int, now time.Time) bool {
	switch sh := &p.share; {
	case sh.gets:
	case sh.draws && now.Sub(p.since) < Wellness:
		return true // it is drawn then
	case sh.draws:
		var all, more int64
		for _, other := range s.listed {
			if other.load() >= p.load() {
				all++
			}
			if other.load() > p.load() {
				more++
			}
		}
		*sh = share{gets: s.Chance(all) < more}
	case sh.had > 0:
		if sh.had <= p.load() || sh.of > staying {
			*sh = share{} // it has that, or the pool has shrunk
		} else if sh.since.IsZero() {
			sh.since = now
		}
		return sh.had > 0
	}
	return p.share.gets
}

// Fullest returns the address with the most connections; of several the one that Move named last, if
// it is one of them.
func (s *Service[K]) Fullest() (k K) {
	if len(s.listed) == 0 {
		return k
	}
	full := s.fullest()
	if s.from != nil && s.from.listed && s.from.staying() == full.staying() {
		full = s.from
	}
	return full.key
}

// fullest returns the place with the most connections, of several one to which nothing has been moved
// for the longest time, and of several such a random one.
func (s *Service[K]) fullest() *place[K] {
	full, ties := s.listed[0], int64(1)
	for _, p := range s.listed[1:] {
		switch c := cmp.Or(cmp.Compare(p.staying(), full.staying()), full.gainAt.Compare(p.gainAt)); {
		case c > 0:
			full, ties = p, 1
		case c == 0:
			if ties++; s.Chance(ties) == 0 {
				full = p
			}
		}
	}
	return full
}

// maxJitter is the longest jitter between two moves.
const maxJitter = time.Minute

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
