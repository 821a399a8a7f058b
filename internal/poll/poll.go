// Package poll tells what happens on the sockets of many connections while nobody reads from them:
// that the peer has closed one, and that one can be read from.
//
// There are two Pollers. On Linux one goroutine and one epoll descriptor serve all connections
// (watching_linux.go). Everywhere else a goroutine for each connection waits in Go's own poller,
// which every system has (parked.go). The build tag plexportable selects the latter on Linux, so
// that it is tested there.
package poll

import "errors"

// Calls are what a Poller calls, in several goroutines at the same time. None may block for long.
type Calls[T any] struct {
	// Start runs a function in a goroutine. It reports false if none may be started any more.
	Start func(func()) bool

	// Ended is called once for each member whose end has come since its WatchEnd. Reset says that
	// the connection has been reset, or has failed, if the system knows.
	Ended func(value T, reset bool)

	// Arrived is called once for each Arm, when the member can be read from or has come to its end.
	Arrived func(value T, tag uint32)

	// The rest is needed only where [Parks].

	// Use says how a member is used: a mark that is another one after each use, and what is done with
	// it at this moment.
	Use func(value T) (mark uint64, now Usage)

	// Unread is called when something has arrived at a member that is not armed. The end may be
	// behind it, and is not seen before that has been read. Unread reads it if nobody else is about
	// to, and reports whether it has.
	Unread func(value T) (read bool)

	// Unwatched is called for a member that was armed and turns out to be of a type on which the
	// system cannot wait.
	Unwatched func(value T)
}

// Usage is what is done with a connection's read side.
type Usage int8

const (
	Idle   Usage = iota // nobody has it
	Leased              // somebody has it, and does not read at this moment
	Busy                // somebody reads
)

// errStopped is the error of what is asked of a Poller that has been stopped.
var errStopped = errors.New("poll: stopped")

// errNotAdded is the error of what is asked of a Member that was never added, or was removed.
var errNotAdded = errors.New("poll: not added")

var closedChannel = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()
