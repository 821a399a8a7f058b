package plex

// Streams of what arrives. Everything that such a stream has read is at any moment in one of three
// places: taken by the consumer, in the channel, or in the goroutine's hands. When it ends, the
// goroutine puts what it has in hand into half.back and leaves half.reclaim to fetch what is in the
// channel; the next to use the half, or the end of the lease, does so. So nothing is lost, nothing
// is there twice, and the order is kept: the channel's part is older.

import (
	"bytes"
	"io"
	"sync"
)

// Buffers are reused, since a consumer may start a stream for each message. Whatever one Read may
// bring fits: a datagram of a Unix socket may be larger than others.
var (
	byteBuffers     = sync.Pool{New: func() any { b := make([]byte, byteBuffer); return &b }}
	datagramBuffers = sync.Pool{New: func() any { b := make([]byte, unixDatagram); return &b }}
)

// buffers returns the pool of buffers for what c delivers.
func (c *conn) buffers() *sync.Pool {
	if c.kind.Datagram() && !c.kind.Connectionless() {
		return &datagramBuffers
	}
	return &byteBuffers
}

// recvBytes reads into ch until the stream ends.
func (s *stream) recvBytes(ch chan byte) {
	h := s.h
	buffers := h.conn.buffers()
	pooled := buffers.Get().(*[]byte)
	buf := *pooled
	var err error
	defer func() { // also if the transport ends the goroutine
		buffers.Put(pooled)
		h.reclaim = func() [][]byte {
			if left := drainBytes(ch); len(left) > 0 {
				return [][]byte{left}
			}
			return nil
		}
		s.endRecv(err)
		close(ch)
	}()
	for err == nil && !s.isHalted() {
		var n int
		n, err = h.read(buf)
		if sent := s.deliverBytes(ch, buf[:n]); sent < n {
			h.pushBack(bytes.Clone(buf[sent:n]))
			break
		}
	}
}

// deliverBytes sends p, byte by byte, and returns how many it could send before the stream was
// halted.
func (s *stream) deliverBytes(ch chan<- byte, p []byte) int {
	for i, b := range p {
		select { // cheaper than the other select while there is room
		case ch <- b:
			continue
		default:
		}
		select {
		case ch <- b:
		case <-s.halted:
			return i
		}
	}
	return len(p)
}

// recvChunks reads chunks of at most size bytes into ch until the stream ends.
func (s *stream) recvChunks(ch chan []byte, size int) {
	h := s.h
	var (
		err error
		buf []byte
	)
	defer func() { // also if the transport ends the goroutine
		h.reclaim = func() [][]byte { return drainChunks(ch) }
		s.endRecv(err)
		close(ch)
	}()
	for err == nil && !s.isHalted() {
		if buf == nil {
			buf = make([]byte, size)
		}
		var n int
		n, err = h.read(buf)
		if n == 0 && (err != nil || !h.conn.kind.Datagram()) {
			continue
		}
		// A chunk is the receiver's. A small one gets memory of its size, so that it does not keep
		// a large one's.
		chunk := buf[:n:n]
		if n <= size/2 {
			chunk = bytes.Clone(chunk)
			if chunk == nil {
				chunk = []byte{} // an empty datagram
			}
		} else {
			buf = nil
		}
		if !s.deliverChunk(ch, chunk) {
			h.pushBack(chunk)
			break
		}
	}
}

func (s *stream) deliverChunk(ch chan<- []byte, chunk []byte) bool {
	select {
	case ch <- chunk:
		return true
	default:
	}
	select {
	case ch <- chunk:
		return true
	case <-s.halted:
		return false
	}
}

// endRecv ends a read stream. io.EOF is a clean end.
func (s *stream) endRecv(err error) {
	switch err {
	case io.EOF:
		err = nil
	case nil:
		err = s.h.conn.failure() // of a transport that has ended the goroutine
	}
	s.h.set(dataLeft) // so that the end of the lease cannot overlook reclaim
	s.h.endStream(s, err)
}

// drainBytes takes what ch holds. It is called when nobody sends any more.
func drainBytes(ch <-chan byte) (left []byte) {
	for {
		select {
		case b, ok := <-ch:
			if !ok {
				return left
			}
			left = append(left, b)
		default:
			return left
		}
	}
}

func drainChunks(ch <-chan []byte) (left [][]byte) {
	for {
		select {
		case chunk, ok := <-ch:
			if !ok {
				return left
			}
			left = append(left, chunk)
		default:
			return left
		}
	}
}

// pushBack keeps p, which was read and not delivered, for the next read. It was the last to be
// read, but what else is in back came after it: read gives from back first.
func (h *half) pushBack(p []byte) {
	h.back = append([][]byte{p}, h.back...)
	h.set(dataLeft)
}

// takeBack fetches what the last stream left in its channel.
func (h *half) takeBack() {
	if h.reclaim == nil {
		return
	}
	h.back = append(h.reclaim(), h.back...)
	h.reclaim = nil
	h.noteLeft()
}

// noteLeft makes the flag say what is there.
func (h *half) noteLeft() {
	if len(h.back) == 0 {
		h.back = nil
	}
	if h.back != nil || h.refusal != nil {
		h.set(dataLeft)
	} else {
		h.unset(dataLeft)
	}
}

// takeRefusal returns what a look has been told, as that a datagram was refused, once.
func (h *half) takeRefusal() error {
	err := h.refusal
	h.refusal = nil
	h.noteLeft()
	return err
}

// readBack moves what was pushed back into p. A message keeps its boundaries.
func (h *half) readBack(p []byte) (n int) {
	if len(p) == 0 {
		return 0 // as from the transport: no datagram is taken
	}
	if h.conn.kind.Datagram() {
		n = copy(p, h.back[0]) // what does not fit is lost, as with any datagram
		h.back = h.back[1:]
	} else {
		for n < len(p) && len(h.back) > 0 {
			k := copy(p[n:], h.back[0])
			n += k
			if h.back[0] = h.back[0][k:]; len(h.back[0]) == 0 {
				h.back = h.back[1:]
			}
		}
	}
	if len(h.back) == 0 {
		h.noteLeft()
	}
	return n
}
