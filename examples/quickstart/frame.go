package main

import (
	"encoding/binary"
	"fmt"
	"io"
)

// A message on the wire, in both directions:
//
//	4 bytes  length of what follows, big endian
//	8 bytes  id, which the reply repeats
//	n bytes  payload
//
// The id is what lets plex spread requests over connections: a reply says itself which request it answers.

const (
	lengthSize = 4
	idSize     = 8
	maxLength  = 64 << 10
)

// appendFrame appends one message to b.
func appendFrame(b []byte, id uint64, payload []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(idSize+len(payload)))
	b = binary.BigEndian.AppendUint64(b, id)

	return append(b, payload...)
}

// readFrame reads one message, no more and no less. It returns io.EOF when r ends between two messages and
// io.ErrUnexpectedEOF when it ends inside one.
func readFrame(r io.Reader) (id uint64, payload []byte, err error) {
	var header [lengthSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, nil, err
	}

	length := binary.BigEndian.Uint32(header[:])
	if length < idSize || length > maxLength {
		return 0, nil, fmt.Errorf("a frame of %d bytes, want %d to %d", length, idSize, maxLength)
	}

	body := make([]byte, length)
	if _, err := io.ReadFull(r, body); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}

	return binary.BigEndian.Uint64(body), body[idSize:], nil
}
