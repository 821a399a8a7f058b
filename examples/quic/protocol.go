package main

import (
	"encoding/binary"
	"fmt"

	"go.atomizer.io/plex/message"
)

// A message on a stream, in both directions:
//
//	4 bytes  length of what follows, big endian
//	8 bytes  id, which the reply repeats
//	n bytes  payload
type protocol struct{}

const idSize = 8

// prefix finds where a message ends.
var prefix = message.Prefix{Bytes: 4, Order: binary.BigEndian}

func (protocol) Append(dst []byte, id uint64, request []byte) ([]byte, error) {
	dst = binary.BigEndian.AppendUint32(dst, uint32(idSize+len(request)))
	dst = binary.BigEndian.AppendUint64(dst, id)

	return append(dst, request...), nil
}

func (protocol) Split(data []byte, atEOF bool) (advance int, token []byte, err error) {
	return prefix.Split(data, atEOF)
}

func (protocol) Parse(message []byte) (id uint64, reply []byte, err error) {
	if len(message) < idSize {
		return 0, nil, fmt.Errorf("a message of %d bytes, want %d or more", len(message), idSize)
	}

	return binary.BigEndian.Uint64(message), message[idSize:], nil
}
