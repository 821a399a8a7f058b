package main

import (
	"encoding/binary"
	"fmt"
)

// A datagram, in both directions, is 8 bytes of id, which the answer repeats, and a payload, which may be empty.
type protocol struct{}

const idSize = 8

func (protocol) Append(dst []byte, id uint64, payload string) ([]byte, error) {
	return append(binary.BigEndian.AppendUint64(dst, id), payload...), nil
}

// Split is called for each datagram by itself, and one is one message. As any bufio.SplitFunc it is called once more when
// nothing is left; then there is no message, not an empty one.
func (protocol) Split(data []byte, _ bool) (advance int, token []byte, err error) {
	if len(data) == 0 {
		return 0, nil, nil
	}

	return len(data), data, nil
}

func (protocol) Parse(datagram []byte) (id uint64, payload string, err error) {
	if len(datagram) < idSize {
		return 0, "", fmt.Errorf("a datagram of %d bytes, want %d or more", len(datagram), idSize)
	}

	return binary.BigEndian.Uint64(datagram), string(datagram[idSize:]), nil
}
