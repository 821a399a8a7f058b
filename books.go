package plex

// The multiplexer's books of its connections. What has to be found is in an index or in order, so
// that nothing under Multiplexer.mu has to look at all of them.

import (
	"container/heap"
	"slices"
	"sync"
	"time"
)

// accounts are the counts. Multiplexer.mu guards them.
type accounts struct {
	refusing   bool             // no new connections; the end has begun
	refused    bool             // and no new leases: all halves are retired
	known      map[any]struct{} // identities of the connections whose transport is open
	open       int              // admitted connections that have a slot
	leaving    int              // of those, how many are out of service
	connecting int              // slots reserved for connections to come; open+connecting <= capacity
	admitted   uint64           // ever
	alive      int              // admitted and not yet forgotten: open, or with a lease
	looking    int              // read halves that plex has, to look at them
	stats      Stats            // the counters; gauges are computed
	lastErr    error            // of the latest connect
}

// roster is the set of all connections that are claimed and not yet forgotten. It has a lock of its
// own, which is held for a copy of the pointers at most.
type roster struct {
	mu     sync.Mutex
	conns  []*conn
	leases uint64 // how often those were leased that are forgotten
}

func (r *roster) add(c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns = append(r.conns, c)
	c.rosterAt = len(r.conns)
}

// remove reports whether c was in the roster.
func (r *roster) remove(c *conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := c.rosterAt - 1
	if at < 0 {
		return false
	}
	last := len(r.conns) - 1
	r.conns[at] = r.conns[last]
	r.conns[at].rosterAt = at + 1
	r.conns[last] = nil
	r.conns = r.conns[:last]
	c.rosterAt = 0
	r.leases += c.leases()
	return true
}

// all returns a copy.
func (r *roster) all() []*conn { return r.appendTo(nil) }

func (r *roster) appendTo(buf []*conn) []*conn {
	conns, _ := r.appendWithLeases(buf)
	return conns
}

// appendWithLeases also says how often those were leased that are not in the copy any more, so that
// each connection counts once, whatever is forgotten meanwhile.
func (r *roster) appendWithLeases(buf []*conn) (conns []*conn, gone uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append(slices.Grow(buf, len(r.conns)), r.conns...), r.leases
}

// turn returns one connection after the other, and after the last one the first again; place is the
// caller's, and says which is next. It returns nil if there is none. While connections come and go,
// it may miss one.
func (r *roster) turn(place *int) *conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.conns) == 0 {
		return nil
	}
	if *place >= len(r.conns) {
		*place = 0
	}
	c := r.conns[*place]
	*place++
	return c
}

func (r *roster) size() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.conns)
}

// leases is how often consumers have leased either half.
func (c *conn) leases() uint64 { return c.r.word().leases() + c.w.word().leases() }

// expiries are the connections in service in order of their expiry. Multiplexer.mu guards them.
type expiries struct{ conns []*conn }

func (e *expiries) add(c *conn) { heap.Push((*expiryHeap)(e), c) }

// drop takes c out, if it is in.
func (e *expiries) drop(c *conn) {
	if c.expiryAt > 0 {
		heap.Remove((*expiryHeap)(e), c.expiryAt-1)
	}
}

// due takes out one connection whose time has come, and returns nil if there is none.
func (e *expiries) due(now time.Time) *conn {
	if len(e.conns) == 0 || now.Before(e.conns[0].expiresAt) {
		return nil
	}
	return heap.Pop((*expiryHeap)(e)).(*conn)
}

// next is when the next connection becomes due.
func (e *expiries) next() (time.Time, bool) {
	if len(e.conns) == 0 {
		return time.Time{}, false
	}
	return e.conns[0].expiresAt, true
}

// expiryHeap is expiries as package heap wants it.
type expiryHeap expiries

func (h *expiryHeap) Len() int           { return len(h.conns) }
func (h *expiryHeap) Less(i, j int) bool { return h.conns[i].expiresAt.Before(h.conns[j].expiresAt) }

func (h *expiryHeap) Swap(i, j int) {
	h.conns[i], h.conns[j] = h.conns[j], h.conns[i]
	h.conns[i].expiryAt, h.conns[j].expiryAt = i+1, j+1
}

func (h *expiryHeap) Push(x any) {
	c := x.(*conn)
	h.conns = append(h.conns, c)
	c.expiryAt = len(h.conns)
}

func (h *expiryHeap) Pop() any {
	last := len(h.conns) - 1
	c := h.conns[last]
	h.conns[last] = nil
	h.conns = h.conns[:last]
	c.expiryAt = 0
	return c
}
