package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex"
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

// transports runs a test over TCP and over TLS.
func transports(t *testing.T, test func(t *testing.T, overTLS bool)) {
	t.Run("TCP", func(t *testing.T) { balance(t); test(t, false) })
	t.Run("TLS", func(t *testing.T) { balance(t); test(t, true) })
}

// certified makes the TLS configurations of a server and its client.
func certified(t *testing.T) (certificate tls.Certificate, client *tls.Config) {
	t.Helper()
	certificate, client, err := newCertificate()
	require.NoError(t, err)

	return certificate, client
}

// start makes a server that is up until the test ends, and how to connect to it. prepare may set it up before.
func start(t *testing.T, overTLS bool, prepare func(*server)) (*server, plex.Connect) {
	t.Helper()
	s := new(server)
	var config *tls.Config
	if overTLS {
		var certificate tls.Certificate
		certificate, config = certified(t)
		s.tls = &tls.Config{Certificates: []tls.Certificate{certificate}}
	}
	if prepare != nil {
		prepare(s)
	}
	require.NoError(t, s.up())
	t.Cleanup(func() {
		require.NoError(t, s.down())
		require.Zero(t, s.open(), "connections that are open")
	})

	return s, connect(s.address, config)
}

// dial makes a client that is closed when the test ends, if the test has not.
func dial(t *testing.T, connect plex.Connect, connections int) *Client {
	t.Helper()
	client, err := NewClient(t.Context(), connect, connections)
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
	require.Zero(t, client.requests.Stats().InFlight, "queries that are in flight")
}

// within makes a context that no query should outlast.
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

// installed finds a program. Where it is missing the test is skipped, but not in the gate, which has to install it.
func installed(t *testing.T, names ...string) string {
	t.Helper()
	var errs []error
	for _, name := range names {
		path, err := exec.LookPath(name)
		if err == nil {
			return path
		}
		errs = append(errs, err)
	}
	if os.Getenv("CI") == "true" {
		require.FailNow(t, "a program is missing", "%v; on Debian: apt-get install %s", errors.Join(errs...), names[0])
	}
	t.Skipf("%v; on Debian: apt-get install %s", errors.Join(errs...), names[0])

	return ""
}

// answerer is a server that answers each message with what its function makes of it.
func answerer(t *testing.T, answer func(query []byte) []byte) plex.Connect {
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
				for {
					var length [2]byte
					if _, err := io.ReadFull(conn, length[:]); err != nil {
						return
					}
					query := make([]byte, frame.Order.Uint16(length[:]))
					if _, err := io.ReadFull(conn, query); err != nil {
						return
					}
					framed, err := frame.Append(nil, answer(query))
					if err != nil {
						return
					}
					if _, err := conn.Write(framed); err != nil {
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

	return plex.Dial("tcp", listener.Addr().String())
}
