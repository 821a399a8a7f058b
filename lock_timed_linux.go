//go:build plexlocktime

package plex

// A build with the tag plexlocktime finds out for how long Multiplexer.mu is held at most, for the
// report in bench. Nothing else has this tag, and no other build pays for it.

import (
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// Hold is what is known of how long the lock of a multiplexer has been held.
type Hold struct {
	Holds   uint64        // how often it was held
	Total   time.Duration // processor time of all of them
	Longest time.Duration // processor time of the longest
	Stack   string        // where the longest ended
}

// Holds returns what there is to tell since the last call.
func (m *Multiplexer) Holds() Hold {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.mu.hold
	h.Stack = stackText(m.mu.stack[:m.mu.depth])
	m.mu.hold, m.mu.depth = Hold{}, 0
	return h
}

// mutex is a sync.Mutex that knows its longest hold. It counts the time of the processor, since the
// system may stop the thread that holds the lock in favour of another process. Meanwhile nothing else
// runs in the thread.
type mutex struct {
	inner sync.Mutex

	// Guarded by itself.
	began time.Duration
	hold  Hold
	stack [32]uintptr
	depth int
}

func (m *mutex) Lock() {
	m.inner.Lock()
	runtime.LockOSThread()
	m.began = threadTime()
}

func (m *mutex) Unlock() {
	took := threadTime() - m.began
	m.hold.Holds++
	m.hold.Total += took
	if took > m.hold.Longest {
		m.hold.Longest = took
		m.depth = runtime.Callers(2, m.stack[:])
	}
	runtime.UnlockOSThread()
	m.inner.Unlock()
}

// threadTime is the processor time of this thread.
func threadTime() time.Duration {
	const threadClock = 3 // CLOCK_THREAD_CPUTIME_ID
	var t syscall.Timespec
	_, _, _ = syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, threadClock, uintptr(unsafe.Pointer(&t)), 0) // it has no way to fail
	return time.Duration(t.Nano())
}
