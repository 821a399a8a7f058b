package layers

// The protocol of the requests. A request says how it wants to be answered, so that a test decides.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex/faulttest/oracle"
	"go.atomizer.io/plex/request"
)

// Manner is how a request is answered.
type Manner uint8

const (
	AtOnce        Manner = iota // with whatever else is to be answered, in any order
	Later                       // after Ask.Delay
	Never                       // not at all
	Twice                       // with the same reply two times
	BesideUnknown               // together with a reply to a request that nobody has made
	BesideEvent                 // together with a message that is no reply
	Malformed                   // with a message that Parse refuses
	Oversized                   // with one that is too long
	Unsplit                     // with bytes that Split refuses
	WithReset                   // with a reset
	WithFIN                     // and with it the server closes its direction
	MidReset                    // with a reset, if the server has read more of the batch, which it throws away
	MidStall                    // and if the server has read more of the batch, it first takes nothing for Ask.Delay
	BesideExtra                 // together with a reply that no request waits for; in order only
	Unanswered                  // not at all, as the client knows; in order only
	manners
)

func (m Manner) String() string {
	return [...]string{
		"at once", "later", "never", "twice", "beside an unknown reply", "beside an event", "malformed", "oversized",
		"unsplit", "with a reset", "with a FIN", "in the middle of a batch with a reset", "in the middle of a batch after a stall",
		"beside an extra reply", "unanswered",
	}[m]
}

// Ask is a request.
type Ask struct {
	Unique    uint64 // given by Asked.Do
	Manner    Manner
	Delay     time.Duration
	Size      int // of what fills the request; below 0 it cannot be encoded
	ReplySize int // of what fills the reply

	Session uint64 // the session that it is part of; 0: none
	Step    uint8  // its place in the session
	Last    bool   // there is none behind it in the session
}

// Answer is a reply. What it repeats of the request has been checked.
type Answer struct {
	ID     uint64
	Unique uint64
}

const (
	askHead    = 8 + 8 + 1 + 8 + 4 + 8 + 2 // identifier, unique number, manner, delay, size of the reply, session, step, last
	answerHead = 1 + 8 + 8                 // kind, identifier, unique number

	kindReply   = 'R'
	kindEvent   = 'E'
	kindGarbage = '?'
	kindExtra   = 'X'

	// refused is a length that Split refuses as such, and excess one that is too long.
	refused = 0xDEADDEAD
	excess  = MaxSize + 1
)

var (
	// ErrUnencodable is the error of Append for an Ask with a Size below 0.
	ErrUnencodable = errors.New("layers: a request that cannot be encoded")
	// ErrMalformed is the error of Parse for the answer of a Malformed request.
	ErrMalformed = errors.New("layers: a message that makes no sense")
	// ErrUnsplit is the error of Split for the answer of an Unsplit request.
	ErrUnsplit = errors.New("layers: bytes that make no sense")
)

// Calls is the protocol. Glued counts replies that are damaged.
type Calls struct{ Glued atomic.Uint64 }

// Append is that of request.Protocol.
func (*Calls) Append(dst []byte, id uint64, a Ask) ([]byte, error) {
	if a.Size < 0 {
		return dst, ErrUnencodable
	}
	at := len(dst)
	dst = begin(dst)
	dst = binary.BigEndian.AppendUint64(dst, id)
	dst = binary.BigEndian.AppendUint64(dst, a.Unique)
	dst = append(dst, byte(a.Manner))
	dst = binary.BigEndian.AppendUint64(dst, uint64(a.Delay))
	dst = binary.BigEndian.AppendUint32(dst, uint32(a.ReplySize))
	dst = binary.BigEndian.AppendUint64(dst, a.Session)
	dst = append(dst, a.Step, 0)
	if a.Last {
		dst[len(dst)-1] = 1
	}
	dst = fill(dst, a.Unique, a.Size)
	return seal(dst, at), nil
}

// Split is that of request.Protocol.
func (*Calls) Split(data []byte, atEOF bool) (advance int, token []byte, err error) {
	if len(data) >= prefixSize && binary.BigEndian.Uint32(data) == refused {
		return 0, nil, ErrUnsplit
	}
	return Framing.Split(data, atEOF)
}

// Parse is that of request.Protocol.
func (p *Calls) Parse(body []byte) (id uint64, a Answer, err error) {
	rest, err := unseal(body, answerHead)
	if err != nil {
		p.Glued.Add(1)
		return 0, Answer{}, err
	}
	switch rest[0] {
	case kindEvent:
		return 0, Answer{}, request.ErrNotReply
	case kindGarbage:
		return 0, Answer{}, ErrMalformed
	case kindExtra:
		return 0, Answer{}, errExtra
	}
	a.ID, a.Unique = binary.BigEndian.Uint64(rest[1:]), binary.BigEndian.Uint64(rest[9:])
	if rest[0] != kindReply || !filled(rest[answerHead:], a.Unique) {
		p.Glued.Add(1)
		return 0, Answer{}, fmt.Errorf("layers: the reply to request %d is filled with another's bytes", a.Unique)
	}
	return a.ID, a, nil
}

// appendAnswer appends a frame from the server.
func appendAnswer(dst []byte, kind byte, id, unique uint64, size int) []byte {
	at := len(dst)
	dst = append(begin(dst), kind)
	dst = binary.BigEndian.AppendUint64(dst, id)
	dst = binary.BigEndian.AppendUint64(dst, unique)
	return seal(fill(dst, unique, size), at)
}

// AppendEvent appends the frame of a message that is no reply, filled with size bytes.
func AppendEvent(dst []byte, unique uint64, size int) []byte {
	return appendAnswer(dst, kindEvent, 0, unique, size)
}

// asked is a request as the server got it.
type asked struct {
	id uint64
	Ask
}

// parseAsk takes the body of a request apart.
func parseAsk(body []byte) (a asked, err error) {
	rest, err := unseal(body, askHead)
	if err != nil {
		return asked{}, err
	}
	a.id, a.Unique, a.Manner = binary.BigEndian.Uint64(rest), binary.BigEndian.Uint64(rest[8:]), Manner(rest[16])
	a.Delay, a.ReplySize = time.Duration(binary.BigEndian.Uint64(rest[17:])), int(binary.BigEndian.Uint32(rest[25:]))
	a.Session, a.Step, a.Last = binary.BigEndian.Uint64(rest[29:]), rest[37], rest[38] == 1
	a.Size = len(rest) - askHead
	if a.Manner >= manners || oracle.Match(uint32(a.Unique)&oracle.MaxID, 0, rest[askHead:]) != a.Size {
		return asked{}, fmt.Errorf("layers: request %d is filled with another's bytes", a.Unique)
	}
	return a, nil
}
