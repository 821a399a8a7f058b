package oracle

// The receiving side. As long as the bytes are those expected, a Checker only compares. From the first that is not, it
// keeps bytes back until it finds a whole word among them, which says where they come from; then it goes on from there.
// A piece out of place that is too short to hold a whole word (at most 14 bytes) counts as corrupt.

import (
	"fmt"
	"slices"
)

// Kind is what is wrong with a byte.
type Kind int

const (
	Lost         Kind = iota + 1 // bytes between those delivered are missing
	Doubled                      // bytes came again
	Misplaced                    // bytes came after some that they belong before
	Misdelivered                 // bytes are those of another stream
	Corrupt                      // bytes are nobody's
)

func (k Kind) String() string {
	return [...]string{"nothing", "lost", "doubled", "misplaced", "misdelivered", "corrupt"}[k]
}

// Violation is the first thing that is wrong with a stream. It is an error.
type Violation struct {
	Kind   Kind
	Stream uint32 // the stream that was expected
	At     uint64 // how many bytes had been delivered before
	Want   uint64 // the offset that was expected
	From   uint32 // the stream whose bytes came
	Offset uint64 // and their offset in it
}

func (v *Violation) Error() string {
	where := fmt.Sprintf("oracle: stream %d, after %d bytes delivered: offset %d was expected", v.Stream, v.At, v.Want)
	switch v.Kind {
	case Lost:
		return fmt.Sprintf("%s and %d came: %d bytes lost", where, v.Offset, v.Offset-v.Want)
	case Doubled:
		return fmt.Sprintf("%s and %d came again: up to %d bytes doubled", where, v.Offset, v.Want-v.Offset)
	case Misplaced:
		return fmt.Sprintf("%s and %d came, which had been missing: misplaced", where, v.Offset)
	case Misdelivered:
		return fmt.Sprintf("%s and offset %d of stream %d came: misdelivered", where, v.Offset, v.From)
	default:
		return where + " and bytes came that are of no stream: corrupt"
	}
}

// Result is what a Checker has found. Lost counts what is missing in front of the last byte that came; a stream that
// just ends early has lost nothing here, see [Checker.Whole].
type Result struct {
	Received                                        uint64
	Lost, Doubled, Misplaced, Misdelivered, Corrupt uint64
}

// run is a piece of the stream that was delivered without a break.
type run struct{ from, to uint64 }

// window is how many bytes are kept back to find a word in. It holds two words wherever they begin.
const window = 3*wordSize - 1

// Checker checks one stream. It is for one goroutine at a time.
type Checker struct {
	id    uint32
	known bool // id is; else it is that of the first word
	off   uint64
	got   uint64
	first *Violation

	// Only after something went wrong, or before id is known.
	lost    bool // where the bytes come from is being looked for, in held
	held    []byte
	foreign bool // bytes of another stream are coming: fid from foff on
	fid     uint32
	foff    uint64
	began   uint64 // the present run's first offset
	runs    []run  // those before it
	strange uint64 // bytes of other streams
	corrupt uint64
	start   [window]byte // held, until it has to grow
}

// NewChecker checks stream id.
func NewChecker(id uint32) *Checker { return &Checker{id: id, known: true} }

// NewAdopter checks whatever stream the first word belongs to.
func NewAdopter() *Checker {
	c := &Checker{lost: true}
	c.held = c.start[:0]
	return c
}

// ID is the stream's number and whether it is known yet.
func (c *Checker) ID() (uint32, bool) { return c.id, c.known }

// Received is how many bytes were given to Check.
func (c *Checker) Received() uint64 { return c.got }

// Offset is the offset in the stream of the byte that is expected next.
func (c *Checker) Offset() uint64 { return c.off }

// Check takes the next bytes that were delivered. It returns the first [Violation] of all that were, or nil. It may
// need up to 23 bytes more to find out; End does without.
func (c *Checker) Check(p []byte) error {
	c.got += uint64(len(p))
	if !c.known && c.first == nil {
		p = c.adopt(p)
	}
	if !c.lost && !c.foreign {
		n := Match(c.id, c.off, p)
		c.off += uint64(n)
		if n == len(p) {
			return c.Err()
		}
		p = p[n:]
		c.lose()
	}
	c.search(p, false)
	return c.Err()
}

// adopt takes what the first word still needs from p, and the stream's number from that word if it is one.
func (c *Checker) adopt(p []byte) []byte {
	n := min(max(0, wordSize-len(c.held)), len(p))
	c.held = append(c.held, p[:n]...)
	if len(c.held) == wordSize {
		if id, index, ok := decode(c.held); ok && index == 0 {
			c.id, c.known, c.lost = id, true, false
			c.off = wordSize
			c.drop(wordSize)
		}
	}
	return p[n:]
}

// End says that no more bytes come, and returns the first Violation.
func (c *Checker) End() error {
	c.search(nil, true)
	return c.Err()
}

// Whole is End for a stream of which nothing may be missing at its end: all of the bytes that were sent.
func (c *Checker) Whole(sent uint64) error {
	if err := c.End(); err != nil {
		return err
	}
	if c.got != sent {
		return fmt.Errorf("oracle: stream %d: %d bytes were sent and %d delivered: the last %d lost",
			c.id, sent, c.got, int64(sent-c.got))
	}
	return nil
}

// Err is the first Violation, or nil.
func (c *Checker) Err() error {
	if c.first == nil {
		return nil
	}
	return c.first
}

// Result counts what was wrong.
func (c *Checker) Result() Result {
	r := Result{Received: c.got, Misdelivered: c.strange, Corrupt: c.corrupt}
	var seen []run // sorted, apart
	var top uint64
	for _, piece := range append(slices.Clone(c.runs), run{c.began, c.off}) {
		if piece.to == piece.from {
			continue
		}
		fresh := piece.to - piece.from
		for _, s := range seen {
			if from, to := max(s.from, piece.from), min(s.to, piece.to); from < to {
				fresh -= to - from
			}
		}
		r.Doubled += piece.to - piece.from - fresh
		if piece.from < top {
			// What is new in front of the furthest byte is late.
			behind := min(piece.to, top) - piece.from
			for _, s := range seen {
				if from, to := max(s.from, piece.from), min(s.to, piece.to, top); from < to {
					behind -= to - from
				}
			}
			r.Misplaced += behind
		}
		top = max(top, piece.to)
		seen = union(append(seen, piece))
	}
	r.Lost = top
	for _, s := range seen {
		r.Lost -= s.to - s.from
	}
	return r
}

func union(runs []run) []run {
	slices.SortFunc(runs, func(a, b run) int {
		if a.from < b.from {
			return -1
		}
		return 1
	})
	out := runs[:1]
	for _, r := range runs[1:] {
		if last := &out[len(out)-1]; r.from <= last.to {
			last.to = max(last.to, r.to)
		} else {
			out = append(out, r)
		}
	}
	return out
}

func (c *Checker) lose() {
	c.lost, c.foreign = true, false
	if c.held == nil {
		c.held = c.start[:0]
	}
}

// search places the bytes held and p, as far as it can.
func (c *Checker) search(p []byte, last bool) {
	c.held = append(c.held, p...)
	for len(c.held) > 0 {
		switch {
		case c.foreign:
			n := Match(c.fid, c.foff, c.held)
			c.foff += uint64(n)
			c.strange += uint64(n)
			c.drop(n)
			if len(c.held) > 0 {
				c.lose()
			}
		case !c.lost:
			n := Match(c.id, c.off, c.held)
			c.off += uint64(n)
			c.drop(n)
			if len(c.held) > 0 {
				c.lose()
			}
		case !c.place(last):
			return
		}
	}
}

func (c *Checker) drop(n int) {
	c.held = c.held[:copy(c.held, c.held[n:])]
}

// place looks for a word in what is held. It reports false when it needs more to look at.
func (c *Checker) place(last bool) bool {
	if len(c.held) < window && !last {
		return false
	}
	for at := 0; at+wordSize <= len(c.held); at++ {
		id, index, ok := decode(c.held[at:])
		if !ok || (!c.known || id != c.id) && !c.confirmed(id, index, at) {
			continue
		}
		// Back to where this run begins.
		offset, from := index*wordSize, at
		for from > 0 && offset > 0 && Match(id, offset-1, c.held[from-1:from]) == 1 {
			offset, from = offset-1, from-1
		}
		if from > 0 {
			c.note(Corrupt, 0, 0, 0)
			c.corrupt += uint64(from)
		}
		if !c.known {
			c.id, c.known = id, true
		}
		c.follow(id, offset, from)
		c.drop(from)
		return true
	}
	if last && c.known && Match(c.id, c.off, c.held) == len(c.held) {
		c.lost = false // a few bytes that are in their place, behind some that were not
		return true
	}
	if last && !c.known && len(c.held) < wordSize {
		return false // too few to say whose they are
	}
	c.note(Corrupt, 0, 0, 0)
	c.corrupt++
	c.drop(1)
	return true
}

// confirmed reports whether the word at is followed by another of its stream, as far as can be seen.
func (c *Checker) confirmed(id uint32, index uint64, at int) bool {
	rest := c.held[at+wordSize:]
	rest = rest[:min(len(rest), wordSize)]
	return len(rest) >= 3 && Match(id, (index+1)*wordSize, rest) == len(rest)
}

// follow goes on with stream id at offset, which is held[from].
func (c *Checker) follow(id uint32, offset uint64, from int) {
	c.lost = false
	if id != c.id {
		c.foreign, c.fid, c.foff = true, id, offset
		c.note(Misdelivered, id, offset, from)
		return
	}
	if offset == c.off {
		return
	}
	kind := Lost
	if offset < c.off {
		kind = Misplaced
		for _, r := range append(c.runs, run{c.began, c.off}) {
			if r.from <= offset && offset < r.to {
				kind = Doubled
			}
		}
	}
	c.note(kind, id, offset, from)
	c.runs = append(c.runs, run{c.began, c.off})
	c.began, c.off = offset, offset
}

// note keeps the first violation.
func (c *Checker) note(kind Kind, id uint32, offset uint64, from int) {
	if c.first == nil {
		c.first = &Violation{
			Kind: kind, Stream: c.id, At: c.got - uint64(len(c.held)) + uint64(from), Want: c.off,
			From: id, Offset: offset,
		}
	}
}
