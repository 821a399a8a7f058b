package pacesim

import (
	"container/heap"
	"time"
)

// Agenda is what is planned, in fake time, which is told as a time since some start. What is planned
// for the same moment comes in the order in which it was planned. The zero Agenda is empty.
type Agenda struct {
	events  events
	planned int
}

type event struct {
	at time.Duration
	n  int // in order of planning
	do func()
}

// Plan plans something for a moment.
func (a *Agenda) Plan(at time.Duration, do func()) {
	a.planned++
	heap.Push(&a.events, event{at, a.planned, do})
}

// First is when the first of what is planned is to be done; ok is false if nothing is.
func (a *Agenda) First() (at time.Duration, ok bool) {
	if len(a.events) == 0 {
		return 0, false
	}
	return a.events[0].at, true
}

// Take takes the first of what is planned.
func (a *Agenda) Take() (do func()) { return heap.Pop(&a.events).(event).do }

// events is what package heap wants.
type events []event

func (e events) Len() int      { return len(e) }
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].n < e[j].n
}
func (e *events) Push(x any) { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	(*e)[last] = event{}
	*e = (*e)[:last]
	return x
}
