package main

// Consumers that write, in every way that there is.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/oracle"
)

// writing is a write lease.
type writing struct {
	plex.Writer
	c        *consumer
	l        *link
	accepted uint64 // by a stream of the lease; it has one at most, and nothing is written after it
	short    bool   // the last write was cut short
	over     bool   // the connection takes no more
	once     sync.Once
	killed   bool
	err      error // of Close
}

func (c *consumer) writers() {
	c.leases(func() bool {
		w, ok := acquire(c, "writer", c.pool.Writer)
		if !ok {
			return false
		}
		l := linkOf(w)
		l.write.begin(c.s, l, "write")
		l.log.add("writer leased")
		c.callback(w.Conn())
		c.write(&writing{Writer: w, c: c, l: l})
		return true
	})
}

// write uses one lease and ends it.
func (c *consumer) write(w *writing) {
	l, whole := w.l, false
	defer func() {
		if !whole { // the transport has ended the goroutine
			w.end("closed late", w.Close)
			l.write.turn.Unlock()
		}
	}()
	w.deadline(500*time.Microsecond + c.moment(10*time.Millisecond))
	way := c.rng.IntN(10)
	if c.p.life.short() && !c.chance(20) {
		way = briefly
	}
	switch way {
	case briefly:
		w.writeSome(1 + c.rng.IntN(8<<10))
	case 5:
		c.s.sums.consumer[pastDeadline].Add(1)
		w.deadline(-time.Second)
		w.write()
		w.deadline(10 * time.Millisecond)
		w.writes(2)
	case 6:
		w.closeInUse(func() {
			w.deadline(time.Second)
			for !w.over {
				w.write()
			}
		})
	case 7, 9:
		w.stream(context.Background())
	case 8:
		c.s.sums.consumer[cancelStream].Add(1)
		ctx, cancel := context.WithTimeout(context.Background(), c.moment(500*time.Microsecond))
		w.stream(ctx)
		cancel()
	default:
		w.writes(1 + c.rng.IntN(10))
	}
	w.endSomehow()
	if w.short {
		l.hurt.Store(true)
	}
	whole = true
	l.write.turn.Unlock()
	if c.chance(50) {
		w.stale()
	}
}

// endSomehow closes the lease, or kills it.
func (w *writing) endSomehow() {
	if !w.c.killing() {
		w.end("closed", w.Close)
		return
	}
	w.end("killed", func() error {
		w.l.hurt.Store(true)
		w.killed = true
		w.c.s.sums.consumer[kill].Add(1)
		return w.Kill()
	})
}

// end ends the lease, unless that has been done.
func (w *writing) end(what string, how func() error) {
	w.once.Do(func() {
		w.l.write.leased.Store(false)
		w.err = w.c.s.endLease(w.l, "writer "+what, how)
		w.l.log.note("writer "+what, -1, w.err)
		var unsent *plex.UnsentError
		if w.err != nil && !errors.As(w.err, &unsent) {
			w.c.s.fail(w.l, errors.Join(errors.New("a write lease was "+what), w.err))
		}
	})
}

// settle counts what the lease's stream has written, when the lease has ended.
func (w *writing) settle() {
	err := w.err
	if w.killed {
		err = w.Err()
	}
	var unsent *plex.UnsentError
	var missing uint64
	if errors.As(err, &unsent) {
		missing = uint64(unsent.Unsent)
	}
	if missing > w.accepted {
		w.c.s.fail(w.l, fmt.Errorf("a stream that took %d bytes has not written %d", w.accepted, missing))
		missing = w.accepted
	}
	if missing > 0 {
		w.l.hurt.Store(true) // perhaps in the middle of a chunk
	}
	w.l.log.note("wrote by a stream", int(w.accepted-missing), err)
	w.l.out.Wrote(int(w.accepted - missing))
}

func (w *writing) deadline(d time.Duration) {
	if err := w.SetWriteDeadline(time.Now().Add(d)); err != nil && w.l.closes.Load() == 0 && !errors.Is(err, plex.ErrLeaseClosed) && !errors.Is(err, errCrash) {
		w.c.s.fatal(w.l, err)
	}
}

func (w *writing) writes(n int) {
	for range n {
		if w.over {
			return
		}
		w.write()
	}
	if w.short && w.c.chance(2) { // the rest of the message
		w.over = false
		w.deadline(20 * time.Millisecond)
		w.write()
	}
}

// write writes once.
func (w *writing) write() {
	size := 64 << 10
	if w.c.chance(3) {
		size = 1 + w.c.rng.IntN(size)
	}
	w.writeSome(size)
}

func (w *writing) writeSome(size int) {
	p := w.c.buf[:size]
	w.l.out.Fill(p)
	n, err := w.Write(p)
	w.l.log.note("wrote", n, err)
	w.l.out.Wrote(n)
	w.short = n > 0 && n < size || n == 0 && w.short
	w.l.write.torn.Store(w.short) // nobody looks until the lease has ended
	if n < size && err == nil {
		w.c.s.fail(w.l, io.ErrShortWrite)
	}
	if err != nil {
		w.ended(err)
	}
}

func (w *writing) ended(err error) {
	w.over = true
	if !errors.Is(err, plex.ErrLeaseClosed) && !missed(err) {
		w.c.s.fatal(w.l, err)
	}
}

// closeInUse has the lease closed at a random moment while it is used.
func (w *writing) closeInUse(use func()) {
	w.c.s.sums.consumer[closeInUse].Add(1)
	var wg sync.WaitGroup
	after := w.c.moment(300 * time.Microsecond)
	wg.Go(func() {
		time.Sleep(after)
		w.end("closed in use", w.Close)
	})
	use()
	wg.Wait()
}

// stream sends on a stream until its ctx ends, the lease can send no more, or it has sent enough.
func (w *writing) stream(ctx context.Context) {
	base := w.l.out.Sent()
	id := w.l.out.ID()
	done := w.Done()
	if w.c.chance(4) {
		ch, err := w.Send(ctx, w.c.rng.IntN(1000))
		if !w.started(ctx, err) {
			return
		}
		p := w.c.buf[:1+w.c.rng.IntN(2000)]
		oracle.Fill(id, base, p)
	bytes:
		for _, b := range p {
			select {
			case ch <- b:
				w.accepted++
			case <-done:
				break bytes
			}
		}
		w.letGo(func() { close(ch) })
		return
	}
	ch, err := w.SendChunks(ctx, []int{0, 100, 4 << 10, 256 << 10}[w.c.rng.IntN(4)])
	if !w.started(ctx, err) {
		return
	}
	size := []int{10, 1000, 32 << 10}[w.c.rng.IntN(3)]
chunks:
	for range 1 + w.c.rng.IntN(100) {
		p := make([]byte, 1+w.c.rng.IntN(size))
		oracle.Fill(id, base+w.accepted, p)
		select {
		case ch <- p:
			w.accepted += uint64(len(p))
		case <-done:
			break chunks
		}
	}
	w.letGo(func() { close(ch) })
}

func (w *writing) started(ctx context.Context, err error) bool {
	if err == nil {
		return true
	}
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, plex.ErrClosed): // the pool starts no more, whatever the connection has died of
		w.over = true
	default:
		w.ended(err)
	}
	return false
}

// letGo ends the stream before the lease or after it, as good senders do, or never, as others do; and then the lease,
// so that what was written is known.
func (w *writing) letGo(closeChannel func()) {
	when := w.c.rng.IntN(10)
	if when < 5 {
		closeChannel()
	}
	w.endSomehow()
	if when >= 5 && when < 9 {
		closeChannel()
	}
	w.settle()
	w.over = true
}

// stale uses the lease after its end.
func (w *writing) stale() {
	s, l := w.c.s, w.l
	s.sums.consumer[staleHandle].Add(1)
	_, err := w.Write([]byte("stale"))
	w.c.inert(l, "Write", err)
	_, err = w.SendChunks(context.Background(), 0)
	w.c.inert(l, "SendChunks", err)
	w.c.inert(l, "SetWriteDeadline", w.SetWriteDeadline(time.Unix(1, 0)))
	w.c.inert(l, "Close", w.Close())
	w.c.inert(l, "Kill", w.Kill())
}
