package request

// Identifiers, and which of them are free.

import (
	"crypto/rand"
	"encoding/binary"
	"math"
	"math/bits"
	"sync/atomic"
)

// ids gives out the identifiers min to max. The table's mutex guards it.
//
// As long as some have never been used, those come next, in order. After that, a space of up to 16
// bits reuses identifiers in the order in which they became free, so that each rests for as long as
// possible before it means another request.
//
// A larger space uses the next one that is free. That one is near, because an eighth of the space
// is always left free: on one way through the space at least an eighth of those looked at are free,
// so on average at most eight are looked at for each that is taken. Those that are not free were
// taken on an earlier way through.
//
// With random, each is drawn from those that are free: in a small space from a list of them, in a
// larger one by drawing until one is free, which takes eight times on average at most.
type ids struct {
	min, max uint64
	random   bool

	last  atomic.Uint64 // how many have been given out, if there are so many that they never run out
	next  uint64        // the next to be tried, less min; in a small space the first that has never been used
	spent bool          // all have been used at least once

	// The free identifiers that have been used, less min, in a small space: a ring. With random, all
	// that are free, in no order, in back[:count].
	back  []uint16
	first int
	count int

	noise      []byte // random
	spentNoise int    // how much of it has been used
}

// ringIDs is the largest identifier of a small space. Its ring takes at most 128 KiB.
const ringIDs = 1<<16 - 1

// span is how many there are, less one.
func (s *ids) span() uint64 { return s.max - s.min }

// small reports whether those that are free are kept in a list.
func (s *ids) small() bool { return s.span() <= ringIDs }

// endless reports whether there is one for every request at any time, simply the next.
func (s *ids) endless() bool { return s.span() == math.MaxUint64 && !s.random }

// take returns a free identifier. There must be room. taken reports whether one is.
func (s *ids) take(taken func(id uint64) bool) uint64 {
	switch {
	case s.random && s.small():
		return s.min + s.draw()
	case !s.random && !s.spent:
		return s.min + s.advance()
	case s.small():
		id := s.back[s.first]
		s.first = (s.first + 1) % len(s.back)
		s.count--
		return s.min + uint64(id)
	}
	for {
		var id uint64
		if s.random {
			id = s.min + s.below(s.span())
		} else {
			id = s.min + s.advance()
		}
		if !taken(id) {
			return id
		}
	}
}

func (s *ids) advance() uint64 {
	id := s.next
	if s.next == s.span() {
		s.next, s.spent = 0, true
	} else {
		s.next++
	}
	return id
}

// draw takes a random one out of a small space.
func (s *ids) draw() uint64 {
	if s.back == nil {
		s.count = int(s.span()) + 1
		s.back = make([]uint16, s.count)
		for i := range s.back {
			s.back[i] = uint16(i)
		}
	}
	i := s.below(uint64(s.count) - 1)
	id := s.back[i]
	s.count--
	s.back[i] = s.back[s.count]
	return uint64(id)
}

// below returns a random number from 0 to most, all with the same probability.
func (s *ids) below(most uint64) uint64 {
	mask := uint64(math.MaxUint64) >> bits.LeadingZeros64(most|1)
	for {
		if s.noise == nil {
			s.noise = make([]byte, 1024)
			s.spentNoise = len(s.noise)
		}
		if s.spentNoise == len(s.noise) {
			_, _ = rand.Read(s.noise) // which never fails
			s.spentNoise = 0
		}
		n := binary.NativeEndian.Uint64(s.noise[s.spentNoise:]) & mask
		s.spentNoise += 8
		if n <= most {
			return n
		}
	}
}

// put makes an identifier free again.
func (s *ids) put(id uint64) {
	if !s.small() {
		return
	}
	if s.count == len(s.back) {
		s.grow()
	}
	s.back[(s.first+s.count)%len(s.back)] = uint16(id - s.min)
	s.count++
}

// grow doubles the ring. It only gets as large as there have been free identifiers at once.
func (s *ids) grow() {
	back := make([]uint16, min(max(2*len(s.back), 64), int(s.span())+1))
	for i := range s.count {
		back[i] = s.back[(s.first+i)%len(s.back)]
	}
	s.back, s.first = back, 0
}

// used reports whether id has ever been given out. Of random ones that is not known, so it reports
// false.
func (s *ids) used(id uint64) bool {
	n := id - s.min // beyond the span if id is below min
	return !s.random && n <= s.span() && (s.spent || n < s.next || n < s.last.Load())
}

// few reports whether an identifier that was given up must stay reserved.
func (s *ids) few() bool { return s.span() < fewIDs }

// room reports whether another may be taken when so many are.
func (s *ids) room(taken int) bool {
	if span := s.span(); !s.small() {
		return uint64(taken) <= span-span/8
	}
	return uint64(taken) <= s.span()
}
