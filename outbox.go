package plex

// How foreign code that only listens is called: the log's handler, and observers. It may be slow,
// or call the multiplexer. So it is called by a goroutine of its own, which is there only while
// there is something to tell. Only Close waits for it, and only briefly.

import (
	"sync"

	"go.atomizer.io/plex/internal/caller"
)

// outbox hands items to a function of the user's, one after the other, in the order of put.
type outbox[T any] struct {
	what    string  // whose function it is, for a panic's error
	deliver func(T) // nil if nobody listens
	most    int     // how many items may wait
	tasks   *tasks

	mu      sync.Mutex
	items   []T
	missed  uint64 // items that there was no room for
	writing bool   // write runs
}

// put adds an item. It may be called with any lock held.
func (o *outbox[T]) put(item T) {
	if o.deliver == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.items) == o.most {
		o.missed++
		return
	}
	o.items = append(o.items, item)
	if !o.writing {
		o.writing = true
		o.tasks.startForeign(foreignTask, o.write)
	}
}

// takeMissed is how many items have been missed since it was last asked.
func (o *outbox[T]) takeMissed() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := o.missed
	o.missed = 0
	return n
}

// write delivers items until there are no more. Each goes by itself through the guard, so one that
// makes the function panic costs no other.
func (o *outbox[T]) write() {
	for {
		o.mu.Lock()
		items := o.items
		o.items = nil
		o.writing = len(items) > 0
		o.mu.Unlock()
		if len(items) == 0 {
			return
		}
		for len(items) > 0 {
			_ = caller.Apart(o.what, func() error { // there is nowhere to report it to
				for len(items) > 0 {
					item := items[0]
					items = items[1:]
					o.deliver(item)
				}
				return nil
			})
		}
	}
}
