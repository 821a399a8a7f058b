package layers

// The server that is asked. It remembers which requests it has executed and which identifiers it has yet to answer.

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex/faulttest/proxy"
)

// reuseGrace is how long a connection that a client has given up may take to be closed, after its identifiers are used
// on another.
const reuseGrace = 30 * time.Second

// Executor answers requests. The fields are set before the first connection.
type Executor struct {
	// TLS, if it is not nil, has all connections speak TLS.
	TLS *tls.Config
	// Ordered has the answers come in the order of the requests, and the identifiers mean nothing.
	Ordered bool
	// Tight has the kernel take little at a time, so that a client's writes last while nothing is read.
	Tight bool
	// Deaf has nothing read from connection k until it is closed; nil: nothing is deaf.
	Deaf func(k int) <-chan struct{}

	HalfTaken, HalfStalled atomic.Uint64 // batches of which a part was taken: before a reset, and before a stall

	answered atomic.Uint64

	mu       sync.Mutex
	places   []Place // in what was read, by unique number
	sessions map[uint64]*executing
	executed []uint8            // how often, by unique number
	total    uint64             // requests executed
	pending  map[uint64]pending // by identifier
	peak     int                // most of them
	by       [manners]uint64
	wrong    []error
}

// pending is a request that has not been answered.
type pending struct {
	unique uint64
	on     *executing
}

// executing is one connection.
type executing struct {
	e       *Executor
	c       *proxy.Conn
	rw      net.Conn // c, or TLS over it
	mu      sync.Mutex
	session uint64 // that has begun, and not ended; the reader's
	step    uint8  // the latest of it; the reader's
	// Guarded by mu.
	out    []out
	after  Manner // what to do when they are: WithReset, WithFIN or nothing
	over   bool
	wake   chan struct{} // holds one
	silent bool          // no more answers, as nothing can be understood behind what was sent
}

// out is a frame to be written.
type out struct {
	frame []byte
	due   time.Time // not before this
}

// Place is the place of a request, or of a message, in what one Read of the server has brought: in a batch, about.
type Place uint8

const (
	Alone Place = iota
	First
	Middle
	Last
	Places
)

// placed is the place of what begins a read, or not, and ends it, or not.
func placed(begins, ends bool) Place {
	switch {
	case begins && ends:
		return Alone
	case begins:
		return First
	case ends:
		return Last
	}
	return Middle
}

// Serve serves c until it ends.
func (e *Executor) Serve(c *proxy.Conn) {
	x := &executing{e: e, c: c, rw: c, wake: make(chan struct{}, 1)}
	if e.Tight {
		_ = c.SetReadBuffer(4 << 10)
	}
	if e.TLS != nil {
		s := tls.Server(c, e.TLS)
		if s.Handshake() != nil {
			return // the client sees it, too
		}
		x.rw = s
	}
	if e.Deaf != nil {
		if until := e.Deaf(c.Number); until != nil {
			select {
			case <-until:
			case <-c.Done():
			}
		}
	}
	var wg sync.WaitGroup
	wg.Go(x.write)
	x.read()
	x.mu.Lock()
	x.over = true
	x.mu.Unlock()
	x.poke()
	_ = c.Close() // so that a blocked Write ends
	wg.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, p := range e.pending {
		if p.on == x {
			delete(e.pending, id)
		}
	}
}

// read executes what comes.
func (x *executing) read() {
	r := bufio.NewReaderSize(struct{ io.Reader }{x.rw}, 32<<10)
	var body []byte
	for {
		var prefix [prefixSize]byte
		begins := r.Buffered() == 0
		if _, err := io.ReadFull(r, prefix[:]); err != nil {
			return
		}
		n := binary.BigEndian.Uint32(prefix[:])
		if n > 16<<20 {
			x.e.fail(fmt.Errorf("layers: a request of %d bytes on connection %d: two are glued together", n, x.c.Number))
			return
		}
		body = slices.Grow(body[:0], int(n))[:n]
		if _, err := io.ReadFull(r, body); err != nil {
			return // a request that is cut off is not executed
		}
		a, err := parseAsk(body)
		if err != nil {
			x.e.fail(fmt.Errorf("%w, at the server, on connection %d", err, x.c.Number))
			return
		}
		if err := x.exclusive(a); err != nil {
			x.e.fail(err)
			return
		}
		x.e.execute(a, x, placed(begins, r.Buffered() == 0))
		if more := r.Buffered() > 0; a.Manner == MidReset && more {
			x.e.HalfTaken.Add(1)
			x.c.Reset()
			return
		} else if a.Manner == MidStall && more {
			x.e.HalfStalled.Add(1)
			time.Sleep(a.Delay)
		}
		x.answer(a)
	}
}

// exclusive checks that nobody else's request is among those of a session.
func (x *executing) exclusive(a asked) error {
	switch {
	case x.session != 0 && a.Session != x.session:
		return fmt.Errorf("layers: request %d (session %d, step %d) is between those of session %d",
			a.Unique, a.Session, a.Step, x.session)
	case x.session != 0 && a.Step <= x.step:
		return fmt.Errorf("layers: step %d of session %d has come behind step %d", a.Step, a.Session, x.step)
	case a.Session != 0 && !x.e.meet(a.Session, x):
		return fmt.Errorf("layers: session %d has come over two connections", a.Session)
	}
	if x.session, x.step = a.Session, a.Step; a.Last {
		x.session = 0
	}
	return nil
}

// meet reports whether a session keeps to one connection.
func (e *Executor) meet(session uint64, x *executing) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.sessions == nil {
		e.sessions = make(map[uint64]*executing)
	}
	if e.sessions[session] == nil {
		e.sessions[session] = x
	}
	return e.sessions[session] == x
}

// execute notes a request.
func (e *Executor) execute(a asked, x *executing, place Place) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if int(a.Unique) >= len(e.executed) {
		e.executed = slices.Grow(e.executed, int(a.Unique)+1-len(e.executed))
		e.executed = e.executed[:cap(e.executed)]
	}
	if int(a.Unique) >= len(e.places) {
		e.places = slices.Grow(e.places, int(a.Unique)+1-len(e.places))
		e.places = e.places[:cap(e.places)]
	}
	e.places[a.Unique] = place
	if e.executed[a.Unique]++; e.executed[a.Unique] > 1 {
		e.failLocked(fmt.Errorf("layers: request %d has come twice", a.Unique))
	}
	e.total++
	e.by[a.Manner]++
	if e.Ordered {
		return
	}
	if e.pending == nil {
		e.pending = make(map[uint64]pending)
	}
	if old, taken := e.pending[a.id]; taken {
		e.mu.Unlock()
		given := x != old.on && old.on.givenUp()
		e.mu.Lock()
		if !given {
			e.failLocked(fmt.Errorf("layers: identifier %d of request %d is used for request %d before there was a reply",
				a.id, old.unique, a.Unique))
		}
	}
	e.pending[a.id] = pending{a.Unique, x}
	e.peak = max(e.peak, len(e.pending))
}

// givenUp waits until the client has closed the connection. It may use its identifiers on another as soon as it does
// not listen to it any more.
func (x *executing) givenUp() bool {
	for end := time.Now().Add(reuseGrace); proxy.Established(x.c.TCPConn); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// answer has a request be answered in its manner.
func (x *executing) answer(a asked) {
	frame := appendAnswer(nil, kindReply, a.id, a.Unique, a.ReplySize)
	switch a.Manner {
	case AtOnce, MidReset, MidStall:
		x.send(&a, frame)
	case Later:
		if x.e.Ordered {
			x.queueFor(&a, frame, time.Now().Add(a.Delay), false)
			return
		}
		time.AfterFunc(a.Delay, func() { x.send(&a, frame) })
	case Never, Unanswered:
	case BesideExtra:
		x.last(&a, append(frame, appendAnswer(nil, kindExtra, a.id, a.Unique, 0)...))
	case Twice:
		x.send(&a, append(frame, frame...))
	case BesideUnknown:
		x.send(&a, append(appendAnswer(nil, kindReply, a.id^1<<63, a.Unique, 0), frame...))
	case BesideEvent:
		x.send(&a, append(AppendEvent(nil, a.Unique, a.ReplySize), frame...))
	case Malformed:
		x.last(&a, append(appendAnswer(nil, kindGarbage, a.id, a.Unique, 0), frame...))
	case Oversized:
		x.last(&a, binary.BigEndian.AppendUint32(nil, excess))
	case Unsplit:
		x.last(&a, append(binary.BigEndian.AppendUint32(nil, refused), frame...))
	case WithReset, WithFIN:
		x.mu.Lock()
		x.after = a.Manner
		x.mu.Unlock()
		x.send(&a, frame)
	}
}

// send has a frame be written, which is the answer to a.
func (x *executing) send(a *asked, frame []byte) { x.queue(a, frame, false) }

// last is send for a frame behind which nothing can be understood.
func (x *executing) last(a *asked, frame []byte) { x.queue(a, frame, true) }

func (x *executing) queue(a *asked, frame []byte, last bool) { x.queueFor(a, frame, time.Time{}, last) }

func (x *executing) queueFor(a *asked, frame []byte, due time.Time, last bool) {
	x.e.mu.Lock()
	if p := x.e.pending[a.id]; p.on == x && p.unique == a.Unique {
		delete(x.e.pending, a.id)
	}
	x.e.mu.Unlock()
	x.mu.Lock()
	if !x.over && !x.silent {
		x.out = append(x.out, out{frame, due})
		x.silent = last
	}
	x.mu.Unlock()
	x.poke()
}

func (x *executing) poke() {
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

// write writes what is to be written: in another order than it was asked for, if not Ordered.
func (x *executing) write() {
	rng := rand.New(rand.NewPCG(uint64(x.c.Number), 0xa5))
	var buf []byte
	for range x.wake {
		x.mu.Lock()
		frames, after, over, last := x.out, x.after, x.over, x.silent
		x.out = nil
		x.mu.Unlock()
		if over {
			return
		}
		n := len(frames)
		if last && n > 0 {
			n-- // what nothing can be understood behind stays the last
		}
		if !x.e.Ordered {
			rng.Shuffle(n, func(i, j int) { frames[i], frames[j] = frames[j], frames[i] })
		}
		buf = buf[:0]
		for _, f := range frames {
			if wait := time.Until(f.due); !f.due.IsZero() && wait > 0 {
				if _, err := x.rw.Write(buf); err != nil {
					return
				}
				buf = buf[:0]
				time.Sleep(wait)
			}
			buf = append(buf, f.frame...)
		}
		if len(buf) > 0 {
			if _, err := x.rw.Write(buf); err != nil {
				return // the client sees the end, too; what it still sends is read
			}
			x.e.answered.Add(uint64(len(frames)))
		}
		switch after {
		case WithReset:
			x.c.Reset()
			return
		case WithFIN:
			x.c.HalfClose()
			return
		}
	}
}

func (e *Executor) fail(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failLocked(err)
}

func (e *Executor) failLocked(err error) {
	if len(e.wrong) < most {
		e.wrong = append(e.wrong, err)
	}
}

// Err is what was found wrong so far.
func (e *Executor) Err() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return errors.Join(slices.Clone(e.wrong)...)
}

// Executed is how many requests have been executed.
func (e *Executor) Executed() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.total
}

// Has reports whether a request has been executed.
func (e *Executor) Has(unique uint64) bool { return e.times(unique) > 0 }

func (e *Executor) times(unique uint64) uint8 {
	e.mu.Lock()
	defer e.mu.Unlock()
	if unique < uint64(len(e.executed)) {
		return e.executed[unique]
	}
	return 0
}

// place is where in a batch a request was that has been executed.
func (e *Executor) place(unique uint64) Place {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.places[unique]
}

// Pending is how many requests have been executed on open connections and not been answered, and the most that there
// ever were.
func (e *Executor) Pending() (now, peak int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.pending), e.peak
}
