package request

// Room: how many requests may be unanswered on one connection. The table's mutex guards everything
// here.

import "go.atomizer.io/plex"

// unanswered is how many requests count for the bound. One that was given up counts, because the
// server may still be at work on it. Over datagrams it does not, because its reply may be lost.
func (l *link[R]) unanswered() int {
	if l.datagram {
		return l.live
	}
	return l.held
}

// spaceLocked is how many requests of a batch a connection has room for. There always is room for
// one, because a connection without room is parked.
func (t *table[R]) spaceLocked(l *link[R], b *batch[R]) int {
	switch {
	case l.datagram:
		return 1 // they are never gathered
	case t.perConn > 0:
		return max(1, t.perConn-l.unanswered())
	}
	return b.live
}

// parkLocked keeps the lease on the write half of a connection that has as many unanswered requests
// as it may have, so that plex does not give it to a flusher. Then callers wait for a connection as
// they do when all are being written to: that counts as demand, and the bounds on it apply.
func (t *table[R]) parkLocked(l *link[R]) bool {
	l.parked = t.perConn > 0 && l.unanswered() >= t.perConn && l.ended == nil && t.closed == nil && t.links[l.conn] == l
	if l.parked && l.aside.stop != nil {
		l.aside.stop() // whoever waits for the writer takes it from here
	}
	return l.parked
}

// unparkLocked appends the lease of a connection that has room again to freed, which the caller
// closes.
func (t *table[R]) unparkLocked(l *link[R], freed []plex.Writer) []plex.Writer {
	if l == nil || !l.parked || l.unanswered() >= t.perConn {
		return freed
	}
	l.parked = false
	return append(freed, l.writer)
}

// closeAll ends leases within which nothing is left to be written.
func closeAll(leases []plex.Writer) {
	for i := range leases {
		_ = leases[i].Close()
		leases[i] = plex.Writer{}
	}
}
