package plex

// How read halves are asked for. The first call of Reader or ReadyReader decides, for good:
//
//	undecided  read halves are idle and not listed
//	any        each idle read half is listed, as each idle write half is
//	ready      a read half is listed once it has something to deliver: bytes, or an end
//
// In the last case each read half that becomes idle is attended to until it has something. Nothing
// is overlooked, because the end of every lease and of every hold attends to the half again once it
// is idle: first it looks at what is there, and then waits for more, in one step (an armed epoll
// reports what is there already). And nothing is delivered that is not there: what was armed
// carries the number of the last lease, and is of no interest after another.

import (
	"context"
	"errors"
	"net"
	"time"

	"go.atomizer.io/plex/internal/poll"
)

// The ways of asking for read halves.
const (
	readsUndecided int32 = iota
	readsAny
	readsReady
)

// attention says how plex comes to know that a connection has something to deliver.
type attention int8

const (
	armed  attention = iota // the kernel tells, and its bytes are all there is: TCP, UDP, Unix
	inside                  // the kernel tells, but there can be bytes inside the transport, or too few to deliver any: TLS and unknown types
	parked                  // nobody tells, so a goroutine sits in a Read while it is idle, see park.go
	blind                   // the same, and only its end can interrupt the Read, since it refuses deadlines
)

// ReadyReader leases the read half of whichever idle connection has something to deliver: bytes
// that have arrived, bytes that an earlier lease has left over, or an end, which the first Read
// returns. So a few goroutines can serve any number of connections, including those that healing
// and scaling add later, and no reply waits on a connection that nobody reads.
//
// Callers are served first come, first served. So are connections: one that always has something
// goes to the end of the line when its lease ends. ctx and timeout are as in [Multiplexer.Reader],
// and so are the errors; with a connector a caller goes on waiting while no connection is open.
// Waiting here is no reason to add a connection, and no part of the figures of [Stats] but
// WaitingReady.
//
// A multiplexer's read halves are asked for in one way: once ReadyReader has been called, Reader
// fails with [ErrReaderMode], and the other way round.
//
// On Linux the kernel tells what arrives, for TCP, UDP and Unix sockets, and for TLS and whatever
// else shows the socket beneath it (by SyscallConn, or NetConn as *tls.Conn does); no connection
// has a goroutine. Elsewhere one goroutine for each connection waits until something arrives, while
// the connection is idle. For connections without a socket, such as a [net.Pipe], and elsewhere for
// UDP, it waits in a Read of up to 512 bytes, or of one datagram. If
// the connection refuses deadlines, it is retired by closing its write side first, so that its peer
// ends it, and closed after the linger if the peer does not.
func (m *Multiplexer) ReadyReader(ctx context.Context, timeout time.Duration) (Reader, error) {
	began := m.news.begun()
	h, lease, err := m.acquireReader(ctx, timeout, readsReady)
	if m.news.tracks {
		m.news.acquired(ctx, "ready reader", began, h, lease, err)
	}
	return Reader{h, lease}, err
}

// acquireReader is Reader and ReadyReader.
func (m *Multiplexer) acquireReader(ctx context.Context, timeout time.Duration, mode int32) (*half, word, error) {
	switch {
	case ctx == nil && mode == readsReady:
		return nil, 0, errNilContext("ReadyReader")
	case ctx == nil:
		return nil, 0, errNilContext("Reader")
	}
	if m.decided.Load() != mode {
		err := m.decideReading(mode)
		switch {
		case errors.Is(err, ErrReaderMode):
			return nil, 0, err // waiting would not help
		case err != nil:
			return nil, 0, m.acquireFailed(&m.readers, 0, err)
		}
	}
	return m.acquire(ctx, timeout, &m.readers)
}

// decideReading decides how read halves are asked for, or says that it has been decided otherwise.
// A connection that is admitted meanwhile either sees the decision or is seen here, since both come
// after it is in the roster.
func (m *Multiplexer) decideReading(mode int32) error {
	m.deciding.Lock()
	defer m.deciding.Unlock()
	switch m.reading.Load() {
	case mode:
		return nil
	case readsUndecided:
	default:
		return errReaderMode(mode)
	}
	if mode == readsReady {
		if err := m.watcher.startReadable(); err != nil {
			return err
		}
		m.readers.ready.Store(true)
	}
	m.reading.Store(mode)
	for _, c := range m.roster.all() {
		switch h := &c.r; {
		case mode == readsAny:
			h.beListed()
			h.leaveParking() // of WithQuietIdle
		case h.word().idle():
			h.attend(h.word(), false)
		}
	}
	m.decided.Store(mode) // from now on callers need not wait until all are listed
	return nil
}

// beListed makes a read half one that is listed whenever it is idle.
func (h *half) beListed() {
	if _, listed := h.change(word.always); listed {
		h.queue.put(h)
	}
}

// attend is called when a read half has become idle. Looked says that nothing is left inside the
// transport. It may come late, when there have been other leases since; see arrived.
func (h *half) attend(w word, looked bool) {
	c := h.conn
	ready, left := c.m.reading.Load() == readsReady, h.word().is(dataLeft|connEnded)
	switch {
	case !ready && (left || !c.m.cfg.quietIdle): // nobody wants to know
	case left:
		h.becomeReady(w.tag())
	case c.attention == parked || c.attention == blind:
		if !h.word().is(poolListed) { // it is not parked while it can be leased by anyone
			c.parkSoon()
		}
	case c.attention == inside && !looked:
		c.m.tasks.start(c.glance) // whose end comes back here
	default:
		if err := c.member.Arm(w.tag()); err != nil {
			c.parkSoon() // the kernel has no room, or does not watch such a descriptor
		}
	}
}

// arrived is called by the watcher when c can be read from.
func (c *conn) arrived(tag uint32) {
	if c.attention == inside || c.expectsNothing() {
		c.m.tasks.start(c.glance) // what has arrived may be too little to deliver anything, or unasked
		return
	}
	if c.m.reading.Load() != readsReady {
		return // what is expected has come
	}
	h := &c.r
	h.becomeReady(tag)
	// What was armed after an earlier lease may have taken the place of what was armed after the
	// last, if the end of the last overtook the end of the earlier one. Only a half that is idle is
	// seen to here: the end of a lease or a hold arms again.
	if w := h.word(); w.idle() && w.tag() != tag {
		h.attend(w, true)
	}
}

// becomeReady lists an idle half, unless it has been leased after the lease that the tag is of.
func (h *half) becomeReady(tag uint32) {
	_, ok := h.change(func(w word) (word, bool) {
		if w.tag() != tag {
			return w, false
		}
		return w.listed()
	})
	if ok {
		h.queue.put(h)
	}
}

// attentionOf says how a transport can be attended to. Deadlines says whether it has them.
func attentionOf(c *conn, deadlines bool) attention {
	if poll.Available && c.socket.Exists() {
		switch c.nc.(type) {
		case *net.TCPConn, *net.UnixConn, *net.UDPConn, *net.IPConn:
			return armed
		}
		if deadlines {
			return inside
		}
		return blind
	}
	if deadlines {
		return parked
	}
	return blind
}
