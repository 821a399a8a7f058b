package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// long is how long something may take that has to happen. No test asserts that anything is fast.
const long = 20 * time.Second

// balance has a test fail unless it leaves as many goroutines as it has found. Call it first.
func balance(t *testing.T) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for begun := time.Now(); runtime.NumGoroutine() > before; time.Sleep(5 * time.Millisecond) {
			if time.Since(begun) > long {
				stacks := make([]byte, 1<<20)
				t.Errorf("%d goroutines, there were %d\n%s",
					runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])

				return
			}
		}
	})
}

// servers runs a test with memcached, and with the example's own server, which has to behave in the same way.
func servers(t *testing.T, test func(t *testing.T, server backend)) {
	t.Run("memcached", func(t *testing.T) { balance(t); test(t, memcached(t)) })
	t.Run("embedded", func(t *testing.T) { balance(t); test(t, up(t, &embedded{address: free(t)})) })
}

// memcached starts the memcached that is installed. Where it is missing the test is skipped, but not in the gate, which
// has to install it.
func memcached(t *testing.T, options ...string) *installed {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		if os.Getenv("CI") == "true" {
			require.FailNow(t, "a program is missing", "%v; on Debian: apt-get install memcached", err)
		}
		t.Skipf("%v; on Debian: apt-get install memcached", err)
	}
	s := &installed{path: path, address: free(t), options: options, kill: true}
	t.Log(s)
	up(t, s)

	return s
}

// up has a server be up until the test ends.
func up(t *testing.T, server backend) backend {
	t.Helper()
	require.NoError(t, server.up())
	t.Cleanup(func() { require.NoError(t, server.down()) })

	return server
}

func free(t *testing.T) string {
	t.Helper()
	address, err := freeAddress()
	require.NoError(t, err)

	return address
}

// dial makes a client that is closed when the test ends, if the test has not.
func dial(t *testing.T, address string, connections int) *Client {
	t.Helper()
	client, err := NewClient(t.Context(), address, connections)
	require.NoError(t, err)
	t.Cleanup(func() { finish(t, client) })

	return client
}

// finish closes a client, which must have nothing left then.
func finish(t *testing.T, client *Client) {
	t.Helper()
	require.NoError(t, client.Close())
	pool := client.mux.Stats()
	require.Zero(t, pool.Open, "connections that are open")
	require.Zero(t, pool.LeasedReaders+pool.LeasedWriters, "leases that are live")
	require.Zero(t, client.requests.Stats().InFlight, "requests that are in flight")
}

// within makes a context that no request should outlast.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), long)
	t.Cleanup(cancel)

	return ctx
}

// comes waits for what has to be true at some time.
func comes(t *testing.T, what string, is func() bool) {
	t.Helper()
	require.Eventually(t, is, long, 2*time.Millisecond, what)
}

// answerer is a server that answers each line with what its function makes of it.
func answerer(t *testing.T, answer func(line string) string) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				lines := bufio.NewScanner(conn)
				for lines.Scan() {
					if _, err := io.WriteString(conn, answer(lines.Text())); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		require.NoError(t, listener.Close())
		serving.Wait() // the client has closed its connections
	})

	return listener.Addr().String()
}
