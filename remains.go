package plex

// Connections that are over except for what is left to be read.

import (
	"container/list"
	"time"
)

const (
	attendedRemains = 4           // times the capacity: how many are kept where ready readers come for them
	remainsPatience = time.Second // how long ready readers may take to come
)

// remains are in the order in which the connections ended. Multiplexer.mu guards them.
type remains struct{ list list.List }

func (r *remains) keep(c *conn) {
	if c.remainsAt == nil {
		c.remainsAt = r.list.PushBack(c)
	}
}

func (r *remains) drop(c *conn) {
	if c.remainsAt != nil {
		r.list.Remove(c.remainsAt)
		c.remainsAt = nil
	}
}

func (r *remains) oldest() *conn {
	if front := r.list.Front(); front != nil {
		return front.Value.(*conn)
	}
	return nil
}

// mostRemains is how many are kept. Where ready readers come for them, no message may be lost as
// long as they do, so there may be more for a moment, see waitsForReaders.
func mostRemains(capacity int, mode int32) int {
	if mode == readsReady {
		return attendedRemains * capacity
	}
	return capacity
}

// keepRemains keeps a connection for what is left to be read. The caller holds its read half. If
// there are too many, the one that ended first, and that nobody has come to read, is given up.
// keepRemains reports true if that is c itself.
func (c *conn) keepRemains() (giveUp bool) {
	m := c.m
	m.mu.Lock()
	m.remains.keep(c)
	var victim *conn
	if m.remains.list.Len() > mostRemains(m.capacity, m.reading.Load()) {
		victim = m.remains.oldest()
		m.remains.drop(victim)
	}
	m.mu.Unlock()
	switch {
	case victim == nil:
		return false
	case victim == c:
		return true
	case victim.r.hold(): // else it is being read; when that ends, it comes here again
		victim.r.arrive(intoRetire)
	}
	return false
}

// waitsForReaders reports whether connecting has to wait until ready readers have read what earlier
// connections have left: a peer that sends and hangs up, over and over, must not be faster than
// they are. If they do not come for the oldest in time, they are not waited for.
func (m *Multiplexer) waitsForReaders(now time.Time, next *time.Time) bool {
	if m.reading.Load() != readsReady {
		return false
	}
	// Connections that a consumer is reading do not count. They gather at the front.
	n := m.remains.list.Len()
	for at := m.remains.list.Front(); at != nil && n > m.capacity; at = at.Next() {
		c := at.Value.(*conn)
		if c.r.word().is(leaseLive) {
			n--
			continue
		}
		late := c.leftAt.Add(remainsPatience)
		if !now.Before(late) {
			return false
		}
		sooner(next, late)
		return true
	}
	return false
}
