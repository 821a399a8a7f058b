package plex_test

// Code that was written for a net.Conn, over a Duplex: it must not notice, also when it closes twice, keeps a handle for
// too long or reads in the background.

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex"
)

// webService answers each request with its method, path and body, and counts connections, until the test ends. Call it
// after newLedger.
func webService(t *testing.T) (address string, connections *atomic.Int64) {
	t.Helper()
	connections = new(atomic.Int64)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		assert.NoError(t, err)
		_, err = fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.Path, body)
		assert.NoError(t, err)
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), connections
}

// roundTrip is HTTP/1.1 written by hand. It ends the lease as a careful caller does: a connection over which not
// everything was read goes to nobody else.
func roundTrip(ctx context.Context, m *plex.Multiplexer, method, url, body string) (answer string, err error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	whole, err := m.Duplex(ctx, 0)
	if err != nil {
		return "", err
	}
	defer whole.Kill() // does nothing after the Close below
	if err := req.Write(whole); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(whole), req)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.Close {
		return string(b), err
	}
	return string(b), whole.Close()
}

func TestHTTPByHandOverADuplex(t *testing.T) {
	l := newLedger(t)
	address, connections := webService(t)
	m := l.mustOpen(3, plex.Dial("tcp", address))
	var all sync.WaitGroup
	for i := range 12 {
		all.Go(func() {
			for j := range 20 {
				path, body := fmt.Sprintf("/%d/%d", i, j), strings.Repeat("x", 100*j)
				answer, err := roundTrip(t.Context(), m, http.MethodPost, "http://plex.test"+path, body)
				if assert.NoError(t, err) {
					assert.Equal(t, "POST "+path+" "+body, answer)
				}
			}
		})
	}
	all.Wait()
	requireKept(t, m, 3)
	require.EqualValues(t, 3, connections.Load(), "each served 80 requests")
}

// A Transport reads in the background while it keeps a connection, and closes it when it likes.
func TestHTTPTransportOverADuplex(t *testing.T) {
	l := newLedger(t)
	address, connections := webService(t)
	m := l.mustOpen(2, plex.Dial("tcp", address))
	transport := &http.Transport{
		DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return m.Duplex(ctx, 0) },
		MaxConnsPerHost: 2, // or it would hold more leases than there are, for requests that it has served otherwise
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	for range 10 {
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				resp, err := client.Post("http://plex.test/path", "text/plain", strings.NewReader("body"))
				if !assert.NoError(t, err) {
					return
				}
				b, err := io.ReadAll(resp.Body)
				assert.NoError(t, err)
				assert.NoError(t, resp.Body.Close())
				assert.Equal(t, "POST /path body", string(b))
			})
		}
		all.Wait()
		transport.CloseIdleConnections()
		eventually(t, func() bool { s := m.Stats(); return s.LeasedReaders+s.LeasedWriters == 0 }, "the leases are back")
	}
	requireKept(t, m, 2)
	require.EqualValues(t, 2, connections.Load())
}

// A TLS client over a lease ends the connection when it is closed: the server has been told that nothing more will come.
func TestTLSClientOverADuplex(t *testing.T) {
	l := newLedger(t)
	server, config := tlsConfigs(t)
	m := l.mustOpen(1, plex.Dial("tcp", tcpService(t, server)))
	for i := range 5 {
		whole := duplexOf(t, m, 0)
		client := tls.Client(whole, config)
		require.NoError(t, client.HandshakeContext(t.Context()))
		want := bytes.Repeat([]byte{byte(i)}, 100_000)
		go func() {
			_, err := client.Write(want)
			assert.NoError(t, err)
		}()
		got := make([]byte, len(want))
		_, err := io.ReadFull(client, got)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got))
		require.NoError(t, client.CloseWrite()) // says goodbye, and that is the end of this connection
		_, err = client.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
		require.NoError(t, whole.Kill())
		require.ErrorIs(t, client.Close(), net.ErrClosed, "the second is inert")
		require.ErrorIs(t, client.Close(), net.ErrClosed)
		eventually(t, func() bool { s := m.Stats(); return s.Healed == uint64(i+1) }, "another connection is there")
	}
}

// Whatever code does with a handle that it should have forgotten, the next caller's lease on the same connection is whole.
func TestCodeThatClosesTwiceOverADuplex(t *testing.T) {
	address, stop := exampleService(func(conn net.Conn) {
		for in := bufio.NewScanner(conn); in.Scan(); {
			_, _ = fmt.Fprintf(conn, "250 you said %s\r\n", in.Text())
		}
	})
	defer stop()
	for name, use := range map[string]func(t *testing.T, whole plex.Duplex) (again func() error){
		"textproto": func(t *testing.T, whole plex.Duplex) func() error {
			c := textproto.NewConn(whole)
			require.NoError(t, c.PrintfLine("mine"))
			_, _, err := c.ReadCodeLine(250)
			require.NoError(t, err)
			require.NoError(t, c.Close())
			return func() error { _ = c.PrintfLine("stale"); return c.Close() }
		},
		"bufio": func(t *testing.T, whole plex.Duplex) func() error {
			rw := bufio.NewReadWriter(bufio.NewReader(whole), bufio.NewWriter(whole))
			_, err := rw.WriteString("mine\n")
			require.NoError(t, err)
			require.NoError(t, rw.Flush())
			_, err = rw.ReadString('\n')
			require.NoError(t, err)
			_, err = rw.WriteString("stale\n") // not flushed before the end
			require.NoError(t, err)
			require.NoError(t, whole.Close())
			return func() error { _, _ = rw.ReadByte(); return rw.Flush() }
		},
		"a deadline for later": func(t *testing.T, whole plex.Duplex) func() error {
			require.NoError(t, whole.SetDeadline(time.Now().Add(time.Hour)))
			require.NoError(t, whole.Close())
			return func() error { return whole.SetDeadline(past) }
		},
		"Kill": func(t *testing.T, whole plex.Duplex) func() error {
			require.NoError(t, whole.Close())
			return whole.Kill
		},
		"Detach": func(t *testing.T, whole plex.Duplex) func() error {
			require.NoError(t, whole.Close())
			return func() error { _, err := whole.Detach(); return err }
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(t)
			m := l.mustOpen(1, plex.Dial("tcp", address))
			again := use(t, duplexOf(t, m, 0))

			next := textproto.NewConn(duplexOf(t, m, 0)) // of the same connection, for there is only one
			require.ErrorIs(t, again(), net.ErrClosed)
			require.NoError(t, next.PrintfLine("yours"))
			require.ErrorIs(t, again(), net.ErrClosed)
			_, line, err := next.ReadCodeLine(250)
			require.NoError(t, err)
			require.Equal(t, "you said yours", line)
			require.ErrorIs(t, again(), net.ErrClosed)
			require.NoError(t, next.Close())
			requireKept(t, m, 1)
		})
	}
}
