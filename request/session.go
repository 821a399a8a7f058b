package request

// Sessions: a connection that one consumer has for itself. A session does its own reading and
// writing, in the goroutine that calls Do, within a lease on the whole connection.

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/caller"
	"go.atomizer.io/plex/message"
)

// Session has one connection of an ordered protocol for itself: nobody else's request goes between
// its own. It is for requests that change the state of the connection, as transactions do, and for
// those that block, which would hold up others. Get one with [Client.Session], and end it with Close
// or Kill. Its methods may be called from several goroutines; Do takes one request at a time.
type Session[Q, R any] struct {
	c    *Client[Q, R]
	d    plex.Duplex
	turn chan struct{} // holds one while a Do runs

	// Whoever has the turn owns these.
	split bufio.SplitFunc
	data  []byte // read, and not split yet
	owed  []Q    // requests whose replies have yet to come
	atEOF bool

	mu    sync.Mutex
	ended error // why it has ended; nil before
}

var (
	errSessionClosed = errors.New("request: session closed")
	errSessionKilled = errors.New("request: session killed")
	errNotOrdered    = errors.New("request: Session: the client was made by New; sessions need NewOrdered, because only there the replies are in order")
	errAborted       = errors.New("request: session killed because the user's function ended the goroutine of a Do")
	errCutShort      = fmt.Errorf("request: the ctx of an earlier request of this session ended in the middle of its Write, so the session's connection was killed: %w", plex.ErrKilled)
	errStillOwed     = errors.New("request: session closed before all replies have come, so its connection was killed")
)

// Session takes a whole connection out of the client's use until the session ends. It waits for one
// on which no reply is owed. ctx bounds the wait, not the session.
//
// Close of the client kills the connections of its sessions.
func (c *Client[Q, R]) Session(ctx context.Context) (*Session[Q, R], error) {
	switch {
	case ctx == nil:
		return nil, &Error{Err: errors.New("request: Session: nil context; use context.Background() for one that never ends")}
	case !c.ordered():
		return nil, &Error{Err: errNotOrdered}
	}
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	c.table.wanted(1)
	defer c.table.wanted(-1)
	d, err := c.mux.Duplex(waiting, 0)
	switch {
	case err == nil:
	case c.ctx.Err() != nil && ctx.Err() == nil:
		return nil, &Error{Err: c.table.reason()}
	default:
		return nil, &Error{Err: err}
	}
	s := &Session[Q, R]{c: c, d: d, turn: make(chan struct{}, 1)}
	if d.Conn().Datagram() {
		_ = d.Close()
		return nil, &Error{Err: errDatagrams}
	}
	if c.sessions.add(s); c.ctx.Err() != nil { // closed meanwhile
		return nil, &Error{Err: s.end(c.table.reason())}
	}
	return s, nil
}

// Do makes a request and returns the reply to it, as [Client.Do] does. If ctx ends, the reply is
// still owed: the next Do reads it first, and drops it. If ctx ends in the middle of the Write, the
// session is killed.
func (s *Session[Q, R]) Do(ctx context.Context, request Q) (r R, err error) {
	if ctx == nil {
		return r, &Error{Err: errNilContext}
	}
	quiet, err := s.c.isQuiet(request)
	if err != nil {
		s.c.table.failed()
		return r, &Error{Err: err}
	}
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		s.c.table.canceled()
		return r, &Error{Err: caller.ContextError(ctx)}
	}
	outcome := figures{}
	finished := false
	defer func() {
		if !finished { // a function of the user has ended the goroutine
			_ = s.end(errAborted)
		}
		s.c.table.count(outcome, ctx.Err() != nil && err != nil, err == nil && finished)
		<-s.turn
	}()
	r, err = s.do(ctx, request, quiet, &outcome)
	finished = true
	return r, err
}

// figures is what a Do of a session adds to the client's.
type figures struct{ sent, late uint64 }

func (s *Session[Q, R]) do(ctx context.Context, request Q, quiet bool, counts *figures) (none R, err error) {
	if err := s.err(); err != nil {
		return none, &Error{Conn: s.d.Conn(), Err: err}
	}
	if ctx.Err() != nil {
		return none, &Error{Err: caller.ContextError(ctx)}
	}
	frame, err := s.c.appendOne(nil, 0, request)
	switch {
	case err != nil:
		return none, &Error{Err: err}
	case len(frame) == 0:
		return none, &Error{Err: errEmpty}
	}
	_ = s.d.SetWriteDeadline(time.Now().Add(s.c.cfg.writeTimeout.Get())) // without it only ctx bounds the Write
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		if s.d.SetDeadline(longAgo) != nil {
			_ = s.d.Kill() // a transport that refuses deadlines cannot be interrupted otherwise
		}
	})
	defer func() {
		if !stop() {
			<-interrupted
		}
		_ = s.d.SetDeadline(time.Time{}) // if that fails, the next Read or Write does
	}()
	counts.sent = 1
	if n, err := s.d.Write(frame); err != nil {
		switch {
		case n > 0 || s.d.Err() != nil:
			err = s.lose(ctx, err)
		case ctx.Err() != nil:
			err = caller.ContextError(ctx)
		}
		return none, &Error{MaybeSent: n > 0 || caller.IsCrash(err), Conn: s.d.Conn(), Err: err}
	}
	if quiet {
		return none, nil
	}
	s.owed = append(s.owed, request)
	for {
		reply, ok, err := s.next()
		switch {
		case err != nil:
			return none, &Error{MaybeSent: true, Conn: s.d.Conn(), Err: s.end(err)}
		case ok && len(s.owed) == 0:
			return reply, nil
		case ok:
			counts.late++
			continue
		}
		if err := s.read(); err != nil {
			if ctx.Err() == nil || s.d.Err() != nil {
				err = s.lose(ctx, err)
			} else { // the reply can still come
				err = caller.ContextError(ctx)
			}
			return none, &Error{MaybeSent: true, Conn: s.d.Conn(), Err: err}
		}
	}
}

// lose ends the session because a Read or Write of its connection has failed, and returns what Do
// does. If that was because of ctx, later calls must not take it for their own.
func (s *Session[Q, R]) lose(ctx context.Context, err error) error {
	cause := err
	if ctx.Err() != nil {
		err = caller.ContextError(ctx)
		if cause = s.d.Err(); cause == nil {
			cause = errCutShort
		}
	}
	if reason := s.end(cause); reason != cause {
		return reason
	}
	return err
}

// next takes the next reply from what has been read. It passes pushes on. ok is false if there is no
// whole message.
func (s *Session[Q, R]) next() (reply R, ok bool, err error) {
	for {
		m, found, err := s.message()
		if err != nil || !found {
			return reply, false, err
		}
		var request Q
		if len(s.owed) > 0 {
			request = s.owed[0]
		}
		p := s.c.parse(m, request)
		switch {
		case p.push:
			s.c.table.unsolicited()
			if s.c.cfg.unsolicited != nil {
				if err := s.c.pass(m); err != nil {
					s.c.table.panicked(err)
				}
			}
		case p.err == nil && len(s.owed) == 0, p.err != nil:
			if p.err == nil {
				p.err = ErrOutOfStep
			}
			err := errOutOfStep(m.Conn, p.err)
			s.c.table.malformed(err)
			return reply, false, err
		default:
			s.owed = slices.Delete(s.owed, 0, 1)
			return p.reply, true, nil
		}
	}
}

// message takes the next message from what has been read.
func (s *Session[Q, R]) message() (m message.Message, found bool, err error) {
	if len(s.data) == 0 {
		return m, false, nil
	}
	var advance int
	var token []byte
	panicked := guard("Split", func() {
		if s.split == nil {
			s.split = s.c.splitOf(s.d.Conn())
		}
		advance, token, err = s.split(s.data[:len(s.data):len(s.data)], s.atEOF)
	}, func() {})
	switch {
	case panicked != nil:
		err = panicked
	case err != nil:
	case advance < 0 || advance > len(s.data) || token != nil && advance == 0:
		err = fmt.Errorf("request: the split function advanced by %d of %d bytes", advance, len(s.data))
	case len(token) > s.c.maxSize() || token == nil && len(s.data) > s.c.maxSize()+framing:
		err = &message.TooLongError{Conn: s.d.Conn(), Size: uint64(max(len(token), len(s.data))), Max: s.c.maxSize()}
	}
	if err != nil {
		err = errOutOfStep(s.d.Conn(), err)
		s.c.table.malformed(err)
		return m, false, err
	}
	if advance > 0 && token == nil {
		s.data = s.data[advance:]
		return s.message()
	}
	if token == nil {
		return m, false, nil
	}
	s.data = s.data[advance:]
	return message.Message{Data: append([]byte{}, token...), Conn: s.d.Conn()}, true, nil
}

// framing is how many bytes a message may have on the wire beside itself, as in package message.
const framing = 512

// sessionRead is how many bytes a session reads at a time at least.
const sessionRead = 4 << 10

// read reads once.
func (s *Session[Q, R]) read() error {
	if s.atEOF {
		return errLost(s.d.Conn(), io.EOF)
	}
	s.data = slices.Grow(s.data, sessionRead)
	n, err := s.d.Read(s.data[len(s.data):cap(s.data)])
	s.data = s.data[:len(s.data)+n]
	switch {
	case err == io.EOF:
		s.atEOF = true // what has come by then is still looked at
		return nil
	case n > 0 || err == nil:
		return nil
	}
	return err
}

// Conn returns the name of the session's connection.
func (s *Session[Q, R]) Conn() plex.Conn { return s.d.Conn() }

// Close ends the session and gives the connection back. If a reply is still owed, or part of a
// message has been read, it kills the connection, and returns an error that says so. The caller must
// have brought the connection back into the state in which others expect it. A second Close does
// nothing but return an error.
func (s *Session[Q, R]) Close() error {
	if err := s.err(); err != nil {
		return err
	}
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	default: // a Do runs
		_ = s.end(errStillOwed)
		return errStillOwed
	}
	if len(s.owed) > 0 {
		return s.end(errStillOwed)
	}
	if _, _, err := s.next(); err != nil { // passes pushes on
		return s.end(err)
	}
	if len(s.data) > 0 || s.atEOF {
		return s.end(errStillOwed)
	}
	if first, why := s.note(errSessionClosed); !first {
		return why
	}
	return s.d.Close()
}

// Kill ends the session and its connection. A Do that runs fails.
func (s *Session[Q, R]) Kill() error {
	if err := s.err(); err != nil {
		return err
	}
	_ = s.end(errSessionKilled)
	return nil
}

func (s *Session[Q, R]) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// end kills the connection, unless the session has ended, and returns why it has.
func (s *Session[Q, R]) end(why error) error {
	first, why := s.note(why)
	if first {
		_ = s.d.Kill()
	}
	return why
}

// note notes why the session has ended. If that is known already, first is false.
func (s *Session[Q, R]) note(why error) (first bool, reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil {
		return false, s.ended
	}
	s.ended = why
	s.c.sessions.remove(s)
	return true, why
}

// sessions are those of a client that have not ended.
type sessions[Q, R any] struct {
	mu   sync.Mutex
	live map[*Session[Q, R]]struct{}
}

func (l *sessions[Q, R]) add(s *Session[Q, R]) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.live == nil {
		l.live = make(map[*Session[Q, R]]struct{})
	}
	l.live[s] = struct{}{}
}

func (l *sessions[Q, R]) remove(s *Session[Q, R]) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.live, s)
}

// end ends all.
func (l *sessions[Q, R]) end(why error) {
	l.mu.Lock()
	var all []*Session[Q, R]
	for s := range l.live {
		all = append(all, s)
	}
	l.mu.Unlock()
	for _, s := range all {
		_ = s.end(why)
	}
}

// wanted notes how many callers more wait for a session. Those wait for a connection that is not
// pinned.
func (t *table[R]) wanted(more int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sessions += more
	for _, l := range t.links {
		t.unpinIdleLocked(l)
	}
}

// unpinIdleLocked unpins a connection on which nothing is owed, if somebody waits for a session.
func (t *table[R]) unpinIdleLocked(l *link[R]) {
	if t.sessions > 0 && l.held == 0 && l.unpin != nil {
		l.unpin()
		l.unpin = nil
	}
}

// reason is why the client has ended.
func (t *table[R]) reason() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closed
}

// count counts a request of a session.
func (t *table[R]) count(f figures, canceled, replied bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stats.Requests++
	t.stats.Sent += f.sent
	t.stats.Writes += f.sent
	t.stats.Late += f.late
	switch {
	case replied:
		t.stats.Replies++
	case canceled:
		t.stats.Canceled++
	default:
		t.stats.Failed++
	}
}

// splits has the split functions of the connections, if each has its own.
type splits struct {
	make func() bufio.SplitFunc
	mu   sync.Mutex
	of   map[plex.Conn]bufio.SplitFunc
}

// get returns the split function of a connection, until that has ended.
func (s *splits) get(conn plex.Conn) bufio.SplitFunc {
	s.mu.Lock()
	f := s.of[conn]
	s.mu.Unlock()
	if f != nil {
		return f
	}
	f = s.make() // whoever asks holds the connection, so nobody else makes one
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of[conn] = f
	conn.AfterEnd(func(error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.of, conn)
	})
	return f
}

func (c *Client[Q, R]) maxSize() int {
	if c.cfg.maxSize.Given() {
		return c.cfg.maxSize.Get()
	}
	return message.DefaultMaxSize
}
