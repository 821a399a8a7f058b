package layers

// What a Sender has really written, seen at its transports: what then becomes of it is TCP's affair, but nothing may be
// missing there of what the Sender says that it has written.

import (
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"sync"
)

// Tap sees what is written over the connections that it wraps.
type Tap struct {
	mu    sync.Mutex
	wrote map[uint32][]wrote // by sender and number
	wrong []error
}

// wrote is how often a message was written whole, and how often only its beginning.
type wrote struct{ whole, cut uint8 }

// Wrap makes a connection whose writes the tap sees.
func (t *Tap) Wrap(c *net.TCPConn) net.Conn { return &tapped{TCPConn: c, t: t} }

type tapped struct {
	*net.TCPConn
	t     *Tap
	mu    sync.Mutex
	begun []byte // of the message that is not whole yet
}

// Write writes, and notes what was taken.
func (c *tapped) Write(p []byte) (int, error) {
	n, err := c.TCPConn.Write(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begun = append(c.begun, p[:max(0, n)]...)
	for len(c.begun) >= prefixSize {
		size := prefixSize + int(binary.BigEndian.Uint32(c.begun))
		if size > prefixSize+MaxSize {
			c.t.fail(fmt.Errorf("layers: a message of %d bytes is written", size))
			c.begun = nil
			break
		}
		if len(c.begun) < size {
			break
		}
		sender, seq, bad := CheckMessage(c.begun[prefixSize:size])
		if bad != nil {
			c.t.fail(fmt.Errorf("%w, as it is written", bad))
		} else {
			c.t.note(sender, seq, func(w *wrote) { w.whole++ })
		}
		c.begun = c.begun[size:]
	}
	if len(c.begun) == 0 {
		c.begun = nil
	}
	return n, err
}

// Close closes the connection, and with it what has begun is cut.
func (c *tapped) Close() error {
	err := c.TCPConn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.begun) >= prefixSize+messageHead {
		head := c.begun[prefixSize:]
		c.t.note(binary.BigEndian.Uint32(head), binary.BigEndian.Uint32(head[4:]), func(w *wrote) { w.cut++ })
	}
	c.begun = nil
	return err
}

func (t *Tap) note(sender, seq uint32, change func(*wrote)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.wrote == nil {
		t.wrote = make(map[uint32][]wrote)
	}
	of := t.wrote[sender]
	if int(seq) >= len(of) {
		of = slices.Grow(of, int(seq)+1-len(of))
		of = of[:cap(of)]
	}
	change(&of[seq])
	t.wrote[sender] = of
}

func (t *Tap) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.wrong) < most {
		t.wrong = append(t.wrong, err)
	}
}

// check says what is wrong with what was written of a message, in view of what its sender was told; "" if nothing is.
func (t *Tap) check(sender uint32, seq int, fate Fate) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var w wrote
	if of := t.wrote[sender]; seq < len(of) {
		w = of[seq]
	}
	switch written := fate == Queued || fate == Delivered; {
	case written && w.whole == 0:
		return "it is lost: it was never written"
	case w.whole > 1 || w.whole == 1 && w.cut > 0:
		return "it was written twice"
	case fate.sure() && w.whole+w.cut > 0:
		return "it was written"
	}
	return ""
}
