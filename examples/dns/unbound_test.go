package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex/faulttest/proxy"
)

// names is how many names unbound knows. The number of a query tells its answer, so this many answers can be told
// apart.
const names = 4096

// unbound is a process of the resolver of that name, which has all its answers in its configuration and asks nobody.
type unbound struct {
	t       *testing.T
	path    string
	config  string
	tcp     string       // address
	overTLS string       // address
	trust   *tls.Config  // of its clients over TLS
	cmd     *exec.Cmd    // nil while it is down
	output  bytes.Buffer // of the process that runs, or ran last; it is complete when that has ended
}

// startUnbound writes a configuration into a directory of the test's, and starts unbound until the test ends.
func startUnbound(t *testing.T) *unbound {
	t.Helper()
	u := &unbound{t: t, path: installed(t, "unbound", "/usr/sbin/unbound"), tcp: freeAddress(t), overTLS: freeAddress(t)}
	directory := t.TempDir()
	u.config = filepath.Join(directory, "unbound.conf")
	certificate, trust := certified(t)
	u.trust = trust
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	require.NoError(t, err)
	write := func(name string, content []byte) {
		t.Helper()
		require.NoError(t, os.WriteFile(filepath.Join(directory, name), content, 0o600))
	}
	write("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	write("certificate.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]}))

	tcpHost, tcpPort, err := net.SplitHostPort(u.tcp)
	require.NoError(t, err)
	tlsHost, tlsPort, err := net.SplitHostPort(u.overTLS)
	require.NoError(t, err)
	var config bytes.Buffer
	fmt.Fprintf(&config, `
server:
	interface: %[2]s@%[3]s
	interface: %[4]s@%[5]s
	tls-port: %[5]s
	tls-service-key: "%[1]s/key.pem"
	tls-service-pem: "%[1]s/certificate.pem"
	directory: "%[1]s"
	pidfile: "%[1]s/unbound.pid"
	chroot: ""
	username: ""
	do-daemonize: no
	use-syslog: no
	do-udp: no
	do-ip6: no
	num-threads: 2
	incoming-num-tcp: 200
	tcp-idle-timeout: 60000
	module-config: "iterator"
	access-control: 127.0.0.0/8 allow
	local-zone: "." static # everything else there is not, and nobody else is asked
	local-zone: "%[6]s" static
remote-control:
	control-enable: no
server:
`, directory, tcpHost, tcpPort, tlsHost, tlsPort, zone)
	for n := range uint32(names) {
		fmt.Fprintf(&config, "\tlocal-data: \"n%d.%s IN A %v\"\n", n, zone, address(n))
	}
	write("unbound.conf", config.Bytes())

	u.up()
	t.Cleanup(func() { u.down(syscall.SIGKILL) })

	return u
}

// freeAddress finds a free port that the system gives to no outgoing connection, so that it is free when unbound comes
// back to it.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 50 {
		address := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000))
		if l, err := net.Listen("tcp", address); err == nil {
			require.NoError(t, l.Close())

			return address
		}
	}
	require.FailNow(t, "no free port")

	return ""
}

// up starts unbound and waits until it takes connections.
func (u *unbound) up() {
	u.t.Helper()
	u.output.Reset()
	u.cmd = exec.Command(u.path, "-d", "-p", "-c", u.config)
	u.cmd.Stdout, u.cmd.Stderr = &u.output, &u.output
	require.NoError(u.t, u.cmd.Start())
	begun := time.Now()
	for _, address := range []string{u.tcp, u.overTLS} {
		for {
			conn, err := net.Dial("tcp", address)
			if err == nil {
				require.NoError(u.t, conn.Close())
				break
			}
			if time.Since(begun) > long {
				u.down(syscall.SIGKILL)
				require.FailNow(u.t, "unbound takes no connections", "%v\n%s", err, u.output.String())
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// down ends unbound, by a signal, and waits until it is gone.
func (u *unbound) down(signal os.Signal) {
	u.t.Helper()
	if u.cmd == nil {
		return
	}
	cmd := u.cmd
	u.cmd = nil
	require.NoError(u.t, cmd.Process.Signal(signal))
	timer := time.AfterFunc(long, func() { _ = cmd.Process.Kill() })
	_ = cmd.Wait() // that it was ended by a signal is no news
	require.True(u.t, timer.Stop(), "unbound did not end by %v\n%s", signal, u.output.String())
}

// at is where to connect to, and with what.
func (u *unbound) at(overTLS bool) (address string, config *tls.Config) {
	if overTLS {
		return u.overTLS, u.trust
	}

	return u.tcp, nil
}

func TestUnbound(t *testing.T) {
	transports(t, func(t *testing.T, overTLS bool) {
		u := startUnbound(t)
		client := dial(t, connect(u.at(overTLS)), 2)

		query := ask(4095, false)
		reply, err := client.Exchange(within(t), query)
		require.NoError(t, err)
		require.NoError(t, verify(reply, query.Id, 4095))

		reply, err = client.Exchange(within(t), ask(names, false))
		require.NoError(t, err)
		require.Equal(t, dns.RcodeNameError, reply.Rcode)
	})
}

// Between the client and unbound is a proxy that breaks connections after a while: with a reset, with an end, in the
// middle of a message; that lets others stall, and cuts what it passes into pieces.
func TestUnboundWhileConnectionsBreak(t *testing.T) {
	transports(t, func(t *testing.T, overTLS bool) {
		const connections = 4
		u := startUnbound(t)
		address, config := u.at(overTLS)
		seed := rand.Uint64()
		random := proxy.Random(seed, proxy.Rates{
			Reset: 0.5, FIN: 0.3, HalfClose: 0.1, Stall: 0.2, Delay: 0.1, Slice: 0.2,
			Bytes: 50_000, Life: 200 * time.Millisecond, Timed: 0.5, Longer: 10 * time.Millisecond,
		})
		way, err := proxy.New(proxy.Config{Backend: address, Script: func(k int) proxy.Script {
			if k < connections {
				return proxy.Script{} // or there may be no client to begin with
			}

			return random(k)
		}})
		require.NoError(t, err)
		t.Cleanup(way.Close)
		t.Logf("seed %d", seed)

		l := &load{patience: long, pace: time.Millisecond, numbers: names}
		l.client = dial(t, connect(way.Addr(), config), connections)
		l.endure(t, func() {
			comes(t, "damage", func() bool {
				for _, conn := range way.Conns() { // not all have an end of their own
					if conn.Passed(proxy.Down) > 5000 { // it was used, for more than a handshake
						conn.Reset()
						break
					}
				}
				time.Sleep(pause)

				return l.client.mux.Stats().Lost >= 50
			})
		})
	})
}

func TestUnboundWhileItRestarts(t *testing.T) {
	transports(t, func(t *testing.T, overTLS bool) {
		u := startUnbound(t)
		l := &load{patience: long, pace: time.Millisecond, numbers: names}
		l.client = dial(t, connect(u.at(overTLS)), 4)

		l.endure(t, func() {
			for _, signal := range []os.Signal{syscall.SIGTERM, syscall.SIGKILL} {
				u.down(signal)
				time.Sleep(5 * pause)
				u.up()
				l.answers(t)
			}
		})
	})
}
