package plex

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var flagNames = []string{
	"live", "busy", "awaited", "stream", "closing", "deadline", "torn", "watched",
	"left", "ended", "due", "onDemand", "listed", "held", "retired", "named",
}

func (w word) String() string {
	var names []string
	for i, name := range flagNames {
		if w.is(1 << i) {
			names = append(names, name)
		}
	}
	return fmt.Sprintf("%d:%s", w/leaseOne, strings.Join(names, "|"))
}

// transitions are all that can happen to a word, whoever does it. Those of a lease happen only to its
// own lease, as its handle has the number.
var transitions = map[string]func(word) word{
	"taken":             func(w word) word { return onlyIf(w.is(poolListed), w, first(w.taken)) },
	"swept":             func(w word) word { return onlyIf(w.is(poolListed), w, first(w.swept)) },
	"listed":            first0(word.listed),
	"always":            first0(word.always),
	"held":              first0(word.held),
	"retired":           first0(word.retired),
	"named":             first0(word.named),
	"wanted":            first0(word.wanted),
	"granted":           func(w word) word { return onlyIf(w.is(poolHeld), w, grant(w, false)) },
	"granted, others":   func(w word) word { return onlyIf(w.is(poolHeld), w, grant(w, true)) },
	"not wanted":        func(w word) word { return onlyIf(w.is(poolHeld), w, w&^poolNamed) },
	"entered":           func(w word) word { next, _ := w.entered(w.lease()); return next },
	"awaited":           first0(word.awaited),
	"left":              func(w word) word { return onlyIf(w.is(leaseBusy), w, w.left()) },
	"deadline":          marks(leaseDeadline),
	"watched":           marks(leaseWatched),
	"closing":           marks(leaseClosing),
	"stream":            func(w word) word { return onlyIf(w.is(leaseBusy), w, marks(leaseStream)(w)) },
	"torn":              func(w word) word { return onlyIf(w.is(leaseBusy), w, w|leaseTorn) },
	"mended":            func(w word) word { return onlyIf(w.is(leaseBusy), w, w&^leaseTorn) },
	"left over":         func(w word) word { return onlyIf(owned(w), w, w|dataLeft) },
	"read":              func(w word) word { return onlyIf(owned(w), w, w&^dataLeft) },
	"ended":             func(w word) word { return w | connEnded },
	"due":               func(w word) word { return w | connDue },
	"fast close":        func(w word) word { return onlyIf(w == w.lease()|leaseLive, w, w.lease()|poolListed) },
	"arrived":           func(w word) word { return onlyIf(arrives(w), w, w.arrived(false)) },
	"arrived, retired":  func(w word) word { return onlyIf(arrives(w) && w.is(poolHeld), w, w.arrived(true)) },
	"arrived, finished": func(w word) word { return onlyIf(arrives(w) && w.is(connEnded), w, w.arrived(true)) },
}

func first(f func() (word, bool)) word { w, _ := f(); return w }

func grant(w word, more bool) word { w, _ = w.granted(more); return w }

func first0(f func(word) (word, bool)) func(word) word {
	return func(w word) word { next, _ := f(w); return next }
}

func marks(flag word) func(word) word {
	return func(w word) word { next, _ := w.marked(w.lease(), flag); return next }
}

func onlyIf(ok bool, w, next word) word {
	if ok {
		return next
	}
	return w
}

// owned reports whether somebody may change what was read: an operation, the end of a lease, or a hold.
func owned(w word) bool { return w.is(leaseBusy) || arrives(w) }

// arrives reports whether a half can arrive: the lease is ending and nobody is busy, or it is held.
func arrives(w word) bool { return w.is(leaseClosing) && !w.is(leaseBusy) || w.is(poolHeld) }

// wrong says which invariant a word breaks. onDemand says that the half has never been one of always.
func (w word) wrong() string {
	ofLease := leaseBusy | leaseAwaited | leaseStream | leaseClosing | leaseDeadline | leaseTorn | leaseWatched
	switch {
	case w.is(leaseLive) && w.is(poolHeld):
		return "a half is leased and held"
	case w.is(ofLease) && !w.is(leaseLive):
		return "a flag of a lease has outlived it"
	case w.is(leaseAwaited|leaseStream) && !w.is(leaseBusy):
		return "an operation's flag has outlived it"
	case w.idle() && !w.is(poolOnDemand) && !w.is(poolListed):
		return "an idle half is in no queue"
	case w.idle() && w.is(poolNamed):
		return "a half that somebody waits for is idle"
	case w.over() && w.circulates():
		return "a half that is over circulates"
	case w.stale() && w.circulates() && !w.is(leaseLive):
		return "a stale entry counts as one that can be had"
	}
	return ""
}

// step says what a transition must not do.
func (w word) stepWrong(next word) string {
	switch {
	case w.is(poolRetired) && !next.is(poolRetired):
		return "a retired half came back"
	case w.over() && next.is(leaseLive|poolHeld):
		return "a half that is over is in somebody's hands"
	case w.is(connEnded) && !next.is(connEnded), w.is(connDue) && !next.is(connDue):
		return "what the connection has said is forgotten"
	case next.lease() != w.lease() && (next.lease() != w.lease()+leaseOne || !next.is(leaseLive)):
		return "the number changed without a lease"
	case next.is(leaseLive) && !w.is(leaseLive) && next.lease() == w.lease():
		return "a lease began without a number of its own"
	case next.is(leaseLive) && !w.is(leaseLive) && !w.idle() && !(w.is(poolHeld) && !w.is(poolRetired)):
		return "a half was leased that was not idle"
	case w.is(leaseLive) && !next.is(leaseLive) && w.is(leaseBusy):
		return "a lease ended while somebody was busy"
	case w.is(leaseLive) && next.idle() && next.is(connEnded|connDue):
		return "the end of a lease was not followed by a look"
	case w.is(dataLeft) && !next.is(dataLeft) && !owned(w):
		return "what was left over is forgotten"
	}
	return ""
}

// mostLeases bounds the numbers; a further lease would lead to the same places.
const mostLeases = 3

// From every word that can be reached, every transition is made.
func TestWordInvariantsHoldInEveryReachableWord(t *testing.T) {
	been := make(map[word]bool)
	news := []word{firstLease | leaseLive, firstLease | leaseLive | poolOnDemand}
	names := slices.Sorted(maps.Keys(transitions))
	steps := 0
	for len(news) > 0 {
		w := news[len(news)-1]
		news = news[:len(news)-1]
		if been[w] || w/leaseOne > mostLeases {
			continue
		}
		been[w] = true
		require.Empty(t, w.wrong(), "%v", w)
		for _, name := range names {
			next := transitions[name](w)
			if next == w {
				continue
			}
			steps++
			require.Empty(t, w.stepWrong(next), "%q: %v becomes %v", name, w, next)
			news = append(news, next)
		}
	}
	t.Logf("%d words, %d steps", len(been), steps)
	require.Greater(t, len(been), 1000)
}

// The accounts of a queue are kept by what a word says before and after, so these have to agree with
// what happens to entries.
func TestWordSaysWhatIsStaleAndWhatCirculates(t *testing.T) {
	for _, c := range []struct {
		w                 word
		stale, circulates bool
	}{
		{firstLease | leaseLive, false, true},
		{firstLease, false, false},
		{firstLease | poolListed, false, true},
		{firstLease | poolListed | poolHeld, true, false},
		{firstLease | poolListed | poolRetired, true, false},
		{firstLease | poolListed | leaseLive, true, true},
		{firstLease | poolHeld, false, false},
		{firstLease | poolRetired, false, false},
		{firstLease | poolRetired | leaseLive, false, true},
	} {
		require.Equal(t, c.stale, c.w.stale(), "%v", c.w)
		require.Equal(t, c.circulates, c.w.circulates(), "%v", c.w)
	}
}

func TestLeaseGoesOnOnlyWhileItIsThePresentOne(t *testing.T) {
	const id = 5 * leaseOne
	for w, goesOn := range map[word]bool{
		id | leaseLive:                           true,
		id | leaseLive | leaseBusy | leaseTorn:   true,
		id | leaseLive | leaseClosing:            false,
		id | poolListed:                          false,
		id + leaseOne | leaseLive:                false,
		id + leaseOne | leaseLive | leaseClosing: false,
	} {
		require.Equal(t, goesOn, w.goesOn(id), "%v", w)
	}
}

func TestWordTransitionsSayWhatTheyHaveDone(t *testing.T) {
	const w = firstLease
	for _, c := range []struct {
		what       string
		transition func(word) (word, bool)
		w, next    word
		says       bool
	}{
		{"taken", word.taken, w | poolListed, w + leaseOne | leaseLive, true},
		{"taken", word.taken, w | poolListed | poolHeld, w | poolHeld, false},
		{"swept", word.swept, w | poolListed, w | poolListed, false},
		{"swept", word.swept, w | poolListed | poolRetired, w | poolRetired, true},
		{"listed", word.listed, w, w | poolListed, true},
		{"listed", word.listed, w | poolListed, w | poolListed, false},
		{"listed", word.listed, w | leaseLive, w | leaseLive, false},
		{"always", word.always, w | poolOnDemand, w | poolListed, true},
		{"always", word.always, w | poolOnDemand | leaseLive, w | leaseLive, false},
		{"held", word.held, w | poolListed, w | poolListed | poolHeld, true},
		{"held", word.held, w | poolRetired, w | poolRetired, false},
		{"retired", word.retired, w, w | poolRetired, true},
		{"retired", word.retired, w | poolRetired, w | poolRetired, false},
		{"retired", word.retired, w | leaseLive, w | leaseLive | poolRetired, false},
		{"named", word.named, w | poolListed, w + leaseOne | leaseLive | poolListed, true},
		{"named", word.named, w | poolHeld, w | poolHeld, false},
		{"wanted", word.wanted, w | leaseLive, w | leaseLive | poolNamed, true},
		{"wanted", word.wanted, w | poolListed, w | poolListed, false},
		{"wanted", word.wanted, w | leaseLive | poolRetired, w | leaseLive | poolRetired, false},
		{"awaited", word.awaited, w | leaseLive | leaseBusy, w | leaseLive | leaseBusy | leaseAwaited, true},
		{"awaited", word.awaited, w | leaseLive, w | leaseLive, false},
	} {
		next, says := c.transition(c.w)
		require.Equal(t, c.next, next, "%s: %v", c.what, c.w)
		require.Equal(t, c.says, says, "%s: %v", c.what, c.w)
	}
}
