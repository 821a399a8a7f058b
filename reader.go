package plex

import (
	"context"
	"net"
	"time"
)

// Reader is a lease on the read half of some connection. It is a small value: copies are the same
// lease. The zero Reader is a lease that has ended.
//
// All methods may be called from several goroutines. Concurrent Reads take turns, in no particular
// order. After Close or Kill a Reader never reaches the connection again, though the half may be
// someone else's by then: its methods return ErrLeaseClosed.
type Reader struct {
	h  *half
	id word
}

// Read reads from the connection, as [net.Conn] does: what an earlier lease left over comes first.
// On a datagram connection one Read is one datagram, what does not fit into p is lost, and n == 0
// without an error is an empty datagram.
//
// It returns io.EOF when the peer has sent all that it will send, an error that matches
// os.ErrDeadlineExceeded when a deadline of this lease passes, ErrLeaseClosed when the lease is
// closed meanwhile, and ErrStreaming while a stream runs. Any other error is the connection's: it
// is lost, and both its halves report the first error that it had.
func (r Reader) Read(p []byte) (n int, err error) {
	h := r.h
	if h == nil || !h.state.CompareAndSwap(uint64(r.id|leaseLive), uint64(r.id|leaseLive|leaseBusy)) {
		return r.readSlow(p)
	}
	// No flag is set: nothing was read before, and the end has not been seen. The transport is
	// called from here, as each frame below a system call costs on the way back. See conn.readOnce.
	c, returned := h.conn, false
	defer func() {
		if !returned {
			n, err = 0, c.crashed("Read", recover())
		}
		h.leave(r.id)
	}()
	n, err = c.nc.Read(p)
	returned = true
	if err != nil || uint(n) > uint(len(p)) || !c.delivered.Load() {
		n, err = c.saneRead(n, len(p), err)
		err = h.afterRead(n, err)
	}
	return n, err
}

// readSlow is Read when there is more to it.
func (r Reader) readSlow(p []byte) (int, error) {
	if r.h == nil {
		return 0, ErrLeaseClosed
	}
	if err := r.h.enter(r.id); err != nil {
		return 0, err
	}
	defer r.h.leave(r.id) // also if the transport ends the goroutine
	return r.h.read(p)
}

// Recv streams what arrives, byte by byte, into a channel that holds buffer bytes. Some 20 MB/s
// pass through such a channel; RecvChunks is for more.
//
// The stream goes on until ctx ends, the lease is closed or killed, or the connection has no more
// to give; then the channel is closed and Err says why. What was read and not taken from the
// channel is not lost: the next Read or stream of this lease gives it first, and Close puts it back
// for the next lease. After ctx has ended the channel can still be emptied, as long as neither has
// happened. Close and a consumer that goes on receiving meanwhile share what is in the channel:
// each byte goes to one of them, but what the consumer gets then may have gaps, so stop receiving
// before closing the lease.
//
// A connection takes part in one stream at a time: Read and a second stream return ErrStreaming
// meanwhile. A consumer that stops receiving without ending ctx or the lease stops the stream, and
// nothing else. Errors: ErrLeaseClosed, ErrStreaming, the ctx's error if it has ended, the error of
// a connection that has failed, and one for a negative buffer or a nil ctx.
func (r Reader) Recv(ctx context.Context, buffer int) (<-chan byte, error) {
	var ch chan byte
	err := r.h.startStream(ctx, r.id, "Recv", buffer,
		func() { ch = make(chan byte, buffer) },
		func(s *stream) { s.recvBytes(ch) })
	if err != nil {
		return nil, err
	}
	return ch, nil
}

// RecvChunks is Recv in chunks of at most size bytes, or 64 KiB if size is 0. A chunk has what had
// arrived when it was read, at least one byte; on a datagram connection it is one datagram, which
// may be empty, and of which what is beyond size is lost. The chunk belongs to the receiver.
func (r Reader) RecvChunks(ctx context.Context, size int) (<-chan []byte, error) {
	var ch chan []byte
	err := r.h.startStream(ctx, r.id, "RecvChunks", size,
		func() { ch = make(chan []byte, chunkQueue) },
		func(s *stream) { s.recvChunks(ch, r.h.chunkSize(size)) })
	if err != nil {
		return nil, err
	}
	return ch, nil
}

// SetReadDeadline sets the deadline of this lease's Read and streams, blocked ones included; the
// zero time means none. A Read that misses it loses nothing and says nothing about the connection.
// The deadline ends with the lease.
func (r Reader) SetReadDeadline(t time.Time) error {
	if r.h == nil {
		return ErrLeaseClosed
	}
	return r.h.consumerDeadline(r.id, t)
}

// Err says why the lease's last stream ended, or why the connection has failed: nil while all is
// well and after a clean end by io.EOF or by Close, the error of the stream's ctx, or the first
// error that the connection had. It may also be asked after Close.
func (r Reader) Err() error {
	if r.h == nil {
		return ErrLeaseClosed
	}
	return r.h.err(r.id)
}

// LocalAddr returns the local address of the connection, also after the lease has ended; nil for
// the zero Reader.
func (r Reader) LocalAddr() net.Addr { return r.h.localAddr() }

// RemoteAddr returns the remote address of the connection, also after the lease has ended; nil for
// the zero Reader.
func (r Reader) RemoteAddr() net.Addr { return r.h.remoteAddr() }

// Close ends the lease and puts the half back for the next. It may be called at any moment: it
// interrupts this lease's blocked Read, halts its stream, and waits until they are out. A second
// Close does nothing but return ErrLeaseClosed.
func (r Reader) Close() error {
	if r.h == nil {
		return ErrLeaseClosed
	}
	return r.h.close(r.id)
}

// Kill ends the lease and the connection with it, both halves: for a consumer that has found the
// connection to be of no use, such as out of step. It is closed and counts as lost. After the
// lease's end Kill does nothing but return ErrLeaseClosed.
func (r Reader) Kill() error {
	if r.h == nil {
		return ErrLeaseClosed
	}
	return r.h.kill(r.id)
}

// chunkSize is the size of chunks that a caller asked for.
func (h *half) chunkSize(size int) int {
	switch {
	case size > 0:
		return size
	case h.conn.kind.Datagram() && !h.conn.kind.Connectionless():
		return unixDatagram
	}
	return defaultChunk
}

func (h *half) localAddr() net.Addr {
	if h == nil {
		return nil
	}
	return h.conn.nc.LocalAddr()
}

func (h *half) remoteAddr() net.Addr {
	if h == nil {
		return nil
	}
	return h.conn.remote
}
