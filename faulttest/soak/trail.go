package main

// What has happened to a connection of late, for the day on which somebody has to know.

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

const trailLength = 40

// trail keeps the latest of what was done with a connection.
type trail struct {
	start time.Time
	mu    sync.Mutex
	n     int
	steps [trailLength]step
}

type step struct {
	at   time.Duration
	what string
	size int
	err  error
}

func (t *trail) add(what string) { t.note(what, -1, nil) }

func (t *trail) note(what string, size int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.steps[t.n%trailLength] = step{time.Since(t.start), what, size, err}
	t.n++
}

func (t *trail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	if t.n > trailLength {
		fmt.Fprintf(&b, "    (%d steps before these)\n", t.n-trailLength)
	}
	for i := max(0, t.n-trailLength); i < t.n; i++ {
		s := t.steps[i%trailLength]
		fmt.Fprintf(&b, "    %14v  %s", s.at, s.what)
		if s.size >= 0 {
			fmt.Fprintf(&b, " %d bytes", s.size)
		}
		if s.err != nil {
			fmt.Fprintf(&b, ": %v", s.err)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
