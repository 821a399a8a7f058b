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
