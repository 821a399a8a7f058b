package message

// Split functions that keep state: each connection has one of its own, from the first data that
// arrives over it until the connection has ended and what it had brought is delivered.

import (
	"bufio"
	"errors"

	"go.atomizer.io/plex"
)

// NewFor is [New] for split functions that keep state from one message to the next, or from one call
// to the next. It calls splitFor once for each connection, when the first data has arrived over it,
// and only that connection's data goes to the function that splitFor returns. The function belongs
// to the connection until that has ended, and is dropped then.
//
// A split function is called by one goroutine at a time, but not always by the same. What [New] says
// about split functions applies, except that it may depend on what it has seen. If it asks for more,
// it is called again with the same data and what has arrived since. Data that it has advanced over
// it never gets again.
//
// If splitFor panics, ends its goroutine or returns nil, that is a [*SplitError], and costs the
// connection. splitFor must not block. [Receiver.Discard] drops all split functions.
func NewFor(m *plex.Multiplexer, splitFor func(plex.Conn) bufio.SplitFunc, options ...Option) (*Receiver, error) {
	if m == nil {
		return nil, errNilMultiplexer("NewFor")
	}
	if splitFor == nil {
		return nil, errors.New("message: NewFor: the function that makes split functions is nil; " +
			"use New for a split function that keeps no state")
	}
	r, err := newReceiver(m, options)
	if err != nil {
		return nil, err
	}
	r.splitFor, r.splits = splitFor, make(map[plex.Conn]*split)
	return r, nil
}

// split is the split function of one connection. Receiver.mu guards it, but the function belongs to
// whoever holds the connection.
type split struct {
	f       bufio.SplitFunc
	ended   bool        // the connection has ended; what is left of it has not been delivered
	unwatch func() bool // keeps plex from telling that it has ended
}

var errNoSplit = errors.New("the function given to NewFor returned no split function")

// splitOf returns the split function for a connection that the caller holds.
func (r *Receiver) splitOf(conn plex.Conn) (bufio.SplitFunc, error) {
	if r.splitFor == nil {
		return r.split, nil
	}
	r.mu.Lock()
	s := r.splits[conn]
	r.mu.Unlock()
	if s != nil {
		return s.f, nil
	}
	f := r.splitFor(conn) // the user's
	if f == nil {
		return nil, errNoSplit
	}
	s = &split{f: f}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.splits[conn] = s
	s.unwatch = conn.AfterEnd(func(error) { r.splitEnded(conn, s) })
	return f, nil
}

// splitEnded is called by plex when nothing more will be read from a connection. The split function
// is still needed if something that was read is yet to be delivered.
func (r *Receiver) splitEnded(conn plex.Conn, s *split) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.ended = true
	if r.leftovers[conn] == nil && r.splits[conn] == s {
		delete(r.splits, conn)
	}
}

// dropSplitLocked drops the split function of a connection that has ended, and of which nothing is
// left.
func (r *Receiver) dropSplitLocked(conn plex.Conn) {
	if s := r.splits[conn]; s != nil && s.ended {
		delete(r.splits, conn)
	}
}

// discardSplitsLocked drops all split functions.
func (r *Receiver) discardSplitsLocked() {
	for _, s := range r.splits {
		s.unwatch()
	}
	clear(r.splits)
}
