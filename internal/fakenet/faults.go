package fakenet

import (
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Panics is a Read or Write that panics with v.
func Panics(v any) IO {
	return func([]byte, func([]byte) (int, error)) (int, error) { panic(v) }
}

// Goexits is a Read or Write that ends its goroutine.
func Goexits() IO {
	return func([]byte, func([]byte) (int, error)) (int, error) {
		runtime.Goexit()

		return 0, nil
	}
}

// Returns is a Read or Write that does nothing and returns n and err, be n as absurd as it may:
// Returns(0, nil) is a Read that is empty for ever, and Returns(-1, nil) one that lies.
func Returns(n int, err error) IO {
	return func([]byte, func([]byte) (int, error)) (int, error) { return n, err }
}

// TooMany is a Read or Write that returns k more bytes than it was given room for.
func TooMany(k int) IO {
	return func(p []byte, _ func([]byte) (int, error)) (int, error) { return len(p) + k, nil }
}

// Short is a Read or Write that takes n bytes at the most, and returns no error for those that are
// missing.
func Short(n int) IO {
	return func(p []byte, do func([]byte) (int, error)) (int, error) { return do(p[:min(n, len(p))]) }
}

// Then calls f with what a Read or Write is about to return. While f blocks, the call has done its
// work and has not returned, not even when it was interrupted.
func Then(f func(n int, err error)) IO {
	return func(p []byte, do func([]byte) (int, error)) (int, error) {
		n, err := do(p)
		f(n, err)

		return n, err
	}
}

// Once does what f does for one call, and what the connection does for all others.
func Once(f IO) IO {
	var done atomic.Bool

	return func(p []byte, do func([]byte) (int, error)) (int, error) {
		if done.CompareAndSwap(false, true) {
			return f(p, do)
		}

		return do(p)
	}
}

// SlowClose is a Close that takes d before it closes.
func SlowClose(d time.Duration) func(do func() error) error {
	return func(do func() error) error {
		time.Sleep(d)

		return do()
	}
}

// CloseAfter is a Close that has closed, and does not return before release is closed: for ever if
// nobody does that.
func CloseAfter(release <-chan struct{}) func(do func() error) error {
	return func(do func() error) error {
		err := do()
		<-release

		return err
	}
}

// PanicClose is a Close that has closed, and panics with v instead of returning.
func PanicClose(v any) func(do func() error) error {
	return func(do func() error) error {
		_ = do()

		panic(v)
	}
}

// GoexitClose is a Close that has closed, and ends its goroutine instead of returning.
func GoexitClose() func(do func() error) error {
	return func(do func() error) error {
		_ = do()
		runtime.Goexit()

		return nil
	}
}

// OneMutex is a net.Conn with one mutex for all its methods, as simple implementations have it:
// while a Read or Write blocks, no deadline gets through, and with LockClose not even Close does.
// Do not let anybody wait for that mutex in a synctest bubble: such a wait is not durable.
type OneMutex struct {
	net.Conn

	LockClose bool // Close takes the mutex too; set before use

	mu sync.Mutex
}

// locked runs one method.
func locked[T any](c *OneMutex, f func() T) T {
	c.mu.Lock()
	defer c.mu.Unlock()

	return f()
}

// Read holds the mutex.
func (c *OneMutex) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()

	return c.Conn.Read(p)
}

// Write holds the mutex.
func (c *OneMutex) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()

	return c.Conn.Write(p)
}

// Close waits for a Read and a Write if LockClose is set.
func (c *OneMutex) Close() error {
	if c.LockClose {
		return locked(c, c.Conn.Close)
	}

	return c.Conn.Close()
}

// SetDeadline waits for a Read and a Write.
func (c *OneMutex) SetDeadline(t time.Time) error {
	return locked(c, func() error { return c.Conn.SetDeadline(t) })
}

// SetReadDeadline waits for a Read and a Write.
func (c *OneMutex) SetReadDeadline(t time.Time) error {
	return locked(c, func() error { return c.Conn.SetReadDeadline(t) })
}

// SetWriteDeadline waits for a Read and a Write.
func (c *OneMutex) SetWriteDeadline(t time.Time) error {
	return locked(c, func() error { return c.Conn.SetWriteDeadline(t) })
}

// Gate holds up one call that comes by, the first after Arm. Its methods Pass and PassDeadline are
// hooks.
type Gate struct {
	Entered chan struct{} // closed when the call is held up
	Leave   chan struct{} // close it to let the call go on

	armed atomic.Bool
}

// NewGate makes a gate that is open.
func NewGate() *Gate { return &Gate{Entered: make(chan struct{}), Leave: make(chan struct{})} }

// Arm has the next call held up.
func (g *Gate) Arm() { g.armed.Store(true) }

// Pass is where calls come by.
func (g *Gate) Pass() {
	if g.armed.CompareAndSwap(true, false) {
		close(g.Entered)
		<-g.Leave
	}
}

// PassDeadline is Pass as a hook of deadlines.
func (g *Gate) PassDeadline(time.Time) { g.Pass() }

// PassIO is Pass as a hook of Read and Write.
func (g *Gate) PassIO([]byte) { g.Pass() }
