package plexdebug

// The latest events of all pools.

import (
	"slices"
	"strconv"
	"sync"
	"time"

	"go.atomizer.io/plex"
)

const (
	keptEvents  = 200 // in memory
	shownEvents = 60  // on the page
)

// eventLog keeps the latest events.
type eventLog struct {
	mu    sync.Mutex
	last  []event
	count uint64 // ever
	told  bell   // by each event
}

// event is a [plex.Event] as it is shown. It refers to nothing of the pool, which may be long gone.
type event struct {
	Number uint64
	At     time.Time
	Pool   string
	Kind   plex.EventKind
	Addr   string
	Why    string
	Facts  []string
	Err    string
	Stack  string
}

// add is a pool's observer.
func (l *eventLog) add(pool string, e plex.Event) {
	if e.Why == string(e.Kind) {
		e.Why = "" // lost, because it was lost
	}
	shown := event{
		At: e.Time, Pool: pool, Kind: e.Kind, Addr: addrText(e.Addr), Why: e.Why, Facts: facts(e), Err: errText(e.Err), Stack: e.Stack,
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count++
	shown.Number = l.count
	if len(l.last) == keptEvents {
		l.last = slices.Delete(l.last, 0, 1)
	}
	l.last = append(l.last, shown)
	l.told.ring()
}

// facts is what an event says beside its address, its why and its error.
func facts(e plex.Event) (all []string) {
	note := func(yes bool, s string) {
		if yes {
			all = append(all, s)
		}
	}
	took := span(e.Took)
	switch e.Kind {
	case plex.EventLost, plex.EventRetired:
		note(true, took+" old")
	case plex.EventScaled:
		note(true, "from "+strconv.Itoa(e.From)+" to "+strconv.Itoa(e.To))
	case plex.EventHealed:
		note(true, "missing for "+took)
	case plex.EventBackoffBegan:
		note(true, "pause of "+took)
	case plex.EventLeak:
		note(true, e.Half+" held for "+took)
	default:
		note(e.Took > 0, "took "+took)
	}
	note(e.Attempts == 1 && e.Kind == plex.EventBackoffBegan, "after 1 failure")
	note(e.Attempts > 1 && e.Kind == plex.EventBackoffBegan, "after "+strconv.Itoa(e.Attempts)+" failures")
	note(e.Attempts > 1 && e.Kind != plex.EventBackoffBegan, "attempt "+strconv.Itoa(e.Attempts))
	note(e.Missed > 0, count(e.Missed)+" events before it were dropped")
	return all
}

// Tone is the class of an event: what it means for the pool.
func (e event) Tone() string {
	switch e.Kind {
	case plex.EventLost, plex.EventConnectFailed, plex.EventBackoffBegan, plex.EventLeak, plex.EventAddressFailing:
		return "bad"
	case plex.EventConnected, plex.EventHealed, plex.EventBackoffEnded, plex.EventAddressRecovered:
		return "good"
	case plex.EventProbed:
		if e.Err != "" {
			return "bad"
		}
	}
	return "plain"
}

// latest returns the events to show, the latest first, and how many there have been.
func (l *eventLog) latest() ([]event, uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	shown := slices.Clone(l.last[max(0, len(l.last)-shownEvents):])
	slices.Reverse(shown)
	return shown, l.count
}

// next is closed when there is another event.
func (l *eventLog) next() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.told.next()
}
