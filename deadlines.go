package plex

// The deadline of one direction of a transport: what a consumer sets, and the deadline in the past
// that interrupts a blocked operation. Setting a deadline loses nothing, on TCP or TLS, but it has
// to be set back before the next lease.

import (
	"sync/atomic"
	"time"

	"go.atomizer.io/plex/internal/caller"
	"go.atomizer.io/plex/internal/clock"
)

const (
	// interruptGrace is how long a blocked operation may take to notice a deadline in the past. A
	// transport that takes longer ignores deadlines; only closing the connection can interrupt it.
	interruptGrace = time.Second

	// refusedGrace is the same for a transport that refuses deadlines. An operation that does not
	// block in the transport itself is out by then.
	refusedGrace = 100 * time.Millisecond
)

// longAgo is a deadline that interrupts.
var longAgo = time.Unix(1, 0)

// deadliner is what deadlines are set on: a half, or a test's.
type deadliner interface {
	// setDeadline sets the deadline of the transport's direction; the zero time means none.
	setDeadline(t time.Time) error
	// stuck is called when an interrupt has not helped. It must not wait for the half's lock.
	stuck()
}

// deadlines is the state of one direction. The half's mu guards it.
type deadlines struct {
	until       time.Time // what the consumer has set
	interrupted bool      // a deadline in the past is set, and until is to be set again

	// force calls stuck if an interrupt does not help; nil if none is under way. It is read without
	// the lock, since setting a deadline may block with a transport that has one mutex for
	// everything.
	force atomic.Pointer[clock.Patience]
}

// set sets the consumer's deadline. During an interrupt it is only noted: resume sets it.
func (d *deadlines) set(on deadliner, t time.Time) error {
	if !d.interrupted {
		if err := on.setDeadline(t); err != nil {
			return err
		}
	}
	d.until = t
	return nil
}

// interrupt makes a blocked operation return. A second one changes nothing until resume or clear.
func (d *deadlines) interrupt(on deadliner) {
	if d.force.Load() != nil {
		return
	}
	p := clock.NewPatience()
	d.force.Store(p)
	p.Start(interruptGrace, func() {
		if d.force.Load() == p {
			on.stuck()
		}
	})
	switch err := on.setDeadline(longAgo); {
	case err == nil:
		d.interrupted = true
	case !isClosed(err): // a closed transport interrupts by itself
		p.Start(refusedGrace, nil)
	}
}

// calm ends the waiting for an interrupt to help.
func (d *deadlines) calm() {
	if p := d.force.Swap(nil); p != nil {
		p.Stop()
	}
}

// resume takes an interrupt back: the deadline is the consumer's again.
func (d *deadlines) resume(on deadliner) error {
	d.calm()
	if !d.interrupted {
		return nil
	}
	d.interrupted = false
	return on.setDeadline(d.until)
}

// clear ends the lease's use of deadlines. If touched is set, one may be set on the transport and
// is taken away. Nothing is wrong with a transport that has refused every deadline.
func (d *deadlines) clear(on deadliner, touched bool) error {
	d.calm()
	var err error
	if touched {
		err = on.setDeadline(time.Time{})
		if err != nil && d.until.IsZero() && !d.interrupted {
			err = nil // none is set
		}
	}
	d.interrupted, d.until = false, time.Time{}
	return err
}

// guardDeadline sets a deadline by a method of the transport.
func guardDeadline(set func(time.Time) error, t time.Time) error {
	return caller.Guard("a deadline of the transport", func() error { return set(t) })
}
