package main

// Consumers that read, in every way that there is.

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"go.atomizer.io/plex"
)

// reading is a read lease.
type reading struct {
	plex.Reader
	c    *consumer
	l    *link
	over bool // the connection has no more for it
	once sync.Once
}

func (c *consumer) readers() {
	c.leases(func() bool {
		half, take := "reader", c.pool.Reader
		if c.p.ready {
			half, take = "ready reader", c.pool.ReadyReader
		}
		r, ok := acquire(c, half, take)
		if !ok {
			return false
		}
		l := linkOf(r)
		l.read.begin(c.s, l, "read")
		l.log.add("reader leased")
		c.callback(r.Conn())
		c.read(&reading{Reader: r, c: c, l: l})
		return true
	})
}

// read uses one lease and ends it.
func (c *consumer) read(r *reading) {
	l, whole := r.l, false
	defer func() {
		if !whole { // the transport has ended the goroutine
			r.end("closed late", r.Close)
			l.read.turn.Unlock()
		}
	}()
	way := c.rng.IntN(10)
	if c.p.life.short() && !c.chance(20) {
		way = briefly
	}
	switch way {
	case briefly:
		r.deadline(500*time.Microsecond + c.moment(10*time.Millisecond))
		r.read(1 + c.rng.IntN(16<<10))
	case 5:
		r.missed()
	case 6:
		r.closeInUse(func() {
			for !r.over {
				r.read(len(c.buf))
			}
		})
	case 7, 8, 9:
		for range 1 + c.rng.IntN(3) {
			r.cancelled()
		}
	default:
		r.reads(1 + c.rng.IntN(20))
	}
	if c.p.answers && c.chance(10) && l.read.leased.Load() {
		c.answer(r.Conn(), l)
	}
	if c.killing() {
		r.end("killed", func() error {
			l.hurt.Store(true)
			c.s.sums.consumer[kill].Add(1)
			return r.Kill()
		})
	} else {
		r.end("closed", r.Close)
	}
	whole = true
	l.read.turn.Unlock()
	if c.chance(50) {
		r.stale()
	}
}

// end ends the lease, unless that has been done.
func (r *reading) end(what string, how func() error) {
	r.once.Do(func() {
		r.l.read.leased.Store(false)
		err := r.c.s.endLease(r.l, "reader "+what, how)
		r.l.log.note("reader "+what, -1, err)
		if err != nil {
			r.c.s.fail(r.l, errors.Join(errors.New("a read lease was "+what), err))
		}
	})
}

// reads reads a few times, under a deadline, for some connections are silent.
func (r *reading) reads(n int) {
	r.deadline(500*time.Microsecond + r.c.moment(10*time.Millisecond))
	for range n {
		size := len(r.c.buf)
		if r.c.chance(4) {
			size = 1 + r.c.rng.IntN(size)
		}
		if r.over || !r.read(size) {
			return
		}
	}
}

func (r *reading) deadline(d time.Duration) {
	if err := r.SetReadDeadline(time.Now().Add(d)); err != nil && r.l.closes.Load() == 0 && !errors.Is(err, plex.ErrLeaseClosed) && !errors.Is(err, errCrash) {
		r.c.s.fatal(r.l, err)
	}
}

// read reads once, and reports whether something came.
func (r *reading) read(size int) bool {
	n, err := r.Read(r.c.buf[:size])
	r.l.log.note("read", n, err)
	r.took(r.c.buf[:n])
	if err != nil {
		r.ended(err)
	}
	return n > 0
}

// took checks bytes that came.
func (r *reading) took(p []byte) {
	s, before := r.c.s, r.l.in.Err()
	if err := r.l.in.Check(p); err == nil {
		s.sums.verified.Add(uint64(len(p)))
	} else if before == nil {
		s.damaged(r.l.in.Result())
		s.fail(r.l, err)
	}
}

// ended looks at why nothing more comes.
func (r *reading) ended(err error) {
	if errors.Is(err, plex.ErrStreaming) {
		return // a stream that was cancelled at this moment is on its way out
	}
	r.over = true
	switch {
	case errors.Is(err, plex.ErrLeaseClosed), missed(err):
	case err == io.EOF: // never wrapped
		r.l.sawEnd = true
		r.c.s.checkRead(r.l)
	default:
		r.c.s.fatal(r.l, err)
	}
}

// missed reads with a deadline that has passed, or that passes in the middle.
func (r *reading) missed() {
	r.c.s.sums.consumer[pastDeadline].Add(1)
	r.deadline(-time.Second)
	r.read(len(r.c.buf))
	r.over = false
	r.reads(3)
}

// closeInUse has the lease closed at a random moment while it is used: by Read, for who takes from a stream's channel
// while another closes the lease, and with it takes back what is in the channel, cannot expect an order.
func (r *reading) closeInUse(use func()) {
	r.c.s.sums.consumer[closeInUse].Add(1)
	var wg sync.WaitGroup
	after := r.c.moment(300 * time.Microsecond)
	wg.Go(func() {
		time.Sleep(after)
		r.end("closed in use", r.Close)
	})
	use()
	wg.Wait()
}

// cancelled streams until a random moment, and then goes on to read.
func (r *reading) cancelled() {
	if r.over {
		return
	}
	r.c.s.sums.consumer[cancelStream].Add(1)
	ctx, cancel := context.WithTimeout(context.Background(), r.c.moment(500*time.Microsecond))
	defer cancel()
	r.stream(ctx, r.c.rng.IntN(50))
	cancel()
	r.reads(1)
}

// stream takes so many pieces of a stream, or fewer if it ends.
func (r *reading) stream(ctx context.Context, pieces int) {
	if r.c.chance(4) {
		ch, err := r.Recv(ctx, r.c.rng.IntN(1000))
		if !r.started(ctx, err) {
			return
		}
		buf := r.c.buf[:0]
		for range min(pieces, 20)*100 + 1 {
			b, ok := <-ch
			if !ok {
				r.streamEnded(ctx)
				break
			}
			buf = append(buf, b)
		}
		r.took(buf)
		r.l.log.note("received bytes", len(buf), nil)
		return
	}
	ch, err := r.RecvChunks(ctx, []int{0, 100, 4 << 10, 256 << 10}[r.c.rng.IntN(4)])
	if !r.started(ctx, err) {
		return
	}
	sum := 0
	for range pieces + 1 {
		p, ok := <-ch
		if !ok {
			r.streamEnded(ctx)
			break
		}
		sum += len(p)
		r.took(p)
	}
	r.l.log.note("received chunks", sum, nil)
}

// started looks at why a stream could not begin, if it could not.
func (r *reading) started(ctx context.Context, err error) bool {
	switch {
	case err == nil:
		return true
	case ctx.Err() != nil, errors.Is(err, plex.ErrStreaming):
	case errors.Is(err, plex.ErrClosed): // the pool starts no more, whatever the connection has died of
		r.over = true
	default:
		r.ended(err)
	}
	return false
}

func (r *reading) streamEnded(ctx context.Context) {
	switch err := r.Err(); {
	case err == nil: // by EOF or Close; a Read tells which
		if ctx.Err() == nil {
			r.over = true
		}
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
	case missed(err), errors.Is(err, plex.ErrClosed):
		r.over = true // the pool's Close ends a stream, whatever the connection has died of
	default:
		r.ended(err)
	}
}

// stale uses the lease after its end.
func (r *reading) stale() {
	s, l := r.c.s, r.l
	s.sums.consumer[staleHandle].Add(1)
	var p [8]byte
	_, err := r.Read(p[:])
	r.c.inert(l, "Read", err)
	_, err = r.RecvChunks(context.Background(), 0)
	r.c.inert(l, "RecvChunks", err)
	r.c.inert(l, "SetReadDeadline", r.SetReadDeadline(time.Unix(1, 0)))
	r.c.inert(l, "Close", r.Close())
	r.c.inert(l, "Kill", r.Kill())
}
