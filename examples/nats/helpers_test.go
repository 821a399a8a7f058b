package main

import (
	"bufio"
	"context"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

// long is how long something may take that has to happen. No test asserts that anything is fast.
const long = 20 * time.Second

// balance has a test fail unless it leaves as many goroutines as it has found. Call it first.
func balance(t *testing.T) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		if !await(long, func() bool { return runtime.NumGoroutine() <= before }) {
			stacks := make([]byte, 1<<20)
			t.Errorf("%d goroutines, there were %d\n%s",
				runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		}
	})
}

// natsServer starts a server, which ends with the test. It is the one of the program nats-server, in this process.
func natsServer(t *testing.T, configure func(*server.Options)) *broker {
	t.Helper()
	b, err := newBroker()
	require.NoError(t, err)
	if configure != nil {
		configure(&b.options)
	}
	require.NoError(t, b.up())
	t.Cleanup(b.down)

	return b
}

// dial makes a client that is closed when the test ends.
func dial(t *testing.T, config Config) *Client {
	t.Helper()
	client, err := NewClient(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() { finish(t, client) })

	return client
}

// finish closes a client, which must have nothing left then.
func finish(t *testing.T, client *Client) {
	t.Helper()
	require.NoError(t, client.Close())
	stats := client.mux.Stats()
	require.Zero(t, stats.Open, "connections that are open")
	require.Zero(t, stats.LeasedReaders+stats.LeasedWriters, "leases that are live")
}

// usually connects the client that everybody uses.
func usually(t *testing.T, address string) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect("nats://" + address)
	require.NoError(t, err)
	t.Cleanup(nc.Close)

	return nc
}

// within makes a context that no call should outlast.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), long)
	t.Cleanup(cancel)

	return ctx
}

// comes waits for what has to be true at some time.
func comes(t *testing.T, what string, is func() bool) {
	t.Helper()
	require.True(t, await(long, is), "never came: %s", what)
}

// inbox takes messages and errors.
type inbox struct {
	mu       sync.Mutex
	messages []Msg
	errs     []error
}

func (b *inbox) take(m Msg) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.messages = append(b.messages, m)
}

func (b *inbox) report(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.errs = append(b.errs, err)
}

// has waits for so many messages and returns all that have come.
func (b *inbox) has(t *testing.T, n int) []Msg {
	t.Helper()
	comes(t, "messages", func() bool { return b.len() >= n })
	b.mu.Lock()
	defer b.mu.Unlock()

	return append([]Msg(nil), b.messages...)
}

// hasError waits for an error and returns the first.
func (b *inbox) hasError(t *testing.T) error {
	t.Helper()
	comes(t, "an error", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()

		return len(b.errs) > 0
	})
	b.mu.Lock()
	defer b.mu.Unlock()

	return b.errs[0]
}

func (b *inbox) len() int {
	b.mu.Lock()
	defer b.mu.Unlock()

	return len(b.messages)
}

// script is a server that does as it is told to each connection. It is for what the real one does not do when it is
// asked to.
func script(t *testing.T, serve func(conn net.Conn, lines *bufio.Scanner)) (address string) {
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
				serve(conn, bufio.NewScanner(conn))
			})
		}
	})
	t.Cleanup(func() {
		require.NoError(t, listener.Close())
		serving.Wait() // the client has closed its connections
	})

	return listener.Addr().String()
}

const scriptedINFO = `INFO {"server_id":"script","version":"1","max_payload":1000}` + "\r\n"

// welcome is what a server says and hears until the subscriptions come.
func welcome(conn net.Conn, lines *bufio.Scanner) bool {
	if _, err := conn.Write([]byte(scriptedINFO)); err != nil {
		return false
	}
	for lines.Scan() {
		if lines.Text() == "PING" {
			_, err := conn.Write(pong)
			return err == nil
		}
	}

	return false
}
