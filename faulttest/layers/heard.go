package layers

// The book of messages: what a receiver has delivered, compared with what the Talker has sent.

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/message"
)

// most is how many violations are kept.
const most = 20

// Heard is the book of one receiver's messages. Size is the Talker's. All methods may be called from any goroutine.
type Heard struct {
	Size func(k, seq uint32) int

	Messages, Cut, TooLong, Split, Bytes atomic.Uint64 // what has come
	Lost, Doubled, Disordered, Glued     atomic.Uint64 // what is wrong with it
	mu                                   sync.Mutex
	conns                                map[plex.Conn]*hearing
	numbers                              map[uint32]*hearing
	wrong                                []error
	numWrong                             int
}

// hearing is what has come over one connection. It belongs to whoever has the connection in hands: the receiver
// promises that this is one at a time, and the race detector sees to it.
type hearing struct {
	number uint32
	known  bool   // the number, which the first message tells
	next   uint32 // messages that have come
	over   bool   // an error has come
	cut    int    // bytes of the message that was cut off; 0: none

	shownNext, shownCut atomic.Int64 // next and cut, for Compare, which does not have the connection in hands
}

// Ear is one loop's access to the book. It is for one goroutine at a time.
type Ear struct {
	h    *Heard
	conn plex.Conn
	at   *hearing
	buf  []byte
}

// Ear makes one.
func (h *Heard) Ear() *Ear { return &Ear{h: h} }

// Take takes one pair that a receiver has delivered. It reports whether it is about a connection, so that the iteration
// goes on; otherwise it is the end.
func (e *Ear) Take(m message.Message, err error) bool {
	if m.Conn == (plex.Conn{}) {
		return false
	}
	if m.Conn != e.conn {
		e.conn, e.at = m.Conn, e.h.at(m.Conn)
	}
	if err == nil {
		e.message(m.Data)
	} else {
		e.trouble(err)
	}
	e.at.shownNext.Store(int64(e.at.next))
	e.at.shownCut.Store(int64(e.at.cut))
	return true
}

func (h *Heard) at(conn plex.Conn) *hearing {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conns == nil {
		h.conns, h.numbers = make(map[plex.Conn]*hearing), make(map[uint32]*hearing)
	}
	l := h.conns[conn]
	if l == nil {
		l = &hearing{}
		h.conns[conn] = l
	}
	return l
}

// meet is called when a connection has told its number.
func (h *Heard) meet(l *hearing, k uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l.number, l.known = k, true
	if h.numbers[k] != nil {
		h.wrongLocked(&h.Glued, "the messages of connection %d come over two connections", k)
	}
	h.numbers[k] = l
}

func (e *Ear) message(data []byte) {
	h, l := e.h, e.at
	h.Messages.Add(1)
	h.Bytes.Add(uint64(len(data)))
	k, seq, err := CheckMessage(data)
	if err != nil {
		h.Wrong(&h.Glued, "%v, of connection %d after %d messages: %d bytes %.40x", err, l.number, l.next, len(data), data)
		return
	}
	if !l.known {
		h.meet(l, k)
	}
	switch want := l.next; {
	case k != l.number:
		h.Wrong(&h.Glued, "message %d of connection %d has come over connection %d", seq, k, l.number)
		return
	case l.over:
		h.Wrong(&h.Disordered, "message %d of connection %d has come after the connection's end", seq, k)
		return
	case seq < want:
		h.Wrong(&h.Doubled, "message %d of connection %d has come again after %d messages", seq, k, want)
		return
	case seq > want:
		h.Wrong(&h.Lost, "message %d of connection %d has come, where %d was next", seq, k, want)
		h.Lost.Add(uint64(seq - want - 1))
	case len(data) != sizeOf(h.Size, k, seq):
		h.Wrong(&h.Glued, "message %d of connection %d has %d bytes, where %d were sent",
			seq, k, len(data), sizeOf(h.Size, k, seq))
	}
	l.next = seq + 1
}

// trouble takes an error. A message that is cut off has to be the beginning of the one that was next.
func (e *Ear) trouble(err error) {
	h, l := e.h, e.at
	if l.over {
		h.Wrong(&h.Doubled, "connection %d has ended twice; now: %v", l.number, err)
	}
	l.over = true
	var (
		cut     *message.CutError
		tooLong *message.TooLongError
		split   *message.SplitError
	)
	switch {
	case errors.As(err, &cut):
		h.Cut.Add(1)
		l.cut = len(cut.Data)
		if len(cut.Data) == 0 || cut.Err == nil || cut.Conn != e.conn {
			h.Wrong(&h.Glued, "a message of connection %d is cut off, but not said how: %#v", l.number, cut)
		}
		if !l.known && len(cut.Data) >= prefixSize+4 {
			h.meet(l, binary.BigEndian.Uint32(cut.Data[prefixSize:]))
		}
		if !l.known {
			return // of such a beginning nobody can say whose it is
		}
		e.buf = AppendMessage(e.buf[:0], l.number, l.next, sizeOf(h.Size, l.number, l.next))
		if len(cut.Data) >= len(e.buf) || !bytes.HasPrefix(e.buf, cut.Data) {
			h.Wrong(&h.Glued, "message %d of connection %d is cut off after %d bytes, which are not its own: %.40x",
				l.next, l.number, len(cut.Data), cut.Data)
		}
	case errors.As(err, &tooLong):
		h.TooLong.Add(1)
	case errors.As(err, &split):
		h.Split.Add(1)
	default:
		h.Wrong(&h.Glued, "connection %d has ended by %v, which is none of the errors of one connection", l.number, err)
	}
}

// Wrong notes a violation, and counts it.
func (h *Heard) Wrong(kind *atomic.Uint64, format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wrongLocked(kind, format, args...)
}

func (h *Heard) wrongLocked(kind *atomic.Uint64, format string, args ...any) {
	kind.Add(1)
	h.numWrong++
	if len(h.wrong) < most {
		h.wrong = append(h.wrong, fmt.Errorf("layers: "+format, args...))
	}
}

// Err is what was found wrong so far.
func (h *Heard) Err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.numWrong > len(h.wrong) {
		more := fmt.Errorf("layers: and %d violations more", h.numWrong-len(h.wrong))
		return errors.Join(append(slices.Clone(h.wrong), more)...)
	}
	return errors.Join(h.wrong...)
}

// Strict says of which connections everything has to have come. Of the others what has come is a beginning.
type Strict struct {
	Finished bool // those that are Finished; the multiplexer has not been closed meanwhile
	Closed   bool // those that are Closed: besides, nobody on the client's side ends connections
	Live     bool // those that are Live: besides, there was time enough
}

// Compare compares what has come with what was sent, when the loops are over or have nothing more to deliver. Nothing
// of what is missing is counted before that is true, so it can be asked again. It returns the number of connections of
// which everything has to have come.
func (h *Heard) Compare(t *Talker, s Strict) (strictly int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var wrong []error
	for _, l := range t.all() {
		l.mu.Lock()
		sent, rest, ending := l.whole, l.rest, l.ending
		l.mu.Unlock()
		got, known := &hearing{}, false
		if l := h.numbers[l.number]; l != nil {
			got, known = l, true
		}
		next, cut := uint32(got.shownNext.Load()), int(got.shownCut.Load())
		whole := ending == Finished && s.Finished || ending == Closed && s.Closed
		must := whole || ending == Live && s.Live
		if must {
			strictly++
		}
		switch {
		case next > sent:
			wrong = append(wrong, fmt.Errorf("layers: connection %d: %d messages have come, and %d were sent (%v)",
				l.number, next, sent, ending))
		case must && next < sent:
			wrong = append(wrong, fmt.Errorf("layers: connection %d: %d messages are lost of %d and %d bytes (%v)",
				l.number, sent-next, sent, rest, ending))
		case whole && known && cut != rest:
			wrong = append(wrong,
				fmt.Errorf("layers: connection %d: after %d messages %d bytes were sent, and %d reported as cut off (%v)",
					l.number, sent, rest, cut, ending))
		}
		if len(wrong) == most {
			break
		}
	}
	return strictly, errors.Join(wrong...)
}
