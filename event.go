package plex

// What observers are told, see WithObserver and Observe, and who they are.

import (
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Event is something that has happened in a multiplexer, see [WithObserver] and
// [Multiplexer.Observe]. Which fields are set depends on the kind.
type Event struct {
	Kind EventKind
	Time time.Time
	Pool string // the multiplexer's name, see WithName

	Conn Conn     // the connection; the zero Conn if there is none
	Addr net.Addr // its remote address, or the one that was to be connected to; nil if unknown
	At   Address  // the address that it is of, see WithResolver; zero without
	Why  string   // why a connection was connected, left or was retired: "given", "lost", "maximal lifetime", ...
	Err  error    // the cause of a loss, or of a connect or probe that failed

	Attempts int           // connects for the same purpose so far, this one included; failures in a row of a backoff
	Took     time.Duration // of a connect or probe; the age of a connection that has left; the length of a backoff; how long a lease is held
	From, To int           // connections, before and after scaling

	Half  string // of a leak: "reader" or "writer"
	Stack string // of a leak: where the lease was taken

	Missed uint64 // events just before this one that were dropped because the observer was too slow
}

// EventKind says what has happened.
type EventKind string

// The kinds of events.
const (
	// EventConnected: a connection has come into service, whatever brought it.
	EventConnected EventKind = "connected"
	// EventConnectFailed: a connect has failed.
	EventConnectFailed EventKind = "connect failed"
	// EventLost: a connection has failed, was ended by its peer, or was killed.
	EventLost EventKind = "lost"
	// EventHealed: a connection that was lost has been replaced; Took is how long it was missing.
	EventHealed EventKind = "healed"
	// EventScaled: the pool has grown for callers who wait, or has given up what nobody needs.
	EventScaled EventKind = "scaled"
	// EventRetired: a healthy connection has left service, for its age, as surplus, or as asked for.
	EventRetired EventKind = "retired"
	// EventProbed: an idle connection has been asked whether it lives, see WithProbe.
	EventProbed EventKind = "probed"
	// EventLeak: a lease is held for longer than WithLeakDetection allows.
	EventLeak EventKind = "leak"
	// EventBackoffBegan: connecting has failed, and there is a pause before the next connect.
	EventBackoffBegan EventKind = "backoff began"
	// EventBackoffEnded: a connect has succeeded after that.
	EventBackoffEnded EventKind = "backoff ended"
	// EventAddressAdded: the service has an address that it had not before, see WithResolver.
	EventAddressAdded EventKind = "address added"
	// EventAddressDrained: an address is gone, and its connections are being retired.
	EventAddressDrained EventKind = "address drained"
	// EventAddressFailing: a connect to an address has failed, or it has hung up at once.
	EventAddressFailing EventKind = "address failing"
	// EventAddressRecovered: a connect to it has succeeded after that.
	EventAddressRecovered EventKind = "address recovered"
	// EventMoved: a connection of an address that has too many is being retired.
	EventMoved EventKind = "moved"
)

// observerQueue is how many events may wait for an observer.
const observerQueue = 1 << 16

// Observe has f called for each event from now on, as [WithObserver] does from the beginning: for
// those who come later and go again, such as whoever looks at the pool for a while. All observers
// hear the same events in the same order. A slow one holds up no other. A nil f observes nothing.
//
// After stop f is not called any more, except for an event that is just being told; stop does not
// wait for that, so f may call it. It may be called twice.
func (m *Multiplexer) Observe(f func(Event)) (stop func()) {
	if f == nil {
		return func() {}
	}
	return m.news.observers.add("the function given to Observe", f)
}

// observers are those who are told of events. Each has an outbox of its own.
type observers struct {
	tasks *tasks

	mu  sync.Mutex // also has all of them hear of events in the same order
	all []*outbox[Event]
}

func (o *observers) add(what string, f func(Event)) (stop func()) {
	box := &outbox[Event]{what: what, most: observerQueue, tasks: o.tasks}
	var over atomic.Bool // what is still in the outbox then is dropped
	box.deliver = func(e Event) {
		if !over.Load() {
			e.Missed = box.takeMissed()
			f(e)
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all = append(o.all, box)
	return func() {
		over.Store(true)
		o.mu.Lock()
		defer o.mu.Unlock()
		o.all = slices.DeleteFunc(o.all, func(b *outbox[Event]) bool { return b == box })
	}
}

// tell tells all of an event that happens now. It may be called with Multiplexer.mu held.
func (o *observers) tell(e Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.all) == 0 {
		return
	}
	e.Time = time.Now()
	for _, box := range o.all {
		box.put(e)
	}
}
