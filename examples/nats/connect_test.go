package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
)

func TestLogin(t *testing.T) {
	balance(t)
	s := natsServer(t, func(o *server.Options) { o.Username, o.Password = "plex", "secret" })

	_, err := NewClient(within(t), Config{Address: s.addr(), Connections: 1, User: "plex", Password: "wrong"})
	var refused ServerError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, ServerError("Authorization Violation"), refused)

	dial(t, Config{Address: s.addr(), Connections: 2, Name: "it's \"plex\"", User: "plex", Password: "secret"})
	for _, conn := range s.conns(t) {
		require.Equal(t, "it's \"plex\"", conn.Name)
	}
}

// A server with too many connections says so before anything else.
func TestServerThatIsFull(t *testing.T) {
	balance(t)
	s := natsServer(t, func(o *server.Options) { o.MaxConn = 1 })
	_, err := NewClient(within(t), Config{Address: s.addr(), Connections: 2})
	require.ErrorContains(t, err, "maximum connections exceeded")
}

func TestServersThatAreRefused(t *testing.T) {
	for answer, says := range map[string]string{
		"HTTP/1.1 400 Bad Request\r\n":     "want INFO: is it a NATS server?",
		"":                                 "wait for INFO: EOF",
		"INFO {\"server":                   "wait for INFO: EOF, after \"INFO",
		"INFO {}\r\n":                      "wait for PONG: EOF",
		"INFO {\"tls_required\":true}\r\n": "wants TLS, which this client does not speak",
		"INFO {}\r\nHELLO\r\n":             `answers CONNECT with "HELLO", want PONG`,
		strings.Repeat("x", maxLine+10):    "a line of more than 65536 bytes",
	} {
		t.Run(says, func(t *testing.T) {
			balance(t)
			address := script(t, func(conn net.Conn, _ *bufio.Scanner) {
				_, _ = io.WriteString(conn, answer)
				_ = conn.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, conn) // else a reset could take away what was sent
			})
			_, err := NewClient(within(t), Config{Address: address, Connections: 1})
			require.ErrorContains(t, err, says)
		})
	}
}

// A server that says nothing holds nobody up for longer than the context allows.
func TestServerThatSaysNothing(t *testing.T) {
	balance(t)
	address := script(t, func(conn net.Conn, _ *bufio.Scanner) { _, _ = io.Copy(io.Discard, conn) })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := NewClient(ctx, Config{Address: address, Connections: 1})
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// What comes right behind the PONG of the handshake is for the first lease, and not lost on the handshake. A PING and
// an INFO may be in between.
func TestMessagesOnTheHeelsOfTheHandshake(t *testing.T) {
	balance(t)
	address := script(t, func(conn net.Conn, lines *bufio.Scanner) {
		_, _ = io.WriteString(conn, scriptedINFO)
		for lines.Scan() && lines.Text() != "PING" {
		}
		_, _ = io.WriteString(conn, "+OK\r\nPING\r\n"+scriptedINFO+"PONG\r\nMSG a 1 2\r\nhi\r\n")
		_, _ = io.Copy(io.Discard, conn)
	})
	_, err := NewClient(within(t), Config{Address: address, Connections: 1})
	require.ErrorContains(t, err, `answers CONNECT with "+OK"`, "verbose was off")

	var in inbox
	answered := make(chan string, 10)
	address = script(t, func(conn net.Conn, lines *bufio.Scanner) {
		_, _ = io.WriteString(conn, scriptedINFO)
		for lines.Scan() && lines.Text() != "PING" {
		}
		_, _ = io.WriteString(conn, "PING\r\n"+scriptedINFO+"PONG\r\nMSG a 1 2\r\nhi\r\n")
		for lines.Scan() {
			answered <- lines.Text()
		}
	})
	dial(t, Config{Address: address, Connections: 1, Subscriptions: []Subscription{{"a", "group", in.take}}})
	require.Equal(t, []Msg{{Subject: "a", Data: []byte("hi")}}, in.has(t, 1))
	require.Equal(t, "PONG", <-answered)
	require.Equal(t, "SUB a group 1", <-answered)
}

// The server pings each connection and closes those that do not answer.
func TestPingsAreAnswered(t *testing.T) {
	balance(t)
	s := natsServer(t, func(o *server.Options) { o.PingInterval, o.MaxPingsOut = 50*time.Millisecond, 8 })
	client := dial(t, Config{Address: s.addr(), Connections: 4})
	comes(t, "pings", func() bool { return client.pongs.Load() >= 4*20 })
	require.Zero(t, client.mux.Stats().Lost, "connections that the server has closed")
}

// A PONG over another connection would say that that one is alive.
func TestPingsAreAnsweredOverTheSameConnection(t *testing.T) {
	balance(t)
	const connections, pings = 5, 50
	var mu sync.Mutex
	var conns []net.Conn
	heard := make(chan int) // the number of the connection that a PONG came over
	address := script(t, func(conn net.Conn, lines *bufio.Scanner) {
		if !welcome(conn, lines) {
			return
		}
		mu.Lock()
		number := len(conns)
		conns = append(conns, conn)
		mu.Unlock()
		for lines.Scan() {
			if lines.Text() == "PONG" {
				heard <- number
			}
		}
	})
	client := dial(t, Config{Address: address, Connections: connections})
	comes(t, "connections", func() bool { mu.Lock(); defer mu.Unlock(); return len(conns) == connections })

	// Others use the connections all the time.
	ctx, cancel := context.WithCancel(t.Context())
	var publishing sync.WaitGroup
	for range 2 * connections {
		publishing.Go(func() {
			for ctx.Err() == nil {
				if err := client.Publish(ctx, "a", []byte("x")); err != nil && ctx.Err() == nil {
					t.Errorf("publish: %v", err)
				}
			}
		})
	}
	for i := range pings {
		want := i % connections
		_, err := io.WriteString(conns[want], "PING\r\n")
		require.NoError(t, err)
		select {
		case got := <-heard:
			require.Equal(t, want, got, "ping %d", i)
		case <-time.After(long):
			require.FailNow(t, "no answer", "ping %d", i)
		}
	}
	cancel()
	publishing.Wait()
}

// On a connection that says what makes no sense, nobody knows what comes next. It is replaced, and the others go on.
func TestNonsenseCostsItsConnection(t *testing.T) {
	for nonsense, says := range map[string]string{
		"WHAT\r\n":                   `"WHAT", which means nothing`,
		"MSG a 1 x\r\n":              "has no size of a payload",
		"MSG a 7 1\r\nx\r\n":         `a message on "a" for subscription 7, where there are 1`,
		"MSG a 0 1\r\nx\r\n":         `a message on "a" for subscription 0, where there are 1`,
		"MSG a 1\r\nx\r\n":           "want MSG, subject, sid",
		"MSG a 1 2000\r\nunfinished": "cut off after 24 bytes",
		"INFO {\r\n":                 `begins with "INFO {"`,
	} {
		t.Run(says, func(t *testing.T) {
			balance(t)
			var in inbox
			first := make(chan struct{}, 1)
			first <- struct{}{}
			address := script(t, func(conn net.Conn, lines *bufio.Scanner) {
				if !welcome(conn, lines) {
					return
				}
				select {
				case <-first:
					_, _ = io.WriteString(conn, nonsense)
					if !strings.HasSuffix(nonsense, "\r\n") { // else it is for the client to end the connection
						_ = conn.(*net.TCPConn).CloseWrite()
					}
				default:
					_, _ = io.WriteString(conn, "MSG a 1 5\r\nright\r\n")
				}
				_, _ = io.Copy(io.Discard, conn)
			})
			client := dial(t, Config{
				Address: address, Connections: 1, Errors: in.report, Subscriptions: []Subscription{{"a", "", in.take}},
			})
			require.ErrorContains(t, in.hasError(t), says)
			require.Equal(t, "right", string(in.has(t, 1)[0].Data))
			require.EqualValues(t, 1, client.mux.Stats().Lost)
		})
	}
}

// An INFO can change how much the server takes.
func TestNewsOfTheServer(t *testing.T) {
	balance(t)
	address := script(t, func(conn net.Conn, lines *bufio.Scanner) {
		if welcome(conn, lines) {
			_, _ = fmt.Fprintf(conn, "INFO {\"max_payload\":5}\r\n")
			_, _ = io.Copy(io.Discard, conn)
		}
	})
	client := dial(t, Config{Address: address, Connections: 1})
	comes(t, "news", func() bool { return client.maxPayload.Load() == 5 })
	require.ErrorContains(t, client.Publish(within(t), "a", make([]byte, 6)), "where the server takes 5 at most")
}
