package message

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Prefix is the framing of messages that begin with their length, as an unsigned number. Its
// methods may be called from several goroutines.
//
//	dns := message.Prefix{Bytes: 2}
//	kafka := message.Prefix{Bytes: 4, Max: 100 << 20}
//	smpp := message.Prefix{Bytes: 4, Inclusive: true}
type Prefix struct {
	Bytes     int              // size of the prefix: 1, 2, 4 or 8
	Order     binary.ByteOrder // of these bytes; nil means binary.BigEndian, as in most protocols
	Inclusive bool             // the length includes the prefix

	// Max is the length of the longest message, without the prefix; 0 means [DefaultMaxSize]. A
	// prefix that announces more is an error as soon as it has arrived. A peer that is out of step
	// often announces too much, and the bytes may never come. For longer messages, set both this
	// and the Receiver's [WithMaxSize].
	Max int
}

// errPrefix is returned for a Prefix with bad values.
var errPrefix = errors.New("message: Prefix")

// check returns an error for a Prefix with bad values.
func (p Prefix) check() error {
	switch p.Bytes {
	case 1, 2, 4, 8:
	default:
		return fmt.Errorf("%w: Bytes is %d; it must be 1, 2, 4 or 8", errPrefix, p.Bytes)
	}
	if p.Max < 0 {
		return fmt.Errorf("%w: Max is %d; it must be above 0, or 0 for %d", errPrefix, p.Max, DefaultMaxSize)
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

// Split is a [bufio.SplitFunc]. Its messages do not include the prefix, and may be empty. It
// returns a [*TooLongError] for a length above Max. It returns other errors for a length that
// should include the prefix and is shorter than it, and for a Prefix with bad values. Data that
// ends within a message is [io.ErrUnexpectedEOF], which a [bufio.Scanner] reports as well.
func (p Prefix) Split(data []byte, atEOF bool) (advance int, token []byte, err error) {
	// This runs for each message, so it is written for speed: in one piece, with no call in the
	// common case.
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
		length -= uint64(n) // wraps around to above any maximum if it was less
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
		return fmt.Errorf("message: a prefix of %d bytes says %d, less than its own length, which it must include",
			p.Bytes, counted)
	}
	return &TooLongError{Size: length, Max: longest(p.Max)}
}

// orderOr returns the order or the default. Like longest it is not a method, which would copy the
// Prefix each time.
func orderOr(order binary.ByteOrder) binary.ByteOrder {
	if order == nil {
		return binary.BigEndian
	}
	return order
}

// Append appends the prefix and the message to dst and returns the result. If the message is longer
// than Max, or longer than the prefix can express, it returns dst unchanged and a [*TooLongError].
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
	dst = append(dst, make([]byte, p.Bytes)...) // in place: the compiler allocates no slice
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
