//go:build linux && !plexportable

package poll

import (
	"fmt"
	"os"
	"strings"
)

// Watched returns how many descriptors the kernel has in the two queues of p.
func (p *Poller[T]) Watched() (ends, readable int) {
	count := func(q *queue) (n int) {
		if err := q.raw.Control(func(fd uintptr) {
			info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
			if err != nil {
				panic(err)
			}
			n = strings.Count(string(info), "tfd:")
		}); err != nil {
			panic(err)
		}
		return n
	}
	return count(p.ends), count(p.readable.Load())
}

// Members returns how many members p has.
func (p *Poller[T]) Members() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.members)
}

// SetLast has the numbers of members go on after last.
func (p *Poller[T]) SetLast(last uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = last
}

// Key is the number of m.
func (m *Member[T]) Key() uint32 { return m.key }
