// Package check holds what must always hold, in a form that a test and the soak can run: the leases are exclusive and
// the streams whole (Book, Peer), the capacity is kept (Book, proxy.Proxy.Peak), goroutines and descriptors come back
// (Process), and everyone who waits is served (Live). Nothing here knows package testing; what is wrong is an error.
package check

// Goroutines and descriptors: what the process had before, and what it has too many of after.

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Process is what the process had at one moment.
type Process struct {
	goroutines map[string]string // stack by number
	files      map[int]string    // by descriptor; nil where /proc does not tell
}

var startPoller sync.Once

// Before remembers what the process has now.
func Before() Process {
	startPoller.Do(func() { // the runtime's own descriptors come with the first socket
		if l, err := net.Listen("tcp", "127.0.0.1:0"); err == nil {
			_ = l.Close()
		}
	})
	return Process{goroutines: goroutines(), files: files()}
}

// Goroutines is how many goroutines there were, the caller not counted.
func (p Process) Goroutines() int { return len(p.goroutines) }

// Files is how many descriptors were open.
func (p Process) Files() int { return len(p.files) }

// Back waits until nothing is there that was not there before, and if that takes longer than within returns an error
// that shows what. It does not collect garbage, which would close what has leaked; so nothing may have used io.Copy from
// one TCP connection to another, whose pipes stay until then.
func (p Process) Back(within time.Duration) error {
	var wrong error
	for end, pause := time.Now().Add(within), time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		if wrong = p.leaked(); wrong == nil || time.Now().After(end) {
			return wrong
		}
		time.Sleep(pause)
	}
}

func (p Process) leaked() error {
	var text strings.Builder
	now := goroutines()
	n := 0
	for id, stack := range now {
		if _, was := p.goroutines[id]; !was {
			n++
			if n <= 20 {
				fmt.Fprintf(&text, "\n%s", stack)
			}
		}
	}
	if n > 0 {
		return fmt.Errorf("check: %d goroutines that were not there before:%s", n, text.String())
	}
	// A descriptor's number may be used again for something else, so what counts is how many there are.
	open := files()
	if len(open) <= len(p.files) {
		return nil
	}
	tcp := sockets()
	for _, fd := range sortedKeys(open) {
		if p.files[fd] != open[fd] {
			fmt.Fprintf(&text, "\n\t%d: %s %s", fd, open[fd], tcp[open[fd]])
		}
	}
	return fmt.Errorf("check: %d descriptors, %d before; those that were not there before:%s",
		len(open), len(p.files), text.String())
}

func sortedKeys(m map[int]string) []int {
	keys := make([]int, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// goroutines are the stacks of all goroutines but the caller's, by number.
func goroutines() map[string]string {
	buf := make([]byte, 1<<18)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	all := make(map[string]string)
	for i, stack := range strings.Split(string(buf), "\n\n") {
		id, _, ok := strings.Cut(strings.TrimPrefix(stack, "goroutine "), " ")
		if i > 0 && ok {
			all[id] = stack + "\n"
		}
	}
	return all
}

// files are the open descriptors and what they are.
func files() map[int]string {
	dir, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil
	}
	all := make(map[int]string)
	for _, e := range dir {
		// Reading the directory takes a descriptor, which is gone by now.
		if to, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name())); err == nil {
			if fd, err := strconv.Atoi(e.Name()); err == nil {
				all[fd] = to
			}
		}
	}
	return all
}

// sockets tells the addresses and the state of TCP sockets, by what /proc/self/fd calls them.
func sockets() map[string]string {
	all := make(map[string]string)
	for _, file := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 9 {
				all["socket:["+f[9]+"]"] = fmt.Sprintf("%s -> %s state %s", address(f[1]), address(f[2]), f[3])
			}
		}
	}
	return all
}

// address turns 0100007F:1F90 into 127.0.0.1:8080.
func address(hex string) string {
	host, port, ok := strings.Cut(hex, ":")
	ip, err := strconv.ParseUint(host, 16, 32)
	number, portErr := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || portErr != nil {
		return hex
	}
	return fmt.Sprintf("%d.%d.%d.%d:%d", byte(ip), byte(ip>>8), byte(ip>>16), byte(ip>>24), number)
}
