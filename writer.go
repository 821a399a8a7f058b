package plex

import (
	"context"
	"net"
	"time"
)

// Writer is a lease on the write half of some connection. It is a small value: copies are the same
// lease. The zero Writer is a lease that has ended.
//
// All methods may be called from several goroutines. Concurrent Writes take turns, each whole, in
// no particular order. After Close or Kill a Writer never reaches the connection again, though the
// half may be someone else's by then: its methods return ErrLeaseClosed.
type Writer struct {
	h  *half
	id word
}

// Write writes p to the connection, as [net.Conn] does. That it returned no error means that the
// operating system has taken p, not that it will arrive.
//
// If it returns n < len(p), part of p may be on its way. A deadline of this lease is no fault of
// the connection, but unless a later Write of the lease is whole, a connection whose last write was
// cut short is dropped when the lease ends: another consumer's message would be read as the rest.
// On TLS a missed write deadline loses the connection at once.
//
// Errors are those of Reader.Read, without io.EOF.
func (w Writer) Write(p []byte) (n int, err error) {
	h := w.h
	if h == nil || !h.state.CompareAndSwap(uint64(w.id|leaseLive), uint64(w.id|leaseLive|leaseBusy)) {
		return w.writeSlow(p)
	}
	// No flag is set: the lease's last message is not torn. See Reader.Read.
	c, returned := h.conn, false
	defer func() {
		if !returned {
			n, err = 0, c.crashed("Write", recover())
		}
		h.leave(w.id)
	}()
	n, err = c.nc.Write(p)
	returned = true
	if err != nil || n != len(p) {
		n, err = c.saneWrite(n, len(p), err)
		err = h.afterWrite(p, n, err)
	}
	return n, err
}

// writeSlow is Write when there is more to it.
func (w Writer) writeSlow(p []byte) (int, error) {
	if w.h == nil {
		return 0, ErrLeaseClosed
	}
	if err := w.h.enter(w.id); err != nil {
		return 0, err
	}
	defer w.h.leave(w.id) // also if the transport ends the goroutine
	return w.h.write(p)
}

// Send streams what is sent on the channel, which holds buffer bytes, to the connection. Nothing
// waits for a buffer to fill: what was sent is written as soon as the channel is empty for a
// moment. SendChunks is for more than some 20 MB/s.
//
// Closing the channel writes the rest and ends the stream; then the lease can be used again. The
// lease's Close also writes what was sent before it was called, and then returns an UnsentError if
// not all could be written; a write deadline bounds how long that may take, and Kill abandons it.
// When ctx ends, the Write under way is interrupted and what is not written is counted in the
// UnsentError that Err and Close return.
//
// A sender that only sends and then closes the channel never hangs because the stream has ended
// meanwhile: what it sends is dropped, until it closes the channel or, once the lease is closed, is
// silent for some seconds. A sender that wants to know sooner selects on Done.
//
// Errors are those of Reader.Recv.
func (w Writer) Send(ctx context.Context, buffer int) (chan<- byte, error) {
	var ch chan byte
	err := w.h.startStream(ctx, w.id, "Send", buffer,
		func() { ch = make(chan byte, buffer) },
		func(s *stream) { s.sendBytes(ch) })
	if err != nil {
		return nil, err
	}
	return ch, nil
}

// SendChunks is Send for chunks of bytes. Small chunks are gathered to writes of at most size
// bytes, or 64 KiB if size is 0; a larger chunk is one write. On a datagram connection each chunk
// is one datagram. A chunk that was sent belongs to the stream and must not be changed.
func (w Writer) SendChunks(ctx context.Context, size int) (chan<- []byte, error) {
	var ch chan []byte
	err := w.h.startStream(ctx, w.id, "SendChunks", size,
		func() { ch = make(chan []byte, chunkQueue) },
		func(s *stream) { s.sendChunks(ch, w.h.chunkSize(size)) })
	if err != nil {
		return nil, err
	}
	return ch, nil
}

// SetWriteDeadline sets the deadline of this lease's Write and streams, blocked ones included, and
// of the writing that Close may have to do; the zero time means none. It ends with the lease.
func (w Writer) SetWriteDeadline(t time.Time) error {
	if w.h == nil {
		return ErrLeaseClosed
	}
	return w.h.consumerDeadline(w.id, t)
}

// Done returns a channel that is closed when the lease can send no more: it has been closed or
// killed, or its connection has failed.
func (w Writer) Done() <-chan struct{} {
	if w.h == nil {
		return closedChannel
	}
	return w.h.doneChannel(w.id)
}

// Err says why the lease's last stream ended, or why the connection has failed: nil while all is
// well and after a clean end, an UnsentError if a stream of the lease could not write all that was
// sent, the error of the stream's ctx, or the first error that the connection had. It may also be
// asked after Close.
func (w Writer) Err() error {
	if w.h == nil {
		return ErrLeaseClosed
	}
	return w.h.err(w.id)
}

// LocalAddr returns the local address of the connection, also after the lease has ended; nil for
// the zero Writer.
func (w Writer) LocalAddr() net.Addr { return w.h.localAddr() }

// RemoteAddr returns the remote address of the connection, also after the lease has ended; nil for
// the zero Writer.
func (w Writer) RemoteAddr() net.Addr { return w.h.remoteAddr() }

// Close ends the lease and puts the half back for the next. It may be called at any moment: it
// interrupts this lease's blocked Write, writes what its stream has accepted, and waits until both
// are out. It returns an UnsentError if a stream of the lease could not write all. A second Close
// does nothing but return ErrLeaseClosed.
func (w Writer) Close() error {
	if w.h == nil {
		return ErrLeaseClosed
	}
	return w.h.close(w.id)
}

// Kill ends the lease and the connection with it, both halves, and abandons what a stream has not
// written, also while a Close of this lease waits for it. The connection is closed and counts as
// lost. After the lease's end Kill does nothing but return ErrLeaseClosed.
func (w Writer) Kill() error {
	if w.h == nil {
		return ErrLeaseClosed
	}
	return w.h.kill(w.id)
}
