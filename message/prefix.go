package message

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Prefix is the framing of messages that have their length, as an unsigned number, in front of them. Its methods may be
// called from several goroutines.
//
//	dns := message.Prefix{Bytes: 2}
//	kafka := message.Prefix{Bytes: 4, Max: 100 << 20}
//	smpp := message.Prefix{Bytes: 4, Inclusive: true}
type Prefix struct {
	Bytes     int              // of the prefix: 1, 2, 4 or 8
	Order     binary.ByteOrder // of these bytes; nil: binary.BigEndian, as in most protocols
	Inclusive bool             // the length counts the prefix too

	// Max is the length of the longest message, without the prefix; 0: [DefaultMaxSize]. A prefix that announces more
	// is an error as soon as it is there: one that is out of step often does, and the bytes that it announces may never
	// come. Where a Receiver is to take longer messages, both this and [WithMaxSize] have to say so.
	Max int
}

// errPrefix is returned for a Prefix that is none.
var errPrefix = errors.New("message: Prefix")

// check reports a Prefix that cannot be used.
func (p Prefix) check() error {
	switch p.Bytes {
	case 1, 2, 4, 8:
	default:
		return fmt.Errorf("%w: Bytes is %d; it can be 1, 2, 4 or 8", errPrefix, p.Bytes)
	}
	if p.Max < 0 {
		return fmt.Errorf("%w: Max is %d; it can be above 0, or 0 for %d", errPrefix, p.Max, DefaultMaxSize)
	}
	return nil
}

// longest is the length of the longest message, for a Max.
func longest(max int) int {
	if max == 0 {
		return DefaultMaxSize
	}
	return max
}

// Split is a [bufio.SplitFunc]; the messages that it finds are without the prefix and may be empty. It returns a
// [*TooLongError] for a length beyond Max, and another error for one that does not even count the prefix although it
// should, and for a Prefix that cannot be used. At the end of the data the beginning of a message is
// [io.ErrUnexpectedEOF], so that a [bufio.Scanner] reports it as well.
func (p Prefix) Split(data []byte, atEOF bool) (advance int, token []byte, err error) {
	// It is called for each message, so it is written for speed: in one piece, and without a call in the common case.
	n := p.Bytes
	if len(data) < n || p.Max < 0 {
		if err := p.check(); err != nil {
			return 0, nil, err
		}
		return unfinished(data, atEOF)
	}
	var length uint64
	switch n {
	case 1:
		length = uint64(data[0])
	case 2:
		length = uint64(orderOr(p.Order).Uint16(data))
	case 4:
		if p.Order == nil {
			length = uint64(binary.BigEndian.Uint32(data))
		} else {
			length = uint64(p.Order.Uint32(data))
		}
	case 8:
		length = orderOr(p.Order).Uint64(data)
	default:
		return 0, nil, p.check()
	}
	if p.Inclusive {
		length -= uint64(n) // beyond any maximum if it was less
	}
	if length > uint64(longest(p.Max)) {
		return 0, nil, p.refuse(length)
	}
	if length > uint64(len(data)-n) {
		return unfinished(data, atEOF)
	}
	end := n + int(length)
	return end, data[n:end:end], nil
}

// refuse says what is wrong with the length of a message.
func (p Prefix) refuse(length uint64) error {
	if counted := length + uint64(p.Bytes); p.Inclusive && counted < uint64(p.Bytes) {
		return fmt.Errorf("message: a prefix of %d bytes says %d, though it counts itself", p.Bytes, counted)
	}
	return &TooLongError{Size: length, Max: longest(p.Max)}
}

// orderOr is the order, or the default. Like longest it is not a method: that would copy the Prefix, for each message.
func orderOr(order binary.ByteOrder) binary.ByteOrder {
	if order == nil {
		return binary.BigEndian
	}
	return order
}

// Append appends the prefix and the message to dst and returns the result. For a message that is longer than Max, or
// than the prefix can say, it returns dst as it was and a [*TooLongError].
func (p Prefix) Append(dst, message []byte) ([]byte, error) {
	if err := p.check(); err != nil {
		return dst, err
	}
	limit := uint64(longest(p.Max))
	extra := 0
	if p.Inclusive {
		extra = p.Bytes
	}
	if p.Bytes < 8 {
		limit = min(limit, 1<<(8*p.Bytes)-1-uint64(extra))
	}
	if uint64(len(message)) > limit {
		return dst, &TooLongError{Size: uint64(len(message)), Max: int(limit)}
	}
	at, length := len(dst), len(message)+extra
	dst = append(dst, make([]byte, p.Bytes)...) // extended in place; the compiler makes no slice of it
	switch p.Bytes {
	case 1:
		dst[at] = byte(length)
	case 2:
		orderOr(p.Order).PutUint16(dst[at:], uint16(length))
	case 4:
		orderOr(p.Order).PutUint32(dst[at:], uint32(length))
	default:
		orderOr(p.Order).PutUint64(dst[at:], uint64(length))
	}
	return append(dst, message...), nil
}
