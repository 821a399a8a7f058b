package layers

// The server that talks. What it has sent on each connection, and how that ended, is what Heard is compared with.

import (
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex/faulttest/proxy"
)

// Talker sends messages on each connection. The fields are set before the first; Sizes is Heard's, too.
type Talker struct {
	// Size is the length of message seq of connection k, from LeastMessage to MaxSize bytes; nil: Short.
	Size func(k, seq uint32) int
	// Messages is how many are sent on connection k, after which the Talker holds it; nil: as many as the client takes.
	Messages func(k uint32) uint32
	// Pause is between two writes of one connection.
	Pause time.Duration
	// Batch is how many bytes of messages are in one write, about; 0: each message is a write of its own.
	Batch int
	// Begin is closed when the Talker may begin; nil: at once. Plex does not keep for ever what ended connections have
	// left, if nobody reads it.
	Begin <-chan struct{}
	// Close has the Talker close its direction when all is sent.
	Close bool

	quiet atomic.Bool
	mu    sync.Mutex
	talks map[uint32]*talk
}

// Ending is how a connection has ended, as the server sees it.
type Ending int

const (
	Live     Ending = iota // it has not
	Finished               // the server closed its direction, and then the client, which had left nothing in the kernel
	Closed                 // the server closed both, which was the first thing that it knew of an end
	Broken                 // it was reset by the server
	Away                   // the client left, at a moment when something may have been on its way to it
)

func (e Ending) String() string {
	return [...]string{
		"live", "half closed by the server, then by the client", "closed by the server",
		"reset by the server", "left by the client",
	}[e]
}

// The kernel's states of a connection of which only the server's direction is closed.
const (
	finWait1 proxy.TCPState = 4
	finWait2 proxy.TCPState = 5
)

// talk is one connection.
type talk struct {
	number uint32
	mu     sync.Mutex
	whole  uint32 // messages of which the last byte has been written
	rest   int    // bytes of the next one
	ending Ending
}

// Short is the size of messages of up to 100 bytes.
func Short(k, seq uint32) int { return LeastMessage + int(mixed(k, seq)*0x9E3779B97F4A7C15>>32)%89 }

// Mixed is the size of messages that are short but for a few, which have up to 60 kB.
func Mixed(k, seq uint32) int {
	if h := mixed(seq, k) * 0x9E3779B97F4A7C15 >> 32; h%64 == 0 {
		return LeastMessage + int(h>>6)%60_000
	}
	return Short(k, seq)
}

func sizeOf(size func(k, seq uint32) int, k, seq uint32) int {
	if size == nil {
		size = Short
	}
	return size(k, seq)
}

// Serve serves c until it ends.
func (t *Talker) Serve(c *proxy.Conn) {
	k := uint32(c.Number)
	l := &talk{number: k}
	t.mu.Lock()
	if t.talks == nil {
		t.talks = make(map[uint32]*talk)
	}
	t.talks[k] = l
	t.mu.Unlock()

	gone := make(chan struct{}) // closed when the client has ended its direction, or all is over
	var readErr error
	go func() {
		defer close(gone)
		_, readErr = io.Copy(io.Discard, struct{ io.Reader }{c})
	}()
	err := t.send(c, l, gone)
	if err == nil && t.Close {
		c.HalfClose()
	}
	state := proxy.State(c.TCPConn)
	<-gone
	l.mu.Lock()
	defer l.mu.Unlock()
	switch c.Ended() {
	case proxy.Nothing:
		// io.Copy makes nil of io.EOF. A client that closes with something unread sends a reset.
		if (state == finWait1 || state == finWait2) && readErr == nil {
			l.ending = Finished
		} else {
			l.ending = Away
		}
	case proxy.FIN:
		l.ending = Closed
	default:
		l.ending = Broken
	}
}

// send sends until all is sent, and then waits for the client to end, or until the connection has ended.
func (t *Talker) send(c *proxy.Conn, l *talk, gone <-chan struct{}) error {
	most := ^uint32(0)
	if t.Messages != nil {
		most = t.Messages(l.number)
	}
	if t.Begin != nil {
		select {
		case <-t.Begin:
		case <-gone:
			return io.EOF
		}
	}
	rng := rand.New(rand.NewPCG(uint64(l.number), 0x7a))
	var buf []byte
	var ends []int
	for seq := uint32(0); seq < most; {
		if t.quiet.Load() {
			break
		}
		buf, ends = buf[:0], ends[:0]
		batch := 0
		if t.Batch > 0 {
			batch = rng.IntN(2 * t.Batch)
		}
		for seq < most && (len(ends) == 0 || len(buf) < batch) {
			buf = AppendMessage(buf, l.number, seq, sizeOf(t.Size, l.number, seq))
			ends = append(ends, len(buf))
			seq++
		}
		n, err := c.Write(buf)
		l.wrote(n, ends)
		if err != nil {
			return err
		}
		if t.Pause > 0 {
			select {
			case <-time.After(t.Pause):
			case <-gone:
				return io.EOF
			}
		}
	}
	if t.Close {
		return nil
	}
	<-gone
	return nil
}

// wrote counts n bytes of a write, whose messages end at ends.
func (l *talk) wrote(n int, ends []int) {
	whole, _ := slices.BinarySearch(ends, n+1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.whole += uint32(whole)
	if whole > 0 {
		l.rest = n - ends[whole-1]
	} else {
		l.rest = n
	}
}

// Quiet has the Talker begin no new messages.
func (t *Talker) Quiet() { t.quiet.Store(true) }

// Sent is how many whole messages have been sent on all connections.
func (t *Talker) Sent() (n uint64) {
	for _, l := range t.all() {
		l.mu.Lock()
		n += uint64(l.whole)
		l.mu.Unlock()
	}
	return n
}

func (t *Talker) all() []*talk {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]*talk, 0, len(t.talks))
	for _, l := range t.talks {
		all = append(all, l)
	}
	return all
}
