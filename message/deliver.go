package message

// What an iteration does with a connection that it holds: read once, and deliver the whole
// messages.

import (
	"errors"
	"io"
	"os"
	"sync"
)

const (
	// bufferSize is how much is read at a time. A lease reads once, because a second Read might
	// find nothing and block, and then it is the turn of others. So this is large enough to make
	// the lease cheap beside the Read.
	bufferSize = 256 << 10

	// datagramSize is how much is read of a datagram. Any UDP datagram fits, and plex itself keeps
	// no more.
	datagramSize = 64 << 10
)

// buffers are for iterations that hold a connection.
var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// serve delivers what there is from a connection, and puts it back. It reports false if the loop
// was left.
func (it *iteration) serve(h *hand) (more bool) {
	defer it.putBack(h) // also if the loop body panics
	if h.report != nil {
		h.finished = true // when it was found: nothing follows it
		return it.tell(h, h.report)
	}
	if (h.whole || !h.leased) && !it.deliver(h) {
		return false
	}
	// What has ended may be a datagram that was left over. The next datagram is for the next lease.
	if !h.leased || h.kill || h.cause != nil {
		return true
	}
	fresh, refusal := it.read(h)
	switch {
	case refusal != nil:
		return it.tell(h, refusal)
	case fresh:
		return it.deliver(h)
	default:
		return true
	}
}

// putBack ends the holding of a connection.
func (it *iteration) putBack(h *hand) {
	defer it.putBackSettled(h) // also if what Settled does ends the goroutine
	it.intake.Settled()
}

// putBackSettled is the rest of putBack.
func (it *iteration) putBackSettled(h *hand) {
	if h.asking { // the split function has ended this goroutine, and would end the next one as well
		h.giveUp()
		h.report = &SplitError{Conn: h.conn, Err: errExited}
	}
	it.r.putBack(it, h) // which copies what is left in the buffer
	if it.buf != nil {
		buffers.Put(it.buf)
		it.buf = nil
	}
}

// read reads once, behind the data that is there. fresh says that there is something new. refusal
// is an error that only concerns an earlier datagram; the connection goes on.
func (it *iteration) read(h *hand) (fresh bool, refusal error) {
	h.datagram = h.conn.Datagram()
	buf, have := it.room(h), len(h.data)
	if it.flags.Or(reading)&(stopped|killed) != 0 {
		it.flags.And(^reading)
		return false, nil
	}
	n, err := h.lease.Read(buf[have:])
	if it.flags.And(^reading)&stopped != 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		return false, nil // interrupted, which loses nothing
	}
	switch {
	case h.datagram && err != nil:
		if err == io.EOF || h.lease.Err() != nil {
			return false, nil // the connection has ended, which cuts nothing off
		}
		return false, &DatagramError{Conn: h.conn, Err: err}
	case h.datagram:
		h.atEOF, h.cause = true, io.EOF
	case n == 0 && err == nil:
		return false, nil
	default:
		// Without a deadline, any error is the end of the connection.
		h.atEOF, h.cause = err == io.EOF, err
	}
	h.data, h.whole = buf[:have+n], true
	return true, nil
}

// room returns memory that begins with the data and has room behind it.
func (it *iteration) room(h *hand) []byte {
	if len(h.data) > bufferSize/2 {
		return it.r.grow(h)
	}
	it.buf = buffers.Get().(*[bufferSize]byte)
	copy(it.buf[:], h.data)
	if h.datagram {
		return it.buf[:datagramSize]
	}
	return it.buf[:]
}

// grow returns the leftover's memory, which holds the data, with room behind it. There always is
// room: data without a whole message is shorter than the limit.
func (r *Receiver) grow(h *hand) []byte {
	have, limit := len(h.data), r.maxSize+framing
	if room := cap(h.data) - have; room < min(have/4, limit-have) {
		data := make([]byte, have, min(2*have, limit))
		copy(data, h.data)
		h.data, h.left.data = data, data
	}
	return h.data[:cap(h.data)]
}

// deliver delivers the whole messages in the data, and after the end what is wrong with the rest.
// It reports false if the loop was left.
func (it *iteration) deliver(h *hand) (more bool) {
	if h.datagram && len(h.data) == datagramSize { // there may have been more
		return it.fail(h, &TooLongError{Conn: h.conn, Size: datagramSize, Max: datagramSize - 1})
	}
	if h.refused != nil && it.flags.Load()&(stopped|killed) == 0 {
		if more := it.offerAgain(h); !more || h.kill || h.finished {
			return more
		}
	}
	for len(h.data) > 0 || h.atEOF {
		if it.flags.Load()&(stopped|killed) != 0 {
			return true // next, or putBack, acts on it
		}
		h.asking = true
		advance, token, final, err := it.r.ask(h)
		h.asking = false
		switch {
		case err != nil:
			return it.fail(h, err)
		case token == nil && advance == 0 && !final: // it wants more
			return it.deliverRest(h)
		}
		last := final || advance == 0
		if more := it.handOver(h, advance, token, last); last || !more {
			return more
		}
	}
	return it.deliverRest(h)
}

// handOver advances, and delivers the message if there is one.
func (it *iteration) handOver(h *hand, advance int, token []byte, last bool) (more bool) {
	// What comes after this message is decided before it is delivered, because the loop body may
	// panic.
	before := h.data
	h.data = h.data[advance:]
	if last {
		h.giveUp()
	}
	if token == nil {
		return true
	}
	if !it.intake.Lend {
		data := make([]byte, len(token))
		copy(data, token)
		token = data
	}
	if it.yield(Message{token, h.conn}, nil) {
		return true
	}
	if it.refused != nil && *it.refused {
		h.finished, h.kill = false, false
		if it.r.splitFor == nil {
			h.data = before
		} else { // a function that keeps state must not get it again
			h.data, h.refused, h.last = before[advance:], token, last
		}
	}
	return false
}

// offerAgain delivers a message that a loop did not take.
func (it *iteration) offerAgain(h *hand) (more bool) {
	token, last, rest := h.refused, h.last, h.data
	h.refused = nil
	if last {
		h.giveUp()
	}
	if it.yield(Message{token, h.conn}, nil) {
		return true
	}
	if it.refused != nil && *it.refused {
		h.data, h.refused, h.finished, h.kill = rest, token, false, false
	}
	return false
}

// deliverRest deals with data that contains no whole message.
func (it *iteration) deliverRest(h *hand) (more bool) {
	h.whole = false
	switch {
	case h.cause != nil && len(h.data) > 0:
		return it.fail(h, cut(&h.backlog, io.ErrUnexpectedEOF))
	case h.cause != nil:
		h.finished = true
	case len(h.data) >= it.r.maxSize+framing:
		return it.fail(h, &TooLongError{Conn: h.conn, Size: uint64(len(h.data)), Max: it.r.maxSize})
	}
	return true
}

// fail reports what is wrong with the data, and gives up the rest of it and the connection. Of a
// datagram connection it gives up the datagram alone.
func (it *iteration) fail(h *hand, err error) (more bool) {
	h.giveUp()
	if h.kill {
		h.conn.Kill() // now, not when the loop body is done
	}
	return it.tell(h, err)
}

// tell delivers an error about a connection.
func (it *iteration) tell(h *hand, err error) (more bool) {
	h.report = nil
	if it.yield(Message{Conn: h.conn}, err) {
		return true
	}
	if it.refused != nil && *it.refused {
		h.report = err
	}
	return false
}
