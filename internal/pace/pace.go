// Package pace decides how fast one service is connected to: how many connects may be under way,
// and how long to pause before the next. It is pure: it reads no clock, takes no lock, starts
// nothing and keeps nothing global. One [State] belongs to one service or to one of its addresses.
// Its owner guards it with a lock of its own, tells it what happened and when, and asks it what to
// do.
//
// A State is in one of three moods.
//
//   - Well: nothing has failed lately. Four connects at a time replace what is
//     lost, one more with each success, at most [MaxWindow].
//   - Down: something failed and no connect has succeeded since. One connect at
//     a time, after a pause that grows.
//   - Half-open: a connect has succeeded since the last failure. The window
//     grows from one by each success, so it doubles: 1, 2, 4, 8. But if the
//     service has been seen to hang up, nothing more is connected until the new
//     connection has outlived its trial. The failures are forgotten later, when
//     a connection has proved useful.
//
// # How long a trial takes, and why that is enough
//
// Two demands pull in opposite directions. A service that accepts and hangs up must see no more
// than the probes that the backoff allows. A service that comes back well must have all its
// connections again within three times what a bare loop of four connects takes, which on a fast
// network is less time than some services take to hang up. A new connection that has not died yet
// looks the same in both. So what decides is what the service has done before.
//
// A service that was well, or that has only refused connects, gets no trial: services that restart
// do that. Doubling from one takes at most three times the bare loop, and that only for four
// connections. If the service hangs up instead, each missing connection has been connected at most
// once before it shows.
//
// A service that hung up on a young connection gets trials: each probe of the backoff is one
// connect, and no other follows until it has lived for twice as long as those that died, and for 75
// ms at least. A service that hangs up after 0, 30 or 50 ms never lets its probe live so long, with
// whatever it says before, so each probe ends as one more failure in a row, under the next longer
// pause: it gets one connect for each probe and no more. One that takes longer the next time may
// end a trial well and then hang up on all, but the failures are not forgotten by that: the pause
// goes on growing, and the next trial takes twice as long again, at most a second. So every burst
// costs it a doubling.
//
// What ends this is proof. A connection has proved useful when it has lived for a second, and for
// as long as the pause before it. It need not live as long as a long pause if it has delivered
// something and has then lived on for a trial: what was delivered proves nothing if the connection
// is gone a moment later (the service said that it is full, and hung up). The failures are then
// forgotten, and after a second of life so are the trials. Whatever it has delivered, to die within
// its first second is a failure.
package pace

import "time"

const (
	// Window is how many connects may be under way at once as long as none has failed.
	Window = 4

	// MaxWindow is the most that the window grows to. It also bounds growth for waiting callers: a
	// service that is well can still be stormed with logins.
	MaxWindow = 32

	// Patience is how long a connect may take before its owner should report it as failed and go on
	// without it. It keeps its slot, but no longer its place in the window.
	Patience = time.Second

	// WaiterFloor is the least time between the last failure and a connect that comes before the
	// end of the pause because callers wait.
	WaiterFloor = 500 * time.Millisecond

	// shortTrial is the shortest trial. It is longer than the 50 ms that a balancer, or a server
	// that is full, may take to hang up.
	shortTrial = 75 * time.Millisecond

	// proveAfter is how long a connection must live to have been of any use.
	proveAfter = time.Second
)

// Epoch numbers the times between failures. Connects that start in one epoch are under way
// together: of those that fail only the first says anything. Numbers are used instead of times
// because two events can have the same time.
type Epoch uint64

// State is the pace of connects to one service. The zero State is that of a service of which
// nothing is known yet, which is treated as well. A copy is a State of its own.
//
// Times that go backwards from call to call do no harm but to the pace.
type State struct {
	epoch    Epoch         // grows with each failure that counts
	failures int           // in a row, since a connection proved useful
	grown    int           // by how much the window has grown
	badAt    time.Time     // when failures last grew
	unpaused bool          // failures has grown, and the pause is not known yet
	pause    time.Duration // after the last failure
	cut      bool          // a long pause may be cut short because callers wait
	retryAt  time.Time     // end of the pause

	// trial is how long a connection must live, after a failure, before others follow it. Zero as
	// long as the service has not hung up on a young one.
	trial time.Duration
	// goodAt is when the connection on trial was admitted: the first since badAt that is still
	// there. Zero if there is none.
	goodAt time.Time
	// spokeFrom and spokeAt are when the first connection since badAt that has delivered something
	// was admitted, and when it delivered. Zero if none has.
	spokeFrom, spokeAt time.Time
}

// Epoch returns the present epoch. The owner keeps it with each connect that it starts, for
// [State.Failed].
func (s *State) Epoch() Epoch { return s.epoch }

// Failed is told of a connect that failed, or that has taken longer than [Patience]. started is the
// epoch in which it started. Of connects that were under way together only the first failure
// counts. The pause that follows must be told by [State.SetPause] if [State.Unpaused] asks for it.
func (s *State) Failed(started Epoch, now time.Time) {
	s.settle(now)
	if s.failures > 0 && started != s.epoch {
		return // an earlier failure said the same
	}
	s.fail(now)
	s.unpaused = true
}

// Connected is told of a connect that succeeded, in the moment in which its connection is admitted.
// It returns the epoch that the owner keeps with the connection, for [State.Delivered],
// [State.Lost] and [State.Gone].
func (s *State) Connected(now time.Time) Epoch {
	if s.goodAt.IsZero() {
		s.goodAt = now
	}
	s.unpaused, s.retryAt = false, now // the service is there, so the pause is over
	s.grown++
	return s.epoch
}

// Delivered is told when a connection delivers something for the first time.
func (s *State) Delivered(connected Epoch, admitted, now time.Time) {
	if s.failures > 0 && connected == s.epoch && s.spokeAt.IsZero() {
		s.spokeFrom, s.spokeAt = admitted, now
	}
}

// Lost is told of a connection that the service ended or that failed. One that dies young is a
// failed connect that only looked like a success. Connections that were given to the pool, and not
// connected by it, are not told of.
func (s *State) Lost(connected Epoch, admitted, now time.Time) {
	s.settle(now)
	age := now.Sub(admitted)
	if age >= s.proof() {
		if connected == s.epoch { // it was of use while it lived
			s.well()
			s.trial = 0
		}
		return
	}
	// It teaches how long to wait, also if it is no news that the service fails.
	s.trial = max(s.trial, min(max(shortTrial, 2*min(age, proveAfter)), proveAfter))
	if s.failures > 0 && connected != s.epoch {
		return
	}
	first := s.failures == 0
	s.fail(now)
	if first {
		s.pause, s.retryAt = 0, now // once may be chance
	} else {
		s.unpaused = true
	}
}

// Gone is told of a connection that ended by the pool's or a consumer's own doing: killed, retired,
// detached, left in the middle of a message. This says nothing about the service, but whatever the
// connection was about to prove is open again.
func (s *State) Gone(connected Epoch, admitted, now time.Time) {
	s.settle(now)
	if connected == s.epoch {
		s.forget(admitted)
	}
}

// Whole is told when nothing is missing and nothing is under way: the next loss is met with the
// window that a healthy service gets at first.
func (s *State) Whole(now time.Time) {
	s.settle(now)
	if s.failures == 0 {
		s.grown = 0
	}
}

// Unpaused reports whether the pause after the last failure has yet to be told by [State.SetPause],
// and after how many failures in a row it is. Nothing is connected until then. The owner works the
// pause out without its lock, because the function that says how long it is may be the user's.
func (s *State) Unpaused() (failures int, unpaused bool) { return s.failures, s.unpaused }

// SetPause tells how long to pause after so many failures. It does nothing if the number of
// failures has changed meanwhile, or no pause is wanted any more. A negative pause is none. Cut says
// that a long pause may be cut short because callers wait.
func (s *State) SetPause(failures int, pause time.Duration, cut bool) {
	if !s.unpaused || failures != s.failures {
		return
	}
	s.unpaused, s.pause, s.retryAt, s.cut = false, pause, s.badAt.Add(pause), cut
}

// Failures is how many connects in a row have failed, of those that say something, since a
// connection proved useful.
func (s *State) Failures(now time.Time) int {
	s.settle(now)
	return s.failures
}

// Answers reports whether the service is known to be there: the last connect succeeded, or nothing
// has failed. While it does not, nothing that works should be given up for something that has yet
// to be connected.
func (s *State) Answers(now time.Time) bool {
	s.settle(now)
	return s.failures == 0 || !s.goodAt.IsZero()
}

// Next returns when the next connect is allowed, the zero Time if it is at once, and whether that
// is known: it is not while [State.Unpaused] asks for the pause. Wanted says that callers wait.
func (s *State) Next(now time.Time, wanted bool) (at time.Time, known bool) {
	s.settle(now)
	switch {
	case s.failures == 0:
		return time.Time{}, true
	case s.unpaused:
		return time.Time{}, false
	case !s.goodAt.IsZero():
		at = s.goodAt.Add(s.trial)
	default:
		at = s.retryAt
		if floor := s.badAt.Add(WaiterFloor); s.cut && wanted && floor.Before(at) {
			at = floor
		}
	}
	if !now.Before(at) {
		return time.Time{}, true
	}
	return at, true
}

// Backoff is what is left of the pause before the next connect, 0 if there is none.
func (s *State) Backoff(now time.Time, wanted bool) time.Duration {
	at, _ := s.Next(now, wanted)
	if at.IsZero() {
		return 0
	}
	return at.Sub(now)
}

// window is how many connects may be under way once the next is allowed.
func (s *State) window() int {
	if s.failures > 0 {
		return min(1+s.grown, MaxWindow)
	}
	return min(Window+s.grown, MaxWindow)
}

// careful reports whether growth for waiting callers goes by the window, too.
func (s *State) careful() bool { return s.failures > 0 }

// fail counts a failure and begins the next epoch.
func (s *State) fail(now time.Time) {
	s.epoch++
	if s.failures < maxFailures {
		s.failures++
	}
	s.badAt = now
	s.grown = 0
	s.goodAt, s.spokeFrom, s.spokeAt = time.Time{}, time.Time{}, time.Time{}
}

// maxFailures keeps the number of failures from overflowing.
const maxFailures = 1<<31 - 1

// forget takes back what a connection that is gone was about to prove. Another that was admitted in
// the same moment loses its proof with it, which is the safe side.
func (s *State) forget(admitted time.Time) {
	if s.goodAt.Equal(admitted) {
		s.goodAt = time.Time{}
		if s.trial > 0 {
			s.grown = 0 // the next is on trial, alone
		}
	}
	if s.spokeFrom.Equal(admitted) {
		s.spokeFrom, s.spokeAt = time.Time{}, time.Time{}
	}
}

// settle draws what has been proved up to now by connections that are still there.
func (s *State) settle(now time.Time) {
	if !s.spokeAt.IsZero() && now.Sub(s.spokeAt) >= max(shortTrial, s.trial) {
		s.well()
	}
	if !s.goodAt.IsZero() && now.Sub(s.goodAt) >= s.proof() {
		s.well()
		s.trial = 0
	}
}

// well ends the backing off.
func (s *State) well() {
	s.failures, s.pause = 0, 0
}

// proof is how long a connection must live for the failures before it to be forgotten.
func (s *State) proof() time.Duration { return max(proveAfter, s.pause) }

// DefaultBackoff is the pause after so many failures in a row, unless the user says otherwise: the
// first retry within 100 ms, then 250 ms × 1.6, ±20 %, at most 30 s. chance is from 0 to 1.
func DefaultBackoff(failures int, chance float64) time.Duration {
	const (
		first  = 100 * time.Millisecond
		second = 250 * time.Millisecond
		factor = 1.6
		jitter = 0.2
		most   = 30 * time.Second
	)
	if failures <= 1 {
		return time.Duration(float64(first) * (0.5 + 0.5*chance))
	}
	pause := float64(second)
	for i := 2; i < failures && pause < float64(most); i++ {
		pause *= factor
	}
	pause = min(pause, float64(most)/(1+jitter)) // so that the longest are spread as well
	return time.Duration(pause * (1 - jitter + 2*jitter*chance))
}
