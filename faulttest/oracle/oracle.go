// Package oracle makes byte streams that say of every byte where it belongs, and checks them.
//
// Eight bytes on the wire are one word, and a word holds the number of its stream and its own place in it, mixed so that
// all eight bytes change from word to word. Whatever a stream is cut into, a byte that is missing, comes twice, comes
// too early or too late, or comes out of another stream's connection is seen, and a [Checker] tells which of these it
// was and of how many bytes.
//
// Nothing here allocates as long as all is well, and both directions do several GB/s.
package oracle

import "encoding/binary"

// A word before it is mixed: a mark of 4 bits, the stream's number, and the word's index in the stream.
const (
	wordSize  = 8
	idBits    = 26
	indexBits = 34
	mark      = 0xA

	// MaxID is the largest number of a stream.
	MaxID = 1<<idBits - 1

	// MaxOffset is how long a stream may get.
	MaxOffset = 1 << indexBits * wordSize
)

// ID is the number of one direction of a connection.
func ID(connection uint32, fromServer bool) uint32 {
	id := connection << 1
	if fromServer {
		id |= 1
	}
	return id & MaxID
}

func plain(id uint32, index uint64) uint64 { return mark<<60 | uint64(id)<<indexBits | index }

// mix is a bijection that spreads a change in any bit.
func mix(x uint64) uint64 {
	x ^= x >> 32
	x *= factor
	return x ^ x>>29
}

func unmix(x uint64) uint64 {
	x ^= x>>29 ^ x>>58
	x *= inverse
	return x ^ x>>32
}

const (
	factor  = 0x9E3779B97F4A7C15
	inverse = 0xF1DE83E19937733D // factor*inverse == 1, modulo 2^64
)

// decode returns what the first eight bytes of b say, and whether they can be a word at all.
func decode(b []byte) (id uint32, index uint64, ok bool) {
	x := unmix(binary.LittleEndian.Uint64(b))
	return uint32(x>>indexBits) & MaxID, x & (1<<indexBits - 1), x>>60 == mark
}

// Fill makes p the bytes of stream id from offset on.
func Fill(id uint32, offset uint64, p []byte) {
	x := plain(id, offset/wordSize)
	if skip := int(offset % wordSize); skip > 0 && len(p) > 0 {
		var w [wordSize]byte
		binary.LittleEndian.PutUint64(w[:], mix(x))
		p = p[copy(p, w[skip:]):]
		x++
	}
	for len(p) >= wordSize {
		binary.LittleEndian.PutUint64(p, mix(x))
		p = p[wordSize:]
		x++
	}
	if len(p) > 0 {
		var w [wordSize]byte
		binary.LittleEndian.PutUint64(w[:], mix(x))
		copy(p, w[:])
	}
}

// Match returns how many bytes at the start of p are those of stream id from offset on.
func Match(id uint32, offset uint64, p []byte) int {
	x, n := plain(id, offset/wordSize), 0
	if skip := int(offset % wordSize); skip > 0 && len(p) > 0 {
		n = matchWord(mix(x), skip, p)
		if n < min(wordSize-skip, len(p)) {
			return n
		}
		x++
	}
	for len(p)-n >= wordSize {
		if w := mix(x); binary.LittleEndian.Uint64(p[n:]) != w {
			return n + matchWord(w, 0, p[n:])
		}
		n += wordSize
		x++
	}
	return n + matchWord(mix(x), 0, p[n:])
}

// matchWord compares p with what follows skip in one word.
func matchWord(word uint64, skip int, p []byte) int {
	word >>= 8 * skip
	for n := range min(wordSize-skip, len(p)) {
		if p[n] != byte(word>>(8*n)) {
			return n
		}
	}
	return min(wordSize-skip, len(p))
}
