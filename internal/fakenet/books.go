package fakenet

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"
)

// CloseCounter is a connection that counts the calls of its Close.
type CloseCounter interface {
	net.Conn

	Closes() int
}

// Books say which connections were closed exactly once, and which were not. The zero Books check
// nothing by themselves; see NewBooks.
type Books struct {
	mu    sync.Mutex
	conns []CloseCounter
	back  map[net.Conn]bool
}

// NewBooks makes books that must be balanced when the test ends. Outside of a synctest bubble,
// which sees to its own goroutines, the process must also have no more goroutines and descriptors
// than now, so such a test must not run in parallel with others. Call it first in a test, and
// within the bubble if there is one.
func NewBooks(t testing.TB) *Books {
	t.Helper()

	if !InBubble() {
		BalanceProcess(t)
	}

	b := &Books{}
	t.Cleanup(func() {
		if !soon(func() bool { return b.Unbalanced() == "" }) {
			t.Errorf("balance: %s", b.Unbalanced())
		}
	})

	return b
}

// Pair makes a connection in the books.
func (b *Books) Pair() (*Conn, *Peer) {
	c, p := Pair()
	b.Watch(c)

	return c, p
}

// Pairs makes n connections in the books.
func (b *Books) Pairs(n int) ([]net.Conn, []*Peer) {
	conns, peers := make([]net.Conn, n), make([]*Peer, n)
	for i := range n {
		conns[i], peers[i] = b.Pair()
	}

	return conns, peers
}

// Datagrams makes a datagram socket in the books.
func (b *Books) Datagrams() *Datagrams {
	d := NewDatagrams()
	b.Watch(d)

	return d
}

// Watch puts connections in the books.
func (b *Books) Watch(conns ...CloseCounter) {
	b.mu.Lock()
	defer b.mu.Unlock()

	b.conns = append(b.conns, conns...)
}

// HandedBack says that these connections in the books must never be closed, because they still
// belong to the test.
func (b *Books) HandedBack(conns ...net.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()

	if b.back == nil {
		b.back = map[net.Conn]bool{}
	}

	for _, c := range conns {
		b.back[c] = true
	}
}

// Open returns how many connections have not been closed.
func (b *Books) Open() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()

	for _, c := range b.conns {
		if c.Closes() == 0 {
			n++
		}
	}

	return n
}

// Unbalanced returns what is wrong, one line for each connection that was not closed exactly once,
// or "".
func (b *Books) Unbalanced() (wrong string) {
	b.mu.Lock()
	defer b.mu.Unlock()

	for _, c := range b.conns {
		want := 1
		if b.back[c] {
			want = 0
		}

		if n := c.Closes(); n != want {
			wrong += fmt.Sprintf("\n\t%v was closed %d times, not %d", c.RemoteAddr(), n, want)
		}
	}

	return wrong
}

// InBubble says whether the caller runs in a synctest bubble, whose clock starts at the beginning
// of the year 2000.
func InBubble() bool { return time.Now().Year() < 2020 }

// BalanceProcess fails the test unless the process has no more goroutines and descriptors at its
// end than now.
func BalanceProcess(t testing.TB) {
	openPoller()

	goroutines, fds := runtime.NumGoroutine(), Descriptors()

	t.Cleanup(func() {
		if !soon(func() bool { return runtime.NumGoroutine() <= goroutines && Descriptors() <= fds }) {
			stacks := make([]byte, 1<<20)
			stacks = stacks[:runtime.Stack(stacks, true)]
			t.Errorf("balance: %d goroutines and %d descriptors, there were %d and %d\n%s",
				runtime.NumGoroutine(), Descriptors(), goroutines, fds, stacks)
		}
	})
}

// openPoller makes the runtime open its own descriptors, which it does with the first socket.
var openPoller = sync.OnceFunc(func() {
	if ln, err := net.Listen("tcp", "127.0.0.1:0"); err == nil {
		_ = ln.Close()
	}
})

// Descriptors counts the process's file descriptors. It is 0 where the system does not say.
func Descriptors() int {
	entries, _ := os.ReadDir("/proc/self/fd")

	return len(entries)
}

// soon polls ok until it holds, for 10 s at most. In a bubble that costs no time.
func soon(ok func() bool) bool {
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}

	return true
}
