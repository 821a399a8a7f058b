package request

// Identifiers, and which of them are free.

import "sync/atomic"

// ids gives out the identifiers 0 to max. The table's mutex guards it.
//
// As long as some have never been used, those come next, in order. After that, a space of up to 16
// bits reuses identifiers in the order in which they became free, so that each rests for as long as
// possible before it means another request.
//
// A larger space uses the next one that is free. That one is near, because an eighth of the space
// is always left free: on one way through the space at least an eighth of those looked at are free,
// so on average at most eight are looked at for each that is taken. Those that are not free were
// taken on an earlier way through.
type ids struct {
	max   uint64
	last  atomic.Uint64 // how many have been given out, if there are so many that they never run out
	next  uint64        // the next to be tried; in a small space the first that has never been used
	spent bool          // all have been used at least once

	// A ring of the free identifiers that have been used, in a small space.
	back  []uint16
	first int
	count int
}

// ringIDs is the largest identifier of a small space. Its ring takes at most 128 KiB.
const ringIDs = 1<<16 - 1

// take returns a free identifier. There must be room. taken reports whether one is.
func (s *ids) take(taken func(id uint64) bool) uint64 {
	if !s.spent {
		return s.advance()
	}
	if s.max <= ringIDs {
		id := s.back[s.first]
		s.first = (s.first + 1) % len(s.back)
		s.count--
		return uint64(id)
	}
	for {
		if id := s.advance(); !taken(id) {
			return id
		}
	}
}

func (s *ids) advance() uint64 {
	id := s.next
	if s.next == s.max {
		s.next, s.spent = 0, true
	} else {
		s.next++
	}
	return id
}

// put makes an identifier free again.
func (s *ids) put(id uint64) {
	if s.max > ringIDs {
		return
	}
	if s.count == len(s.back) {
		s.grow()
	}
	s.back[(s.first+s.count)%len(s.back)] = uint16(id)
	s.count++
}

// grow doubles the ring. It only gets as large as there have been free identifiers at once.
func (s *ids) grow() {
	back := make([]uint16, min(max(2*len(s.back), 64), int(s.max)+1))
	for i := range s.count {
		back[i] = s.back[(s.first+i)%len(s.back)]
	}
	s.back, s.first = back, 0
}

// used reports whether id has ever been given out.
func (s *ids) used(id uint64) bool {
	return id <= s.max && (s.spent || id < s.next || id < s.last.Load())
}

// few reports whether an identifier that was given up must stay reserved.
func (s *ids) few() bool { return s.max < fewIDs }

// room reports whether another may be taken when so many are.
func (s *ids) room(taken int) bool {
	if s.max > ringIDs {
		return uint64(taken) <= s.max-s.max/8
	}
	return uint64(taken) <= s.max
}
