package plex

// The word of a half: the number of its lease, and flags. All that acquire, Read, Write and Close
// have to know in the common case is in this one word, so that each of them is one swap of the word
// it expects for the next. Whatever is unusual is a flag, makes that swap fail, and is seen to on
// the slow path.
//
//	bits 16…   number   how many leases the half has had; the first is the admission's
//
//	flag            set by              says
//	leaseLive       the queue           a consumer has the half (before its admission: the connector)
//	leaseBusy       the lease           one Read, Write or stream has the transport's direction
//	leaseAwaited    the lease           somebody waits for leaseBusy to end
//	leaseStream     the lease           it is a stream that is busy
//	leaseClosing    the lease           its end has begun: nothing new starts
//	leaseDeadline   the lease           a deadline may be set on the transport
//	leaseTorn       the lease           its last write was cut short
//	leaseWatched    the lease           there is a Done channel, or a stream's result, to see to
//	dataLeft        lease or hold       bytes were read that nobody has had yet
//	connEnded       the connection      (read halves) the peer's EOF or reset has been noticed
//	connDue         the connection      it is to be retired as soon as both halves are idle
//	poolOnDemand    the multiplexer     (read halves) it is listed only when it has something to deliver
//	poolListed      the queue           it has an entry in its queue: in the channel, or on its way in or out
//	poolHeld        the multiplexer     plex itself has it, see half.hold
//	poolRetired     the connection      it is never leased again
//	poolNamed       the multiplexer     a caller waits for just this half, and gets it when it arrives
//
// The lease's flags end with the lease; dataLeft, the connection's and the multiplexer's outlive
// it. A half is idle if it is neither live, held nor retired. An entry is stale if its half is
// listed and not idle: whoever takes it out of the queue drops it.
//
// The transitions below are pure. Only half.go and queue.go apply them, and Read, Write, lease and
// close write out the one swap of their common case.

type word uint64

const (
	leaseLive word = 1 << iota
	leaseBusy
	leaseAwaited
	leaseStream
	leaseClosing
	leaseDeadline
	leaseTorn
	leaseWatched

	dataLeft

	connEnded
	connDue

	poolOnDemand
	poolListed
	poolHeld
	poolRetired

	poolNamed

	leaseOne // the number counts in these

	flagMask   = leaseOne - 1
	lasting    = dataLeft | connEnded | connDue | poolOnDemand | poolListed | poolRetired | poolNamed // what outlives a lease
	firstLease = leaseOne                                                                             // the lease that a half begins in
)

// lease is the lease that w is in, or was in last: its number without flags.
func (w word) lease() word { return w &^ flagMask }

// tag is the lower part of the number, for events that carry no more.
func (w word) tag() uint32 { return uint32(w / leaseOne) }

// leases is how often consumers have leased the half.
func (w word) leases() uint64 { return uint64((w - firstLease) / leaseOne) }

// is reports whether any of the flags is set.
func (w word) is(flags word) bool { return w&flags != 0 }

// idle reports whether nobody has the half and it can be leased.
func (w word) idle() bool { return !w.is(leaseLive | poolHeld | poolRetired) }

// over reports whether the half is retired and out of everybody's hands. It stays so.
func (w word) over() bool { return w.is(poolRetired) && !w.is(leaseLive|poolHeld) }

// stale reports whether the half's entry in its queue is of no use.
func (w word) stale() bool { return w.is(poolListed) && !w.idle() }

// circulates reports whether a consumer has the half, or can get it from the queue.
func (w word) circulates() bool { return w.is(leaseLive) || w.is(poolListed) && w.idle() }

// goesOn reports whether lease id is the present one and has not begun to end.
func (w word) goesOn(id word) bool {
	return w&(^flagMask|leaseLive|leaseClosing) == id|leaseLive
}

// taken is for an entry that has come out of the queue: the half is leased if it is idle, and
// otherwise only loses its entry.
func (w word) taken() (next word, leased bool) {
	if !w.idle() {
		return w &^ poolListed, false
	}
	return w&^poolListed + leaseOne | leaseLive, true
}

// swept is for an entry that a sweep has taken out. It reports whether the entry was stale, and so
// is gone.
func (w word) swept() (next word, gone bool) {
	if w.idle() {
		return w, false
	}
	return w &^ poolListed, true
}

// listed gives an idle half its entry in the queue. It reports false if the half has one or is not
// idle.
func (w word) listed() (next word, ok bool) {
	if !w.idle() || w.is(poolListed) {
		return w, false
	}
	return w | poolListed, true
}

// always makes a half one that is listed whenever it is idle. It reports whether the half gets its
// entry now.
func (w word) always() (next word, listed bool) {
	return (w &^ poolOnDemand).listed()
}

// held takes an idle half out of service.
func (w word) held() (next word, ok bool) {
	if !w.idle() {
		return w, false
	}
	return w | poolHeld, true
}

// named leases an idle half to a caller who asks for just this one. Its entry in the queue, if it
// has one, is stale then.
func (w word) named() (next word, ok bool) {
	if !w.idle() {
		return w, false
	}
	return w + leaseOne | leaseLive, true
}

// wanted has a half that is not idle go to a caller who waits for just this one, when it arrives.
// It reports false if the half is idle, or is never leased again.
func (w word) wanted() (next word, ok bool) {
	if w.idle() || w.is(poolRetired) {
		return w, false
	}
	return w | poolNamed, true
}

// granted turns a hold into the lease of a caller who waits for just this half. More says that
// others wait, too. It reports false if the half has been retired meanwhile.
func (w word) granted(more bool) (next word, ok bool) {
	if w.is(poolRetired) {
		return w, false
	}
	w &^= poolHeld | poolNamed
	if more {
		w |= poolNamed
	}
	return w + leaseOne | leaseLive, true
}

// retired ends the half's service. It reports whether the half is over by that, which whoever has
// it now says otherwise when it arrives.
func (w word) retired() (next word, over bool) {
	next = w | poolRetired
	return next, !w.is(poolRetired) && next.over()
}

// entered claims the transport's direction for an operation of lease id.
func (w word) entered(id word) (next word, ok bool) {
	if !w.goesOn(id) || w.is(leaseBusy) {
		return w, false
	}
	return w | leaseBusy, true
}

// awaited has whoever is busy tell when it leaves. It reports false if nobody is.
func (w word) awaited() (next word, ok bool) {
	if !w.is(leaseBusy) {
		return w, false
	}
	return w | leaseAwaited, true
}

// left ends the operation that is busy.
func (w word) left() word { return w &^ (leaseBusy | leaseStream | leaseAwaited) }

// marked sets a flag of lease id, if that goes on.
func (w word) marked(id, flag word) (next word, ok bool) {
	if !w.goesOn(id) {
		return w, false
	}
	return w | flag, true
}

// arrived ends a lease or a hold. If the end of a lease finds that the connection has ended or is
// due, the half goes on to a hold, to be looked at, so that no waiter is given what may be taken
// from it again. If somebody waits for just this half, it goes on to a hold, too. Otherwise it is
// idle, with an entry in the queue unless that is made on demand.
func (w word) arrived(retire bool) word {
	next := w.lease() | w&lasting
	if retire {
		next |= poolRetired
	}
	switch {
	case next.is(poolRetired):
		return next
	case w.is(leaseLive) && next.is(connEnded|connDue):
		return next | poolHeld
	case next.is(poolNamed):
		return next | poolHeld
	case next.is(poolOnDemand):
		return next
	}
	return next | poolListed
}
