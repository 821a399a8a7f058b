package plex

// One service with several addresses: which it has, and what follows when that changes. Which of
// them to connect to is decided by package pace. What an address has too much, or what belongs to
// an address that is gone, is retired as anything else is.

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"go.atomizer.io/plex/internal/caller"
	"go.atomizer.io/plex/internal/pace"
)

const (
	// defaultEvery is how often the resolver is asked unless the user says otherwise.
	defaultEvery = 30 * time.Second

	// resolveFloor is the least time between two questions, however much goes wrong.
	resolveFloor = time.Second
)

// resolving is what WithResolver says.
type resolving struct {
	ask   Resolver
	every time.Duration
}

// resolver asks for the addresses of the service, and sees to it that each has its share. Its fields
// belong to its goroutine, except moved. The nil resolver is that of a multiplexer without WithResolver.
type resolver struct {
	m      *Multiplexer
	wake   chan struct{}        // something was lost, or has failed; holds one
	wanted chan chan<- struct{} // somebody waits for the next answer, and is told by a close
	first  chan error           // what has become of the first question, for New; holds one
	answer chan answered        // of a question that is under way; nil if none is
	known  bool                 // there has been an answer
	failed bool                 // the last question has failed, and the log knows

	moved int // the place in the roster behind what was moved last; it belongs to the supervisor's goroutine
}

type answered struct {
	addresses []Address
	err       error
}

func newResolver(m *Multiplexer) *resolver {
	return &resolver{m: m, wake: make(chan struct{}, 1), wanted: make(chan chan<- struct{}), first: make(chan error, 1)}
}

// run asks every so often, and soon after something went wrong.
func (r *resolver) run() {
	every := r.m.cfg.resolver.Get().every
	var wanted []chan<- struct{} // who waits for the next answer
	for {
		asked := time.Now()
		r.took(r.resolve())
		for _, told := range wanted {
			close(told)
		}
		wanted = nil
		timer := time.NewTimer(every - rand.N(every/10+1))
		soon := func() { timer.Reset(time.Until(asked.Add(min(every, resolveFloor)))) }
		for waiting := true; waiting; {
			select {
			case <-timer.C:
				waiting = false
			case <-r.wake:
				soon()
			case told := <-r.wanted:
				wanted = append(wanted, told)
				soon()
			case <-r.m.ctx.Done():
				timer.Stop()
				return
			}
		}
	}
}

// refresh waits for an answer to a question that is not asked yet, or for ctx. The answer may be
// that the addresses could not be found.
func (r *resolver) refresh(ctx context.Context) {
	if r == nil {
		return
	}
	told := make(chan struct{})
	select {
	case r.wanted <- told:
	case <-ctx.Done():
		return
	case <-r.m.ctx.Done():
		return
	}
	select {
	case <-told:
	case <-ctx.Done():
	case <-r.m.ctx.Done():
	}
}

// resolve asks once. A question that is not answered is not asked again before its function has
// returned.
func (r *resolver) resolve() ([]Address, error) {
	timeout := min(r.m.cfg.connectTimeout.Get(), maxWait)
	if r.answer == nil {
		answer := make(chan answered, 1)
		r.answer = answer
		r.m.tasks.startForeign(foreignTask, func() {
			ctx, cancel := context.WithTimeout(r.m.ctx, timeout)
			defer cancel()
			var a answered
			a.err = caller.Apart("the function given to WithResolver", func() (err error) {
				a.addresses, err = r.m.cfg.resolver.Get().ask(ctx)
				return err
			})
			answer <- a
		})
	}
	late := time.NewTimer(timeout + connectGrace)
	defer late.Stop()
	select {
	case a := <-r.answer:
		r.answer = nil
		if a.err != nil {
			return nil, a.err
		}
		return checked(a.addresses)
	case <-late.C:
		return nil, fmt.Errorf("the resolver has not returned %v after it was called: %w", timeout, context.DeadlineExceeded)
	case <-r.m.ctx.Done():
		return nil, ErrClosed
	}
}

// checked returns the addresses once each, or says what is wrong with them.
func checked(addresses []Address) (unique []Address, err error) {
	for i, a := range addresses {
		if a.Address == "" {
			return nil, fmt.Errorf("the resolver's address %d of %d is empty; give host:port, or what the network needs", i+1, len(addresses))
		}
		if a.Network == "" {
			a.Network = "tcp"
		}
		if !slices.Contains(unique, a) {
			unique = append(unique, a)
		}
	}
	if len(unique) == 0 {
		return nil, errors.New("the resolver gave no address")
	}
	return unique, nil
}

// took acts on an answer. One that failed leaves the addresses as they are.
func (r *resolver) took(addresses []Address, err error) {
	m := r.m
	if err != nil {
		err = fmt.Errorf("plex: WithResolver: %w", err)
		if !r.failed {
			r.failed = true
			m.news.warn("plex: the service's addresses could not be found; those that are known stay", "cause", err)
		}
		m.mu.Lock()
		if !r.known {
			m.lastErr = err // which is why nothing is connected
		}
		m.mu.Unlock()
	} else {
		r.failed, r.known = false, true
		r.list(addresses)
	}
	select {
	case r.first <- err:
	default: // it was not the first, or nobody wants to know
	}
}

// list says which addresses there are from now on.
func (r *resolver) list(addresses []Address) {
	m := r.m
	m.mu.Lock()
	added, gone := m.healer.pace.List(addresses, time.Now())
	for _, a := range added {
		m.news.address(EventAddressAdded, a, nil)
	}
	for _, a := range gone {
		m.news.address(EventAddressDrained, a, nil)
	}
	few := len(added)+len(gone) > 0 && m.healer.target > 0 && m.healer.target < len(addresses)
	target := m.healer.target
	m.mu.Unlock()
	if few {
		m.news.warn("plex: there are fewer connections than addresses, so only some of them are used, at random",
			"connections", target, "addresses", len(addresses))
	}
	if len(gone) > 0 {
		for _, c := range m.roster.all() {
			if slices.Contains(gone, c.at) {
				c.turnOut(whyDrained)
			}
		}
	}
	m.kick()
}

// hurry has the addresses looked up soon, since something went wrong.
func (r *resolver) hurry() {
	if r != nil {
		wakeUp(r.wake)
	}
}

// balanceLocked sees to it that all addresses have about as many connections. It returns the address
// that one is to be taken from. Nothing is moved while anything is missing or on its way.
//
// What is moved is retired, so it is replaced first where there is room, at the address that has the
// fewest. But an address that has failed, and that nothing was connected to since, is tried first
// where there is room, so that no connection is given up for one that is still dead.
func (r *resolver) balanceLocked(now time.Time, next *time.Time) (from Address, move bool) {
	if r == nil || r.m.refusing || r.m.connecting > 0 || r.m.due.Len() > 0 {
		return from, false
	}
	m, h := r.m, &r.m.healer
	tried := h.tried
	h.tried = false
	switch usable := m.open - m.leaving; {
	case usable < h.target:
		return from, false
	case tried && usable > h.target:
		return h.pace.Fullest(), true
	}
	shift, move, wake := h.pace.Move(now, m.cfg.resolver.Get().every, h.target)
	if !wake.IsZero() {
		sooner(next, wake)
	}
	if move && shift.Try && m.open < m.capacity {
		m.attemptLocked(&attempt{to: shift.To, loss: loss{from: shift.From, at: now, why: whyMoved}, tries: true, started: now})
		sooner(next, now.Add(pace.Patience))
		return from, false
	}
	return shift.From, move
}

// passOverLocked has what a slow connect is for be done elsewhere, if another address answers. The
// connect goes on. Should it succeed after all, the address with the most connections gives one up,
// see balanceLocked.
func (r *resolver) passOverLocked(a *attempt) {
	if r == nil || a.tries || !r.m.healer.pace.Answers(time.Now()) {
		return
	}
	m, h := r.m, &r.m.healer
	h.turnLocked(a, pace.Hung) // nobody counts on it
	a.handBackLocked(m, m.connecting-1)
	// Its connect may be reading the address of the loss, so only the rest changes.
	a.loss.first, a.loss.why, a.loss.attempts = false, whyMoved, 0
	a.grows, a.tries = false, true
}

// moveOne retires a connection of an address that has too many, one that nobody uses if there is
// one. It looks from where it found the last one, or each move in a large pool would look again at
// all that are not to be moved.
func (r *resolver) moveOne(from Address) {
	m := r.m
	var busy *conn
	for range m.roster.size() {
		switch c := m.roster.turn(&r.moved); {
		case c == nil || c.at != from || !c.isOpen():
		case (c.r.word() | c.w.word()).is(leaseLive):
			busy = c
		case c.turnOut(whyMoved):
			m.news.moved(c)
			return
		}
	}
	if busy != nil && busy.turnOut(whyMoved) {
		m.news.moved(busy)
	}
}

// notedLocked does what tells the pace of something that has happened at an address, and tells the
// user if the address does not answer any more, or does again.
func (r *resolver) notedLocked(at Address, now time.Time, err error, tell func()) {
	if r == nil {
		tell()
		return
	}
	p := &r.m.healer.pace
	answered := p.AnswersAt(at, now)
	tell()
	switch answers := p.AnswersAt(at, now); {
	case answered && !answers:
		r.m.news.address(EventAddressFailing, at, err)
	case !answered && answers:
		r.m.news.address(EventAddressRecovered, at, nil)
	}
}
