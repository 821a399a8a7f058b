package pacesim

import (
	"math/rand/v2"
	"slices"
	"time"

	"go.atomizer.io/plex/internal/pace"
)

const (
	connectTimeout = 10 * time.Second
	resolveFloor   = time.Second           // the least time between two questions to the resolver
	proofPause     = 25 * time.Millisecond // how often it is asked whether an address has proved well
)

// pool is one pool. It does what the supervisor, the healer and the resolver of a Multiplexer do;
// its connections are never leased.
type pool struct {
	w   *World
	rng *rand.Rand
	pace.Service[int]

	every            time.Duration
	target, capacity int
	conns            []*conn // in service, in the order of their admission
	due              []*conn // to be retired
	losses           []int   // the addresses of what is to be replaced
	connecting       int
	tried            bool // an address that had failed has been connected to, to see whether it answers

	kicked bool          // it will look in this moment
	wakeAt time.Duration // when it looks next by itself; 0: never
	asked  time.Duration // when the resolver was last asked
	askAt  time.Duration // when it is asked next
}

type conn struct {
	at       int
	epoch    pace.Epochs
	admitted time.Time
	due      bool
	gone     bool
}

func newPool(w *World, seed uint64, target, room int, every time.Duration) *pool {
	p := &pool{
		w: w, rng: rand.New(rand.NewPCG(seed, 2)),
		every: every, target: target, capacity: target + room,
	}
	p.Chance = p.rng.Int64N
	return p
}

// ask asks the resolver, and plans when to ask again.
func (p *pool) ask() {
	p.asked = p.w.now
	_, gone := p.List(p.w.list, p.w.time())
	for _, c := range p.conns {
		if slices.Contains(gone, c.at) {
			p.markDue(c)
		}
	}
	p.kick()
	p.askIn(p.every - time.Duration(p.rng.Int64N(int64(p.every/10)+1)))
}

func (p *pool) askIn(d time.Duration) {
	at := p.w.now + max(0, d)
	p.askAt = at
	p.w.after(d, func() {
		if p.askAt == at {
			p.askAt = 0
			p.ask()
		}
	})
}

// hurry has the resolver asked soon, because something went wrong.
func (p *pool) hurry() {
	if soon := max(p.w.now, p.asked+min(p.every, resolveFloor)); soon < p.askAt {
		p.askIn(soon - p.w.now)
	}
}

// kick has the pool look once all that happens in this moment has happened.
func (p *pool) kick() {
	if !p.kicked {
		p.kicked = true
		p.w.after(0, p.supervise)
	}
}

// supervise is one round of the supervisor.
func (p *pool) supervise() {
	p.kicked = false
	for {
		var next time.Time
		for len(p.due) > 0 && p.canSpare() {
			p.leave(p.due[0], false)
		}
		p.connects(&next)
		if from, move := p.balance(&next); move {
			p.moveOne(from)
		}
		state, failures := p.Unpaused()
		if state == nil {
			p.wake(next)
			return
		}
		state.SetPause(failures, pace.DefaultBackoff(failures, p.rng.Float64()), true)
	}
}

// wake plans the next look.
func (p *pool) wake(next time.Time) {
	at := next.Sub(epoch)
	if next.IsZero() || p.wakeAt > p.w.now && p.wakeAt <= at {
		return
	}
	p.wakeAt = at
	p.w.after(at-p.w.now, func() {
		if p.wakeAt == at {
			p.wakeAt = 0
			p.kick()
		}
	})
}

func sooner(next *time.Time, t time.Time) {
	if next.IsZero() || t.Before(*next) {
		*next = t
	}
}

func (p *pool) canSpare() bool {
	enough := p.target - p.Hung()
	if p.target < p.capacity {
		return len(p.conns) > enough // it has been replaced
	}
	return len(p.conns) >= enough && p.Answers(p.w.time())
}

func (p *pool) markDue(c *conn) {
	if !c.due && !c.gone {
		c.due = true
		p.Marked(c.at)
		p.due = append(p.due, c)
		p.kick()
	}
}

// connects starts the connects that are due.
func (p *pool) connects(next *time.Time) {
	now := p.w.time()
	demand := pace.Demand{Target: p.target, Capacity: p.capacity, Open: len(p.conns), Connecting: p.connecting}
	if len(p.due) > 0 && p.target < p.capacity {
		demand.Target++ // what is due is replaced first
	}
	starts, wake := p.Decide(now, demand, func(i int) int {
		if i < len(p.losses) {
			return p.losses[i]
		}
		return -1
	})
	if !wake.IsZero() {
		sooner(next, wake)
	}
	for _, s := range starts {
		if len(p.losses) > 0 {
			p.losses = p.losses[1:]
		}
		p.connect(s.At, false)
	}
	whole := len(p.conns) >= p.target
	if !whole && p.Proving(now) {
		sooner(next, now.Add(proofPause))
	}
	if whole && p.connecting == 0 {
		p.losses = nil
		p.Whole(now)
	}
}

// connect connects to an address. Tries says that it is beyond the target, to see whether the
// address answers.
func (p *pool) connect(to int, tries bool) {
	w, started, stage := p.w, p.Epoch(to), pace.Healing
	w.noteConnect(to)
	p.Begin(to, stage)
	p.connecting++
	s := w.servers[to]
	takes, fails := max(s.Dial, time.Millisecond), s.Refuses
	if s.Silent || takes > connectTimeout {
		takes, fails = connectTimeout, true
	}
	if takes > pace.Patience {
		w.after(pace.Patience, func() {
			p.Turn(to, stage, pace.Slow)
			stage = pace.Slow
			p.Failed(to, started, w.time())
			p.kick()
		})
	}
	w.after(takes, func() {
		p.connecting--
		p.End(to, stage)
		p.kick()
		if fails || w.servers[to].Refuses {
			p.Failed(to, started, w.time())
			p.hurry()
			if !tries {
				p.losses = slices.Insert(p.losses, 0, to)
			}
			return
		}
		p.admit(to, tries)
	})
}

func (p *pool) admit(to int, tries bool) {
	now := p.w.time()
	c := &conn{at: to, epoch: p.Connected(to, now), admitted: now}
	p.conns = append(p.conns, c)
	p.w.open[to]++
	p.Opened(to)
	p.tried = p.tried || tries
	if !p.Look(to, now).Listed {
		p.markDue(c) // its address has gone meanwhile
	}
	if life := p.w.servers[to].HangsUp; life > 0 {
		p.w.after(life, func() { p.leave(c, true) })
	}
}

// leave takes a connection out of service; lost says that the server has ended it.
func (p *pool) leave(c *conn, lost bool) {
	if c.gone {
		return
	}
	c.gone = true
	is := func(other *conn) bool { return other == c }
	p.conns = slices.DeleteFunc(p.conns, is)
	p.due = slices.DeleteFunc(p.due, is)
	p.losses = append(p.losses, c.at)
	p.w.open[c.at]--
	p.Left(c.at, c.due)
	if lost {
		p.Lost(c.at, c.epoch, c.admitted, p.w.time())
		p.hurry()
	} else {
		p.Gone(c.at, c.epoch, c.admitted, p.w.time())
	}
	p.kick()
}

// lose ends all connections to an address.
func (p *pool) lose(address int) {
	for _, c := range slices.Clone(p.conns) {
		if c.at == address {
			p.leave(c, true)
		}
	}
}

// balance returns the address that a connection is to be taken from.
func (p *pool) balance(next *time.Time) (from int, move bool) {
	if p.connecting > 0 || len(p.due) > 0 {
		return 0, false
	}
	tried := p.tried
	p.tried = false
	switch {
	case len(p.conns) < p.target:
		return 0, false
	case tried && len(p.conns) > p.target:
		return p.Fullest(), true
	}
	shift, move, wake := p.Move(p.w.time(), p.every, p.target)
	if !wake.IsZero() {
		sooner(next, wake)
	}
	if move && shift.Try && len(p.conns) < p.capacity {
		p.connect(shift.To, true)
		return 0, false
	}
	return shift.From, move
}

func (p *pool) moveOne(from int) {
	for _, c := range p.conns {
		if c.at == from && !c.due {
			p.w.result.Moved++
			p.markDue(c)
			return
		}
	}
}
