package plex

// The goroutines that plex starts.

import (
	"sync"
	"time"
)

// taskKind says what may keep a goroutine from ending, and so how long Close waits for it.
type taskKind int

const (
	ownTask       taskKind = iota // nothing but a transport's Read or Write
	transportTask                 // a transport's Close
	foreignTask                   // a connector, a callback or a log handler, which may be what called Close
	taskKinds
)

// tasks starts goroutines and waits for them.
type tasks struct {
	closing chan struct{} // closed by close

	mu      sync.Mutex
	changed sync.Cond
	closed  bool
	running [taskKinds]int
}

func (t *tasks) init() {
	t.closing = make(chan struct{})
	t.changed.L = &t.mu
}

// start runs f in a goroutine of plex's own. It reports false when the multiplexer has been closed.
func (t *tasks) start(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.running[ownTask]++
	t.begin(ownTask, f)
	return true
}

// aside runs f, which may take long, in a goroutine as start does, and here and now when the
// multiplexer has been closed.
func (t *tasks) aside(f func()) {
	if !t.start(f) {
		f()
	}
}

// after runs f in a goroutine of plex's own when d has passed, unless the multiplexer closes before.
func (t *tasks) after(d time.Duration, f func()) {
	t.start(func() {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			f()
		case <-t.closing:
		}
	})
}

// startForeign runs f, which calls foreign code, in a goroutine, also when the multiplexer has been
// closed.
func (t *tasks) startForeign(kind taskKind, f func()) {
	t.expect(kind)
	t.begin(kind, f)
}

// expect has wait wait for a task that is about to begin. Either begin or dismiss follows. It may be
// called under any lock.
func (t *tasks) expect(kind taskKind) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running[kind]++
}

// begin runs f, which is expected, in a goroutine.
func (t *tasks) begin(kind taskKind, f func()) {
	go func() {
		defer t.dismiss(kind) // also if f panics or ends the goroutine
		f()
	}()
}

// dismiss ends what is expected.
func (t *tasks) dismiss(kind taskKind) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running[kind]--
	t.changed.Broadcast()
}

// close has nothing of plex's own started any more.
func (t *tasks) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.closed = true
		close(t.closing)
	}
}

func (t *tasks) isClosed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closed
}

// wait waits until all goroutines have ended, those of each kind for so long at most.
func (t *tasks) wait(graces [taskKinds]time.Duration) {
	var late [taskKinds]bool
	for kind, grace := range graces {
		timer := time.AfterFunc(grace, func() {
			t.mu.Lock()
			defer t.mu.Unlock()
			late[kind] = true
			t.changed.Broadcast()
		})
		defer timer.Stop()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for kind := range taskKinds {
		for t.running[kind] > 0 && !late[kind] {
			t.changed.Wait()
		}
	}
}
