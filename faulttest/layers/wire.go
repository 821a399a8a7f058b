package layers

// What messages, requests and replies look like: a length of 4 bytes, the body, and the last 4 bytes of the body are
// a checksum of what is before them. What fills a body depends on its numbers alone, so both sides can make it.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"go.atomizer.io/plex/faulttest/oracle"
	"go.atomizer.io/plex/message"
)

// Framing is that of both layers. A longer message than MaxSize is too long.
var Framing = message.Prefix{Bytes: 4, Max: MaxSize}

// MaxSize is the length of the longest message in bytes.
const MaxSize = 64 << 10

const (
	prefixSize  = 4
	messageHead = 8 // the connection's number and the message's
	checksum    = 4

	// LeastMessage is the length of the shortest message of a Talker, without the prefix.
	LeastMessage = messageHead + checksum
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// frame is begun with a place for the length, and ended by seal.
func begin(dst []byte) []byte { return append(dst, 0, 0, 0, 0) }

// seal puts the length in front of a body that begins behind at, and the checksum behind it.
func seal(dst []byte, at int) []byte {
	dst = binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst[at+prefixSize:], castagnoli))
	binary.BigEndian.PutUint32(dst[at:], uint32(len(dst)-at-prefixSize))
	return dst
}

// unseal checks a body and takes the checksum away.
func unseal(body []byte, least int) ([]byte, error) {
	if len(body) < least+checksum {
		return nil, fmt.Errorf("layers: %d bytes, where there are at least %d", len(body), least+checksum)
	}
	end := len(body) - checksum
	if crc32.Checksum(body[:end], castagnoli) != binary.BigEndian.Uint32(body[end:]) {
		return nil, errors.New("layers: the checksum is wrong")
	}
	return body[:end], nil
}

// fill appends n bytes that belong to the number alone.
func fill(dst []byte, number uint64, n int) []byte {
	at := len(dst)
	dst = append(dst, make([]byte, n)...)
	oracle.Fill(uint32(number)&oracle.MaxID, 0, dst[at:])
	return dst
}

// filled reports whether p is what fill appends.
func filled(p []byte, number uint64) bool {
	return oracle.Match(uint32(number)&oracle.MaxID, 0, p) == len(p)
}

// AppendMessage appends the frame of message seq of connection k, whose body has size bytes.
func AppendMessage(dst []byte, k, seq uint32, size int) []byte {
	at := len(dst)
	dst = begin(dst)
	dst = binary.BigEndian.AppendUint32(dst, k)
	dst = binary.BigEndian.AppendUint32(dst, seq)
	dst = fill(dst, mixed(k, seq), size-LeastMessage)
	return seal(dst, at)
}

// CheckMessage takes a body apart.
func CheckMessage(body []byte) (k, seq uint32, err error) {
	rest, err := unseal(body, messageHead)
	if err != nil {
		return 0, 0, err
	}
	k, seq = binary.BigEndian.Uint32(rest), binary.BigEndian.Uint32(rest[4:])
	if !filled(rest[messageHead:], mixed(k, seq)) {
		return 0, 0, fmt.Errorf("layers: message %d of connection %d is filled with another's bytes", seq, k)
	}
	return k, seq, nil
}

func mixed(k, seq uint32) uint64 { return uint64(k)*0x9E3779B1 ^ uint64(seq) }
