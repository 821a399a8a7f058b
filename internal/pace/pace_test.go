package pace

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	ms      = time.Millisecond
	forever = time.Duration(math.MaxInt64)
)

func TestDefaultBackoff(t *testing.T) {
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
			require.InDelta(t, c.least, DefaultBackoff(c.failures, 0), 10)
			require.InDelta(t, c.most, DefaultBackoff(c.failures, 1), 10)
			require.InDelta(t, (c.least+c.most)/2, DefaultBackoff(c.failures, 0.5), 10)
			require.LessOrEqual(t, DefaultBackoff(c.failures, 1), 30*time.Second)
		})
	}

	for n := 1; n < 50; n++ {
		require.GreaterOrEqual(t, DefaultBackoff(n+1, 0.5), DefaultBackoff(n, 0.5), "pause %d", n)
		require.Less(t, DefaultBackoff(n, 0.2), DefaultBackoff(n, 0.8), "pause %d is spread", n)
	}
}

// step is one call of a State, at a time since the beginning, and what is expected after it.
type step struct {
	at time.Duration
	do func(s *State, now time.Time)

	failures int
	window   int
	next     time.Duration // when the next connect is allowed; 0: at once; forever: not known yet
}

var begin = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// The epochs are numbers here: the first is 0, and each failure that counts begins the next.
func failed(started Epoch) func(*State, time.Time) {
	return func(s *State, now time.Time) { s.Failed(started, now) }
}

func refused(pause time.Duration) func(*State, time.Time) {
	return func(s *State, now time.Time) {
		s.Failed(s.Epoch(), now)
		s.SetPause(s.failures, pause, true)
	}
}

func pause(failures int, d time.Duration) func(*State, time.Time) {
	return func(s *State, _ time.Time) { s.SetPause(failures, d, true) }
}

func connected(s *State, now time.Time) { s.Connected(now) }
func look(*State, time.Time)            {}
func whole(s *State, now time.Time)     { s.Whole(now) }

func lost(e Epoch, admitted time.Duration) func(*State, time.Time) {
	return func(s *State, now time.Time) { s.Lost(e, begin.Add(admitted), now) }
}

func gone(e Epoch, admitted time.Duration) func(*State, time.Time) {
	return func(s *State, now time.Time) { s.Gone(e, begin.Add(admitted), now) }
}

func delivered(e Epoch, admitted time.Duration) func(*State, time.Time) {
	return func(s *State, now time.Time) { s.Delivered(e, begin.Add(admitted), now) }
}

func TestState(t *testing.T) {
	const (
		second = time.Second
		minute = time.Minute
	)

	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"nothing is known", []step{{0, look, 0, 4, 0}}},
		{"each success widens the window, and being whole ends that", []step{
			{0, connected, 0, 5, 0},
			{0, connected, 0, 6, 0},
			{ms, whole, 0, 4, 0},
			{ms, connected, 0, 5, 0},
		}},
		{"a failure", []step{
			{second, failed(0), 1, 1, forever},
			{second, look, 1, 1, forever},
			{second + ms, pause(1, 100*ms), 1, 1, second + 100*ms}, // counted from the failure
			{second + 99*ms, look, 1, 1, second + 100*ms},
			{second + 100*ms, look, 1, 1, 0},
			{minute, look, 1, 1, 0},
		}},
		{"of those under way together the first failure counts", []step{
			{0, failed(0), 1, 1, forever},
			{0, failed(0), 1, 1, forever}, // at the same time
			{0, pause(1, second), 1, 1, second},
			{ms, failed(0), 1, 1, second},
			{second, failed(1), 2, 1, forever},
			{second, failed(1), 2, 1, forever},
			{second, failed(0), 2, 1, forever},
		}},
		{"pauses that nobody wants any more", []step{
			{0, pause(0, minute), 0, 4, 0},
			{0, failed(0), 1, 1, forever},
			{0, pause(2, minute), 1, 1, forever},
			{0, pause(1, second), 1, 1, second},
			{0, pause(1, minute), 1, 1, second}, // it is known
			{second, failed(1), 2, 1, forever},
			{second, pause(1, second), 2, 1, forever},
			{second, connected, 2, 2, 0},
			{second, pause(2, minute), 2, 2, 0}, // the service is there
		}},
		{"a pause below zero, none, and the longest there is", []step{
			{0, refused(-forever), 1, 1, 0},
			{0, refused(0), 2, 1, 0},
			{0, refused(forever - 1), 3, 1, forever - 1}, // forever stands for not known here
			{minute, connected, 3, 2, 0},
			{minute + time.Hour, look, 3, 2, 0}, // an hour is no proof after such a pause
			{minute + time.Hour, delivered(3, minute), 3, 2, 0},
			{minute + 2*time.Hour, look, 0, 4 + 1, 0},
		}},
		{"a service that has refused is given twice as many each time", []step{
			{0, refused(100 * ms), 1, 1, 100 * ms},
			{100 * ms, connected, 1, 2, 0},
			{101 * ms, connected, 1, 3, 0},
			{101 * ms, connected, 1, 4, 0},
			{102 * ms, whole, 1, 4, 0},
		}},
		{"a failure on the ramp", []step{
			{0, refused(100 * ms), 1, 1, 100 * ms},
			{100 * ms, connected, 1, 2, 0},
			{101 * ms, connected, 1, 3, 0},
			{102 * ms, failed(1), 2, 1, forever},
			{102 * ms, pause(2, second), 2, 1, second + 102*ms},
			{103 * ms, failed(1), 2, 1, second + 102*ms},
			{104 * ms, connected, 2, 2, 0}, // one that was under way with it: the better news
		}},
		{"the window has an end", func() (steps []step) {
			for n := range 100 {
				steps = append(steps, step{0, connected, 0, min(4+n+1, MaxWindow), 0})
			}
			steps = append(steps, step{0, refused(0), 1, 1, 0})
			for n := range 100 {
				steps = append(steps, step{0, connected, 1, min(1+n+1, MaxWindow), 0})
			}
			return steps
		}()},
		{"a second of life is proof", []step{
			{0, refused(100 * ms), 1, 1, 100 * ms},
			{100 * ms, connected, 1, 2, 0},
			{second + 99*ms, look, 1, 2, 0},
			{second + 100*ms, look, 0, 5, 0},
			{2 * second, failed(1), 1, 1, forever}, // the first again
		}},
		{"a life shorter than the pause before it is none", []step{
			{0, refused(10 * second), 1, 1, 10 * second},
			{10 * second, connected, 1, 2, 0},
			{19 * second, look, 1, 2, 0},
			{19 * second, lost(1, 10*second), 2, 1, forever},
			{19 * second, pause(2, 20*second), 2, 1, 39 * second},
			{40 * second, connected, 2, 1 + 1, 41 * second}, // on trial now
			{60 * second, look, 0, 5, 0},
		}},
		{"a failure after a long life is the first", []step{
			{0, refused(second), 1, 1, second},
			{second, connected, 1, 2, 0},
			{minute, failed(1), 1, 1, forever},
		}},

		{"the first that hangs up may be chance", []step{
			{0, connected, 0, 5, 0},
			{50 * ms, lost(0, 0), 1, 1, 0},
			{50 * ms, pause(1, minute), 1, 1, 0},
			{51 * ms, connected, 1, 2, 51*ms + 100*ms}, // twice as long as that lived
			{52 * ms, lost(1, 51*ms), 2, 1, forever},
			{52 * ms, pause(2, 250*ms), 2, 1, 302 * ms},
		}},
		{"of those that hang up together the first counts, and all teach", []step{
			{0, connected, 0, 5, 0},
			{0, connected, 0, 6, 0},
			{0, connected, 0, 7, 0},
			{0, lost(0, 0), 1, 1, 0},
			{0, lost(0, 0), 1, 1, 0},
			{200 * ms, lost(0, 0), 1, 1, 0},
			{200 * ms, connected, 1, 2, 600 * ms},
		}},
		{"a trial takes 75 ms at least", []step{
			{0, connected, 0, 5, 0},
			{ms, lost(0, 0), 1, 1, 0},
			{ms, connected, 1, 2, 76 * ms},
			{75 * ms, look, 1, 2, 76 * ms},
			{76 * ms, look, 1, 2, 0},
			{76 * ms, connected, 1, 3, 0},
		}},
		{"a trial takes a second at most", []step{
			{0, connected, 0, 5, 0},
			{900 * ms, lost(0, 0), 1, 1, 0},
			{900 * ms, connected, 1, 2, 1900 * ms},
			{1900 * ms, look, 0, 5, 0}, // which is proof
		}},
		{"a second of life ends the trials, too", []step{
			{0, connected, 0, 5, 0},
			{ms, lost(0, 0), 1, 1, 0},
			{ms, connected, 1, 2, 76 * ms},
			{2 * second, refused(0), 1, 1, 0},
			{2 * second, connected, 1, 2, 0},
		}},
		{"the trial goes on after failures of other kinds", []step{
			{0, connected, 0, 5, 0},
			{ms, lost(0, 0), 1, 1, 0},
			{ms, refused(100 * ms), 2, 1, 101 * ms},
			{101 * ms, connected, 2, 2, 176 * ms},
		}},
		{"a success in the trial says no more than the first", []step{
			{0, connected, 0, 5, 0},
			{ms, lost(0, 0), 1, 1, 0},
			{ms, connected, 1, 2, 76 * ms},
			{50 * ms, connected, 1, 3, 76 * ms}, // was under way before
		}},

		{"what is delivered is proof a moment later", []step{
			{0, refused(30 * second), 1, 1, 30 * second},
			{30 * second, connected, 1, 2, 0},
			{31 * second, delivered(1, 30*second), 1, 2, 0},
			{31*second + 74*ms, look, 1, 2, 0},
			{31*second + 75*ms, look, 0, 5, 0},
		}},
		{"what is delivered is none if the connection is gone a moment later", []step{
			{0, refused(30 * second), 1, 1, 30 * second},
			{30 * second, connected, 1, 2, 0},
			{31 * second, delivered(1, 30*second), 1, 2, 0},
			{31*second + 50*ms, lost(1, 30*second), 2, 1, forever},
		}},
		{"whatever was delivered, who dies within a second has failed", []step{
			{0, connected, 0, 5, 0},
			{0, delivered(0, 0), 0, 5, 0},
			{999 * ms, lost(0, 0), 1, 1, 0},
		}},
		{"who has delivered and dies after a second has not", []step{
			{0, connected, 0, 5, 0},
			{0, delivered(0, 0), 0, 5, 0},
			{second, lost(0, 0), 0, 5, 0},
		}},
		{"proof by delivery leaves the trials", []step{
			{0, connected, 0, 5, 0},
			{200 * ms, lost(0, 0), 1, 1, 0},
			{200 * ms, connected, 1, 2, 600 * ms},
			{200 * ms, delivered(1, 200*ms), 1, 2, 600 * ms},
			{599 * ms, look, 1, 2, 600 * ms},
			{600 * ms, look, 0, 5, 0},
			{700 * ms, lost(1, 200*ms), 1, 1, 0},
			{700 * ms, connected, 1, 2, 1700 * ms},
		}},
		{"what connections from before the failure deliver says nothing", []step{
			{0, connected, 0, 5, 0},
			{second, refused(10 * second), 1, 1, 11 * second},
			{2 * second, delivered(0, 0), 1, 1, 11 * second},
			{5 * second, look, 1, 1, 11 * second},
			{5 * second, lost(0, 0), 1, 1, 11 * second},
		}},
		{"a connection that is not on trial proves something by its life, too", []step{
			{0, refused(10 * second), 1, 1, 10 * second},
			{10 * second, connected, 1, 2, 0},
			{11 * second, connected, 1, 3, 0},
			{12 * second, gone(1, 10*second), 1, 3, 0},
			{21 * second, lost(1, 11*second), 0, 6, 0},
		}},

		{"what a second connection delivers puts no proof off", []step{
			{0, refused(10 * second), 1, 1, 10 * second},
			{10 * second, connected, 1, 2, 0},
			{10 * second, connected, 1, 3, 0},
			{10 * second, delivered(1, 10*second), 1, 3, 0},
			{10*second + 70*ms, delivered(1, 10*second), 1, 3, 0},
			{10*second + 75*ms, look, 0, 6, 0},
		}},
		{"a long pause is forgotten with its failures", []step{
			{0, refused(30 * second), 1, 1, 30 * second},
			{30 * second, connected, 1, 2, 0},
			{30 * second, delivered(1, 30*second), 1, 2, 0},
			{31 * second, look, 0, 5, 0},
			{31 * second, connected, 0, 6, 0},
			{33 * second, lost(1, 31*second), 0, 6, 0},
		}},
		{"the longest life teaches", []step{
			{0, connected, 0, 5, 0},
			{200 * ms, lost(0, 0), 1, 1, 0},
			{200 * ms, connected, 1, 2, 600 * ms},
			{205 * ms, lost(1, 200*ms), 2, 1, forever},
			{205 * ms, connected, 2, 2, 605 * ms},
		}},
		{"one fails when another has just proved useful", []step{
			{0, refused(second), 1, 1, second},
			{second, connected, 1, 2, 0},
			{second + 500*ms, connected, 1, 3, 0},
			{2*second + 100*ms, lost(1, second+500*ms), 1, 1, 0}, // the first again
		}},
		{"one fails to connect when another has just proved useful", []step{
			{0, refused(second), 1, 1, second},
			{second, connected, 1, 2, 0},
			{2 * second, failed(0), 1, 1, forever}, // the first again, though its connect began before
		}},
		{"one is killed when it has just proved useful", []step{
			{0, refused(second), 1, 1, second},
			{second, connected, 1, 2, 0},
			{2 * second, gone(1, second), 0, 5, 0},
		}},
		{"all is whole when one has just proved useful", []step{
			{0, refused(second), 1, 1, second},
			{second, connected, 1, 2, 0},
			{2 * second, whole, 0, 4, 0},
		}},
		{"one that came when others failed, and is killed, has ended the pause", []step{
			{0, refused(minute), 1, 1, minute},
			{ms, connected, 1, 2, 0},
			{2 * ms, gone(1, ms), 1, 2, 0},
		}},

		{"a consumer's kill says nothing", []step{
			{0, connected, 0, 5, 0},
			{ms, gone(0, 0), 0, 5, 0},
			{ms, connected, 0, 6, 0},
		}},
		{"one that is killed on trial proves nothing, and the next is alone", []step{
			{0, connected, 0, 5, 0},
			{ms, lost(0, 0), 1, 1, 0},
			{ms, connected, 1, 2, 76 * ms},
			{50 * ms, gone(1, ms), 1, 1, 0},
			{90 * ms, look, 1, 1, 0},
			{90 * ms, connected, 1, 2, 165 * ms},
			{second, look, 1, 2, 0},
			{second + 90*ms, look, 0, 5, 0},
		}},
		{"one that was killed after it has delivered proves nothing", []step{
			{0, refused(10 * second), 1, 1, 10 * second},
			{10 * second, connected, 1, 2, 0},
			{10 * second, delivered(1, 10*second), 1, 2, 0},
			{10*second + 50*ms, gone(1, 10*second), 1, 2, 0},
			{11 * second, look, 1, 2, 0},
			{11 * second, connected, 1, 3, 0},
			{11 * second, delivered(1, 11*second), 1, 3, 0},
			{12 * second, look, 0, 6, 0},
		}},
		{"one that is killed has nothing to do with later epochs", []step{
			{0, connected, 0, 5, 0},
			{0, refused(0), 1, 1, 0},
			{0, connected, 1, 2, 0},
			{0, gone(0, 0), 1, 2, 0},
			{second, look, 0, 5, 0},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s State

			for i, step := range c.steps {
				now := begin.Add(step.at)
				step.do(&s, now)

				// Whatever is asked first has to know the time.
				byNext, byAnswers, byFailures := s, s, s
				at, known := byNext.Next(now, false)
				require.Equal(t, step.failures == 0 || !s.goodAt.IsZero(), byAnswers.Answers(now), "answers after step %d", i+1)
				require.Equal(t, step.failures, byFailures.Failures(now), "failures after step %d", i+1)
				require.Equal(t, byNext, byFailures)
				require.Equal(t, byNext, byAnswers)

				if i%2 == 0 { // and what is not asked must not be needed
					s = byNext
				}

				require.Equal(t, step.window, byNext.window(), "window after step %d", i+1)
				require.Equal(t, step.failures > 0, byNext.careful(), "careful after step %d", i+1)
				require.Equal(t, step.next != forever, known, "step %d", i+1)

				if step.next == 0 || step.next == forever {
					require.Zero(t, at, "step %d: at once", i+1)
					require.Zero(t, s.Backoff(now, false), "step %d", i+1)
				} else {
					require.Equal(t, begin.Add(min(step.next, forever)), at, "step %d", i+1)
					require.Equal(t, at.Sub(now), s.Backoff(now, false), "step %d", i+1)
				}
			}
		})
	}
}

func TestWaitersCutALongPauseShort(t *testing.T) {
	for _, c := range []struct{ pause, at, want time.Duration }{
		{100 * ms, 0, 100 * ms},
		{500 * ms, 0, 500 * ms},
		{time.Second, 0, 500 * ms},
		{time.Second, 200 * ms, 300 * ms},
		{time.Second, 500 * ms, 0},
		{time.Second, 800 * ms, 0},
		{forever, 0, 500 * ms},
		{forever, time.Second, 0},
	} {
		var s State

		s.Failed(0, begin)
		require.Zero(t, s.Backoff(begin, true), "not known yet")

		s.SetPause(1, c.pause, true)
		require.Equal(t, c.want, s.Backoff(begin.Add(c.at), true), "%+v", c)
		require.Equal(t, max(0, c.pause-c.at), s.Backoff(begin.Add(c.at), false), "%+v", c)
	}

	// A trial is not cut short: the service has just been asked.
	var s State

	s.Lost(s.Connected(begin), begin, begin)
	s.Connected(begin)
	require.Equal(t, 75*ms, s.Backoff(begin, true))
}

func TestAnswers(t *testing.T) {
	var s State

	require.True(t, s.Answers(begin), "nothing has failed")
	s.Failed(0, begin)
	require.False(t, s.Answers(begin.Add(time.Hour)))
	e := s.Connected(begin.Add(time.Hour))
	require.True(t, s.Answers(begin.Add(time.Hour)))
	s.Lost(e, begin.Add(time.Hour), begin.Add(time.Hour))
	require.False(t, s.Answers(begin.Add(time.Hour)))
}

func TestFailuresDoNotOverflow(t *testing.T) {
	s := State{failures: maxFailures}

	s.Failed(s.Epoch(), begin)
	require.Equal(t, maxFailures, s.Failures(begin))
	s.SetPause(maxFailures, time.Hour, true)
	require.Equal(t, time.Hour, s.Backoff(begin, false))
}

// Real times have a monotonic reading, which a pause for ever does not fit into.
func TestThePauseForEverWithTheRealClock(t *testing.T) {
	var s State

	now := time.Now()
	s.Failed(0, now)
	s.SetPause(1, forever, true)
	require.Greater(t, s.Backoff(now, false), forever/2)
	require.Greater(t, s.Backoff(now.Add(time.Hour), false), forever/2)
	require.Equal(t, WaiterFloor, s.Backoff(now, true))
}

func TestACopyIsAStateOfItsOwn(t *testing.T) {
	var s State

	other := s
	s.Failed(0, begin)
	require.Equal(t, 1, s.Failures(begin))
	require.Zero(t, other.Failures(begin))
}
