package layers

// The server that takes messages and answers nothing. What has reached it whole is what Shipped is compared with.

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex/faulttest/proxy"
)

// Taker takes messages. The fields are set before the first connection.
type Taker struct {
	// TLS, if it is not nil, has all connections speak TLS.
	TLS *tls.Config
	// Tight is as Executor's.
	Tight bool
	// InOrder has the messages of one sender come in order over each connection.
	InOrder bool
	// Half draws after which messages of connection k only a part of a batch is taken; nil: never.
	Half func(k int) *rand.Rand

	HalfTaken, HalfStalled atomic.Uint64 // batches of which a part was taken: before a reset, and before a stall

	merciful atomic.Bool
	mu       sync.Mutex
	come     map[uint32][]taken // by sender and number
	total    uint64
	wrong    []error
}

// taken is what has come of a message.
type taken struct {
	times uint8
	place Place
}

// Mercy has the Taker take everything from now on.
func (t *Taker) Mercy() { t.merciful.Store(true) }

// Serve serves c until it ends.
func (t *Taker) Serve(c *proxy.Conn) {
	if t.Tight {
		_ = c.SetReadBuffer(4 << 10)
	}
	var rw net.Conn = c
	if t.TLS != nil {
		s := tls.Server(c, t.TLS)
		if s.Handshake() != nil {
			return
		}
		rw = s
	}
	var half *rand.Rand
	if t.Half != nil {
		half = t.Half(c.Number)
	}
	r := bufio.NewReaderSize(struct{ io.Reader }{rw}, 32<<10)
	latest := make(map[uint32]uint32) // by sender
	var body []byte
	for {
		var prefix [prefixSize]byte
		begins := r.Buffered() == 0
		if _, err := io.ReadFull(r, prefix[:]); err != nil {
			return
		}
		n := binary.BigEndian.Uint32(prefix[:])
		if n > MaxSize {
			t.fail(fmt.Errorf("layers: a message of %d bytes on connection %d: two are glued together", n, c.Number))
			return
		}
		body = slices.Grow(body[:0], int(n))[:n]
		if _, err := io.ReadFull(r, body); err != nil {
			return // a message that is cut off is none
		}
		sender, seq, err := CheckMessage(body)
		if err != nil {
			t.fail(fmt.Errorf("%w, on connection %d", err, c.Number))
			return
		}
		if before, ok := latest[sender]; t.InOrder && ok && before >= seq {
			t.fail(fmt.Errorf("layers: message %d of sender %d has come behind message %d, on connection %d",
				seq, sender, before, c.Number))
		}
		latest[sender] = seq
		t.take(sender, seq, placed(begins, r.Buffered() == 0))
		if half == nil || t.merciful.Load() || r.Buffered() == 0 {
			continue
		}
		switch half.IntN(10_000) {
		case 0, 1:
			t.HalfTaken.Add(1)
			c.Reset()
			return
		case 2, 3:
			t.HalfStalled.Add(1)
			time.Sleep(time.Duration(half.IntN(30)) * time.Millisecond)
		}
	}
}

func (t *Taker) take(sender, seq uint32, place Place) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.come == nil {
		t.come = make(map[uint32][]taken)
	}
	come := t.come[sender]
	if int(seq) >= len(come) {
		come = slices.Grow(come, int(seq)+1-len(come))
		come = come[:cap(come)]
	}
	come[seq].place = place
	if come[seq].times++; come[seq].times > 1 {
		t.failLocked(fmt.Errorf("layers: message %d of sender %d has come twice", seq, sender))
	}
	t.come[sender] = come
	t.total++
}

func (t *Taker) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failLocked(err)
}

func (t *Taker) failLocked(err error) {
	if len(t.wrong) < most {
		t.wrong = append(t.wrong, err)
	}
}

// Err is what was found wrong so far.
func (t *Taker) Err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return errors.Join(slices.Clone(t.wrong)...)
}

// Messages is how many have come.
func (t *Taker) Messages() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.total
}

// Has reports whether a message has come.
func (t *Taker) Has(sender, seq uint32) bool { return t.of(sender, seq).times > 0 }

func (t *Taker) of(sender, seq uint32) taken {
	t.mu.Lock()
	defer t.mu.Unlock()
	if come := t.come[sender]; int(seq) < len(come) {
		return come[seq]
	}
	return taken{}
}
