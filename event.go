package plex

// What the observer is told, see WithObserver.

import (
	"net"
	"time"
)

// Event is something that has happened in a multiplexer, see [WithObserver]. Which fields are set
// depends on the kind.
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

// observerQueue is how many events may wait for the observer.
const observerQueue = 1 << 16
