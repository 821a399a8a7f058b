package plex

// Leak detection: with WithLeakDetection each lease remembers when it began and who took it, and
// the supervisor looks for those that are held for too long.

import (
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// origin is where and when a lease began; guarded by half.mu.
type origin struct {
	lease    word
	half     string // what was asked for; "" if its end is told of by another half
	at       time.Time
	stack    [24]uintptr
	depth    int
	reported bool
}

// leak is a lease that is suspected.
type leak struct {
	kind   string
	conn   *conn
	held   time.Duration
	origin origin
}

// remember notes the caller of Reader or Writer, which is two calls above, and has the end of the
// lease come by end, if it is to be told.
func (h *half) remember(lease word, half string) {
	m := h.conn.m
	if half != "" && m.news.trace.Released != nil {
		h.mark(lease, leaseWatched)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.origin == nil {
		h.origin = new(origin)
	}
	h.origin.lease, h.origin.half, h.origin.at, h.origin.reported = lease, half, time.Now(), false
	if m.cfg.leakThreshold.Given() {
		h.origin.depth = runtime.Callers(4, h.origin.stack[:])
	}
}

// detector finds the leases that have become suspicious. It belongs to the supervisor's goroutine.
type detector struct{ at time.Time } // of the next look

// look logs them. It looks at all connections, so it does that twice in each threshold, however
// often the supervisor wakes up: a lease is reported when it is half as old again at the latest.
func (d *detector) look(m *Multiplexer, now time.Time, next *time.Time) {
	threshold := m.cfg.leakThreshold
	if !threshold.Given() {
		return
	}
	if now.Before(d.at) {
		sooner(next, d.at)
		return
	}
	d.at = now.Add(max(min(threshold.Get(), maxWait)/2, time.Millisecond))
	sooner(next, d.at)
	for _, c := range m.roster.all() {
		for _, h := range []*half{&c.r, &c.w} {
			if l, ok := h.suspect(now, threshold.Get()); ok {
				m.mu.Lock()
				m.stats.SuspectedLeaks++
				m.mu.Unlock()
				m.news.leak(l)
			}
		}
	}
}

// suspect reports once about a lease that is older than the threshold.
func (h *half) suspect(now time.Time, threshold time.Duration) (leak, bool) {
	// h.mu may be held by whoever tells the transport of a deadline, and a transport with one mutex
	// for everything lets that wait for a Read. The supervisor does not wait; there is a next time.
	if !h.mu.TryLock() {
		return leak{}, false
	}
	defer h.mu.Unlock()
	o := h.origin
	if o == nil || o.reported || !h.live(o.lease) || now.Sub(o.at) < threshold {
		return leak{}, false
	}
	o.reported = true
	return leak{kind: h.queue.kind, conn: h.conn, held: now.Sub(o.at), origin: *o}, true
}

// Stacks returns where the present lease of each half was taken, in the form of a panic's stack; ""
// for a half that is not leased, and without [WithLeakDetection].
func (c Conn) Stacks() (reader, writer string) {
	if c.c == nil {
		return "", ""
	}
	return c.c.r.taken(), c.c.w.taken()
}

// taken is where the present lease was taken.
func (h *half) taken() string {
	// As in suspect: whoever looks at a pool does not wait for a transport.
	if !h.conn.m.cfg.leakThreshold.Given() || !h.mu.TryLock() {
		return ""
	}
	o := h.origin
	if o == nil || !h.live(o.lease) {
		h.mu.Unlock()
		return ""
	}
	stack := slices.Clone(o.stack[:o.depth])
	h.mu.Unlock()
	return stackText(stack)
}

// stackText is a stack in the form of a panic's.
func stackText(stack []uintptr) string {
	var b strings.Builder
	frames := runtime.CallersFrames(stack)
	for {
		f, more := frames.Next()
		b.WriteString(f.Function + "\n\t" + f.File + ":" + strconv.Itoa(f.Line) + "\n")
		if !more {
			return b.String()
		}
	}
}
