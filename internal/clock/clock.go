// Package clock measures time in which this process has run.
package clock

import (
	"sync"
	"time"
)

// steps is in how many parts a Patience waits.
const steps = 10

// Patience calls a function when a time has passed in which this process has run. A process that
// was stopped, or starved of a processor, for seconds has not given others the chance to do what is
// waited for. So the time is waited for in steps, and a stop counts as one of them.
//
// All methods may be called from several goroutines.
type Patience struct {
	mu    sync.Mutex
	timer *time.Timer
	step  time.Duration
	left  int
	due   time.Time // when the present step ends
	f     func()
}

// NewPatience returns one that does not run yet.
func NewPatience() *Patience { return &Patience{} }

// Start has f called after d, in a goroutine of its own, unless Stop comes first. If it runs
// already, it starts again with d; a nil f then means the one that it has.
func (p *Patience) Start(d time.Duration, f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f != nil {
		p.f = f
	}
	p.step, p.left = max(d/steps, 1), steps
	p.due = time.Now().Add(p.step)
	if p.timer == nil {
		p.timer = time.AfterFunc(p.step, p.tick)
		return
	}
	p.timer.Reset(p.step)
}

func (p *Patience) tick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.left == 0 || now.Before(p.due) {
		return // stopped, or started again
	}
	if p.left--; p.left > 0 {
		p.due = now.Add(p.step)
		p.timer.Reset(p.step)
		return
	}
	go p.f()
}

// Stop ends the waiting. A function that has been called already is not waited for.
func (p *Patience) Stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = 0
	if p.timer != nil {
		p.timer.Stop()
	}
}
