package plex_test

// DialTCP: what it refuses, and TLS within the connect. What the kernel was told is in
// dialtcp_linux_test.go; that it acts on it, in faulttest.

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex"
)

// tcpService echoes on loopback, with TLS if there is a config, until the test ends. Call it after newLedger.
func tcpService(t *testing.T, config *tls.Config) (address string) {
	t.Helper()
	address, stop := exampleService(func(conn net.Conn) {
		if config != nil {
			conn = tls.Server(conn, config)
		}
		echo(conn)
	})
	t.Cleanup(stop)
	return address
}

// detached connects once and takes the transport out of the pool.
func detached(t *testing.T, l *ledger, connect plex.Connect) net.Conn {
	t.Helper()
	m := l.mustOpen(1, connect)
	conn, err := duplexOf(t, m, -1).Detach()
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestDialTCP(t *testing.T) {
	l := newLedger(t)
	address := tcpService(t, nil)
	conn := detached(t, l, plex.DialTCP(address))
	require.IsType(t, (*net.TCPConn)(nil), conn)
	require.Equal(t, address, conn.RemoteAddr().String())
	_, port, err := net.SplitHostPort(address)
	require.NoError(t, err)
	require.Equal(t, address, detached(t, l, plex.DialTCP("localhost:"+port)).RemoteAddr().String(), "a name is resolved")
}

// Every option that cannot do what it says is named, with the reason and a way out, and nothing is dialed.
func TestDialTCPRefusesWhatCannotWork(t *testing.T) {
	on := func(idle, interval time.Duration, count int) plex.TCPOption {
		return plex.KeepAlive(net.KeepAliveConfig{Enable: true, Idle: idle, Interval: interval, Count: count})
	}
	const s = time.Second
	for _, tc := range []struct {
		name    string
		options []plex.TCPOption
		want    string // "" for what is right
		linux   bool   // elsewhere there is no user timeout
	}{
		{"nothing", nil, "", false},
		{"a nil option", []plex.TCPOption{nil}, "option 1 of 1 is nil", false},

		{"keep-alive", []plex.TCPOption{on(s, s, 3)}, "", false},
		{"the defaults", []plex.TCPOption{on(0, 0, 0)}, "", false},
		{"the system's values", []plex.TCPOption{on(-1, -1, -1)}, "", false},
		{"no keep-alive", []plex.TCPOption{plex.KeepAlive(net.KeepAliveConfig{})}, "", false},
		{"values without Enable", []plex.TCPOption{plex.KeepAlive(net.KeepAliveConfig{Idle: s})}, "KeepAlive: Enable is false", false},
		{"the last one counts", []plex.TCPOption{plex.KeepAlive(net.KeepAliveConfig{Idle: s}), on(s, s, 3)}, "", false},
		{"the longest idle time", []plex.TCPOption{on(32767*s, s, 3)}, "", false},
		{"a longer one", []plex.TCPOption{on(32767*s+1, s, 3)}, "KeepAlive: Idle is 9h6m7.000000001s; Linux takes at most 9h6m7s", false},
		{"a longer interval", []plex.TCPOption{on(s, 32768*s, 3)}, "KeepAlive: Interval is 9h6m8s; Linux takes at most 9h6m7s", false},
		{"the highest count", []plex.TCPOption{on(s, s, 127)}, "", false},
		{"a higher one", []plex.TCPOption{on(s, s, 128)}, "KeepAlive: Count is 128; Linux takes at most 127", false},

		{"a user timeout", []plex.TCPOption{plex.UserTimeout(1)}, "", true},
		{"none", []plex.TCPOption{plex.UserTimeout(0)}, "UserTimeout: the duration is 0s", true},
		{"a negative one", []plex.TCPOption{plex.UserTimeout(-s)}, "UserTimeout: the duration is -1s", true},
		{"the longest", []plex.TCPOption{plex.UserTimeout((1<<31 - 1) * time.Millisecond)}, "", true},
		{"a longer one", []plex.TCPOption{plex.UserTimeout(1 << 31 * time.Millisecond)}, "UserTimeout: the duration is 596h31m23.648s; Linux takes at most", true},
		{"without keep-alive", []plex.TCPOption{plex.UserTimeout(s), plex.KeepAlive(net.KeepAliveConfig{})}, "", true},
		{"above two probes", []plex.TCPOption{plex.UserTimeout(2*s + 1), on(s, s, 2)}, "", true},
		{"of one lost probe", []plex.TCPOption{plex.UserTimeout(2 * s), on(s, s, 2)}, "UserTimeout: 2s is not above KeepAlive's Idle plus Interval (1s + 1s)", true},
		{"of one probe, as wanted", []plex.TCPOption{plex.UserTimeout(2 * s), on(s, s, 1)}, "", true},
		{"in the other order", []plex.TCPOption{on(s, s, 2), plex.UserTimeout(2 * s)}, "one lost probe would end an idle connection", true},
		{"rounded to seconds", []plex.TCPOption{on(1, 1, 2), plex.UserTimeout(2 * s)}, "(1s + 1s)", true},
		{"beside the defaults", []plex.TCPOption{on(0, 0, 0), plex.UserTimeout(30 * s)}, "(15s + 15s), so one lost probe would end an idle connection, whatever Count (9) says", true},
		{"above the defaults", []plex.TCPOption{on(0, 0, 0), plex.UserTimeout(31 * s)}, "", true},
		{"beside what only the system knows", []plex.TCPOption{on(-1, s, 2), plex.UserTimeout(s)}, "", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			address := "127.0.0.1" // no port, which only a dial finds out
			err := refused(t, newLedger(t), plex.DialTCP(address, tc.options...))
			var dialed *net.AddrError
			switch {
			case tc.linux && runtime.GOOS != "linux":
				require.ErrorIs(t, err, errors.ErrUnsupported)
				require.ErrorContains(t, err, "plex: DialTCP: UserTimeout: ")
				require.NotErrorAs(t, err, &dialed)
			case tc.want == "":
				require.ErrorAs(t, err, &dialed)
			default:
				require.ErrorContains(t, err, tc.want)
				require.ErrorContains(t, err, "plex: DialTCP: ")
				require.NotErrorAs(t, err, &dialed)
			}
		})
	}
}

// One run is enough to mend all.
func TestDialTCPTellsAllThatIsWrong(t *testing.T) {
	err := refused(t, newLedger(t), plex.DialTCP(":1", nil,
		plex.KeepAlive(net.KeepAliveConfig{Count: 1}), plex.UserTimeout(0), plex.TLS(nil)))
	for _, want := range []string{"option 1 of 4 is nil", "KeepAlive: ", "UserTimeout: ", "TLS: the address \":1\" has no host"} {
		require.ErrorContains(t, err, want)
	}
}

// A pool whose New connects nothing tells it to whoever waits.
func TestDialTCPRefusesInAcquires(t *testing.T) {
	m := newLedger(t).mux(plex.WithConnector(plex.DialTCP("127.0.0.1:1", plex.KeepAlive(net.KeepAliveConfig{Count: 1}))))
	_, _ = m.Writer(t.Context(), -1) // begins to connect
	eventually(t, func() bool { return m.Stats().ConnectFailed > 0 }, "the connect fails")
	_, err := m.Writer(t.Context(), -1)
	require.ErrorContains(t, err, "last connect: plex: DialTCP: KeepAlive: Enable is false")
}

func TestDialTCPFailsAsADialerDoes(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	err = refused(t, newLedger(t), plex.DialTCP(l.Addr().String()))
	var dial *net.OpError
	require.ErrorAs(t, err, &dial)
	require.Equal(t, "dial", dial.Op)
}

// The handshake is over when the connect is, and the server has proved the name in the address.
func TestDialTCPWithTLS(t *testing.T) {
	server, client := tlsConfigs(t)
	for name, tc := range map[string]struct {
		host   string
		change func(*tls.Config)
		want   any // an error's type, nil if it works
	}{
		"ServerName":           {"127.0.0.1", func(*tls.Config) {}, nil},
		"the host proves less": {"127.0.0.1", func(c *tls.Config) { c.ServerName = "" }, new(x509.HostnameError)},
		"another name":         {"127.0.0.1", func(c *tls.Config) { c.ServerName = "other.test" }, new(x509.HostnameError)},
		"unknown authority":    {"127.0.0.1", func(c *tls.Config) { c.RootCAs = nil }, new(x509.UnknownAuthorityError)},
		"not verified": {"127.0.0.1", func(c *tls.Config) {
			c.RootCAs, c.ServerName, c.InsecureSkipVerify = nil, "", true
		}, nil},
		"not verified, and no host": {"", func(c *tls.Config) {
			c.RootCAs, c.ServerName, c.InsecureSkipVerify = nil, "", true
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(t)
			_, port, err := net.SplitHostPort(tcpService(t, server))
			require.NoError(t, err)
			config := client.Clone()
			tc.change(config)
			connect := plex.DialTCP(net.JoinHostPort(tc.host, port), plex.TLS(config))
			if tc.want != nil {
				err := refused(t, l, connect)
				require.ErrorAs(t, err, tc.want)
				require.ErrorContains(t, err, "plex: DialTCP: TLS handshake with 127.0.0.1:")
				return
			}
			conn := detached(t, l, connect)
			require.IsType(t, (*tls.Conn)(nil), conn)
			require.True(t, conn.(*tls.Conn).ConnectionState().HandshakeComplete)
			_, err = conn.Write([]byte("echo"))
			require.NoError(t, err)
			got := make([]byte, 4)
			_, err = io.ReadFull(conn, got)
			require.NoError(t, err)
			require.Equal(t, "echo", string(got))
		})
	}
}

// The name that the server has to prove is that of the address.
func TestDialTCPDerivesTheServerName(t *testing.T) {
	l := newLedger(t)
	config, _ := tlsConfigs(t)
	names := make(chan string, 1)
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		names <- hello.ServerName
		return nil, nil
	}
	_, port, err := net.SplitHostPort(tcpService(t, config))
	require.NoError(t, err)
	err = refused(t, l, plex.DialTCP("localhost:"+port, plex.TLS(nil)))
	var verification *tls.CertificateVerificationError
	require.ErrorAs(t, err, &verification)
	require.Equal(t, "localhost", <-names)
}

// What becomes of the caller's config afterwards means nothing.
func TestDialTCPClonesTheConfig(t *testing.T) {
	l := newLedger(t)
	server, client := tlsConfigs(t)
	withTLS := plex.TLS(client)
	connect := plex.DialTCP(tcpService(t, server), withTLS)
	client.ServerName = "other.test"
	detached(t, l, connect)
	require.Equal(t, "other.test", client.ServerName)

	// One option for two addresses: neither has the other's name.
	_, client = tlsConfigs(t)
	client.ServerName = ""
	withTLS = plex.TLS(client)
	_ = plex.DialTCP("one.test:1", withTLS)
	address := tcpService(t, server)
	err := refused(t, l, plex.DialTCP(address, withTLS))
	require.NotContains(t, err.Error(), "one.test")
	require.ErrorAs(t, err, new(x509.HostnameError))
	require.Empty(t, client.ServerName)
}

// A handshake that is not answered ends with the connect timeout. Neither it nor one that fails leaves a connection
// open.
func TestDialTCPClosesWhatCouldNotShakeHands(t *testing.T) {
	for name, greeting := range map[string]string{"silence": "", "no TLS": "220 welcome\r\n"} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(t)
			ended := make(chan error, 2)
			address, stop := exampleService(func(conn net.Conn) {
				_, _ = io.WriteString(conn, greeting) // the client may be gone
				if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
					ended <- err
					return
				}
				_, err := io.Copy(io.Discard, conn) // until the client closes it
				ended <- err
			})
			t.Cleanup(stop)
			_, client := tlsConfigs(t)
			err := refused(t, l, plex.DialTCP(address, plex.TLS(client)), plex.WithConnectTimeout(50*time.Millisecond))
			if greeting == "" {
				require.ErrorIs(t, err, context.DeadlineExceeded)
			} else {
				require.ErrorAs(t, err, new(tls.RecordHeaderError))
			}
			require.NotErrorIs(t, <-ended, os.ErrDeadlineExceeded, "it stays open")
		})
	}
}

// The kernel asks an idle peer after 10 seconds, then every 3, and gives up after 3 probes.
func ExampleDialTCP() {
	address, stop := exampleService(exampleEcho)
	defer stop()

	mux, err := plex.New(context.Background(),
		plex.WithConnector(plex.DialTCP(address, plex.KeepAlive(net.KeepAliveConfig{
			Enable: true, Idle: 10 * time.Second, Interval: 3 * time.Second, Count: 3,
		}))),
		plex.WithMinConnections(2),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mux.Close()

	fmt.Println(mux.Stats().Open)

	// Output:
	// 2
}

// A mistake is told by New, if New has to connect.
func ExampleDialTCP_refused() {
	_, err := plex.New(context.Background(),
		plex.WithConnector(plex.DialTCP("192.0.2.7:9042", plex.KeepAlive(net.KeepAliveConfig{Idle: time.Minute}))),
		plex.WithMinConnections(1),
	)
	fmt.Println(err)

	// Output:
	// plex: WithMinConnections: connecting 1 connections: plex: DialTCP: KeepAlive: Enable is false, so the other values would mean nothing; set Enable, or leave them out to turn keep-alive off
}
