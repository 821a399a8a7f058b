package services

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/examples/dns/resolver"
	"go.atomizer.io/plex/faulttest/proxy"
	"go.atomizer.io/plex/request"
)

// The zone that is asked about has a number in every name, which is also its address. So a reply tells which query it is
// the answer to, and a wrong one cannot hide.
const zone = "plex.test."

func numbered(n uint32) *dns.Msg {
	return new(dns.Msg).SetQuestion(fmt.Sprintf("n%d.%s", n, zone), dns.TypeA)
}

func ipOf(n uint32) net.IP { return binary.BigEndian.AppendUint32(nil, n) }

// exchange asks for a number and checks the reply.
func exchange(ctx context.Context, client *resolver.Client, n uint32) error {
	query := numbered(n)
	reply, err := client.Exchange(ctx, query)
	if err != nil {
		return err
	}
	if reply.Id != query.Id || reply.Rcode != dns.RcodeSuccess || len(reply.Answer) != 1 {
		return fmt.Errorf("the query for %d with the identifier %d got %v", n, query.Id, reply)
	}
	if a, ok := reply.Answer[0].(*dns.A); !ok || !a.A.Equal(ipOf(n)) {
		return fmt.Errorf("the query for %d got the wrong answer: %v", n, reply.Answer[0])
	}
	return nil
}

// answerTo is the reply that a query for a number gets.
func answerTo(query *dns.Msg) (reply *dns.Msg, n uint32) {
	reply = new(dns.Msg).SetReply(query)
	if _, err := fmt.Sscanf(query.Question[0].Name, "n%d."+zone, &n); err != nil {
		reply.Rcode = dns.RcodeNameError
		return reply, 0
	}
	reply.Answer = []dns.RR{&dns.A{
		Hdr: dns.RR_Header{Name: query.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
		A:   ipOf(n),
	}}
	return reply, n
}

// transports runs a test over TCP and over TLS.
func transports(t *testing.T, test func(t *testing.T, overTLS bool)) {
	t.Run("TCP", func(t *testing.T) { balance(t); test(t, false) })
	t.Run("TLS", func(t *testing.T) { balance(t); test(t, true) })
}

// certified returns a certificate, and the configuration of a client that trusts it.
func certified() (tls.Certificate, *tls.Config) {
	server := httptest.NewTLSServer(nil) // which has brought one of its own
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	return server.TLS.Certificates[0], &tls.Config{RootCAs: roots, ServerName: "example.com"}
}

// connecting is how a client connects; with a configuration over TLS.
func connecting(address string, config *tls.Config) plex.Connect {
	if config == nil {
		return plex.Dial("tcp", address)
	}
	return plex.DialContext(&tls.Dialer{Config: config}, "tcp", address)
}

// answeringDNS is a server that hands each message to a function, with a way to reply, which may be used at any time.
func answeringDNS(t *testing.T, overTLS bool, handle func(query []byte, reply func([]byte))) (
	address string, client *tls.Config,
) {
	t.Helper()
	server := new(tls.Config)
	if overTLS {
		var certificate tls.Certificate
		certificate, client = certified()
		server.Certificates = []tls.Certificate{certificate}
	}
	return answering(t, func(tcp *net.TCPConn) {
		conn := net.Conn(tcp)
		if overTLS {
			conn = tls.Server(tcp, server)
		}
		for {
			var length [2]byte
			if _, err := io.ReadFull(conn, length[:]); err != nil {
				return
			}
			query := make([]byte, binary.BigEndian.Uint16(length[:]))
			if _, err := io.ReadFull(conn, query); err != nil {
				return
			}
			handle(query, func(reply []byte) {
				_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
			})
		}
	}), client
}

// answeringNumbers is a server of the zone. It tells a function of each query, and replies when that has returned; each
// query has a goroutine of its own.
func answeringNumbers(t *testing.T, overTLS bool, heard func(n uint32)) (address string, client *tls.Config) {
	var replying sync.WaitGroup
	t.Cleanup(replying.Wait)
	return answeringDNS(t, overTLS, func(wire []byte, send func([]byte)) {
		query := new(dns.Msg)
		if err := query.Unpack(wire); err != nil {
			t.Errorf("the server got nonsense: %v", err)
			return
		}
		replying.Go(func() {
			reply, n := answerTo(query)
			heard(n)
			packed, err := reply.Pack()
			if err != nil {
				t.Errorf("pack: %v", err)
			}
			send(packed)
		})
	})
}

// dialDNS makes a client, which has nothing left when the test ends.
func dialDNS(t *testing.T, connect plex.Connect, connections int) *resolver.Client {
	t.Helper()
	client, err := resolver.Dial(t.Context(), connect, connections)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, client.Close())
		pool, requests := client.Stats()
		require.Zero(t, pool.Open+pool.LeasedReaders+pool.LeasedWriters+requests.InFlight)
	})
	return client
}

// Callers choose their identifiers without knowing of each other.
func TestDNSQueriesWithTheSameIdentifier(t *testing.T) {
	transports(t, func(t *testing.T, overTLS bool) {
		client := dialDNS(t, connecting(answeringNumbers(t, overTLS, func(uint32) {})), 2)
		var asking sync.WaitGroup
		for n := range uint32(1000) {
			asking.Go(func() {
				query := numbered(n)
				query.Id = 1
				before := query.String()
				reply, err := client.Exchange(within(t), query)
				if err != nil || reply.Id != 1 || !reply.Answer[0].(*dns.A).A.Equal(ipOf(n)) {
					t.Errorf("query %d: %v, %v", n, reply, err)
				}
				if query.String() != before {
					t.Errorf("the caller's query has become %v", query)
				}
			})
		}
		asking.Wait()
	})
}

// A reply that takes its time holds up no other on the same connection.
func TestDNSRepliesOvertakeEachOther(t *testing.T) {
	transports(t, func(t *testing.T, overTLS bool) {
		heard, release := make(chan struct{}), make(chan struct{})
		client := dialDNS(t, connecting(answeringNumbers(t, overTLS, func(n uint32) {
			if n == 1 {
				close(heard)
				<-release
			}
		})), 1)
		done := make(chan error, 1)
		go func() { done <- exchange(within(t), client, 1) }()
		receive(t, "the first query", heard)
		require.NoError(t, exchange(within(t), client, 2))
		require.Empty(t, done)
		close(release)
		require.NoError(t, receive(t, "the first reply", done))
	})
}

// There are 65,536 identifiers. More queries than that go by while one waits for its reply, and another's caller has
// given up: neither's identifier may be used again, or its reply would answer somebody else's query.
func TestDNSIdentifiersInUseAreSkippedWhenTheyBeginAgain(t *testing.T) {
	balance(t)
	var heard sync.WaitGroup
	heard.Add(2)
	release := make(chan struct{})
	client := dialDNS(t, connecting(answeringNumbers(t, false, func(n uint32) {
		if n < 2 {
			heard.Done()
			<-release
		}
	})), 4)
	done := make(chan error, 2)
	impatient, giveUp := context.WithCancel(t.Context())
	go func() { done <- exchange(impatient, client, 0) }()
	go func() { done <- exchange(t.Context(), client, 1) }() // it waits for as long as all the others take
	heard.Wait()
	giveUp()
	err := receive(t, "the end of the query that is given up", done)
	require.ErrorIs(t, err, context.Canceled)
	failed := new(request.Error)
	require.ErrorAs(t, err, &failed)
	require.True(t, failed.MaybeSent)

	const callers, each = 50, 1400 // 70,000
	var asking sync.WaitGroup
	for i := range uint32(callers) {
		asking.Go(func() {
			for n := 2 + i*each; n < 2+(i+1)*each; n++ {
				if err := exchange(within(t), client, n); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	asking.Wait()
	close(release)
	require.NoError(t, receive(t, "the reply that was waited for", done))
	eventually(t, "the reply that nobody waits for", func() bool {
		_, requests := client.Stats()
		return requests.Late == 1
	})
	pool, requests := client.Stats()
	require.Zero(t, requests.Unknown)
	require.Zero(t, pool.Lost)
}

func TestDNSQueriesThatCannotWorkAreRefused(t *testing.T) {
	balance(t)
	client := dialDNS(t, connecting(answeringNumbers(t, false, func(n uint32) { t.Errorf("the server got query %d", n) })), 1)
	reply, signed, unfinished := numbered(1), numbered(1), numbered(1)
	reply.Response = true
	signed.SetTsig("key.", dns.HmacSHA256, 300, 0)
	unfinished.Question[0].Name = "an unfinished name"
	for says, query := range map[string]*dns.Msg{
		"this is no query":            nil,
		"no Response flag":            reply,
		"want one question":           new(dns.Msg),
		"a TSIG signs the identifier": signed,
		"a transfer has more replies": new(dns.Msg).SetAxfr(zone),
		"fully qualified":             unfinished,
	} {
		_, err := client.Exchange(within(t), query)
		require.ErrorContains(t, err, says)
	}
	_, requests := client.Stats()
	require.Zero(t, requests.Sent)

	_, err := resolver.Dial(within(t), nil, 1)
	require.ErrorContains(t, err, "WithConnector")
	_, err = resolver.Dial(within(t), plex.Dial("tcp", "127.0.0.1:1"), 1)
	require.ErrorContains(t, err, "127.0.0.1:1")
}

// What a server does wrong must not become somebody's answer.
func TestDNSRepliesThatMakeNoSense(t *testing.T) {
	right := func(query []byte) *dns.Msg {
		m := new(dns.Msg)
		if err := m.Unpack(query); err != nil {
			panic(err)
		}
		reply, _ := answerTo(m)
		return reply
	}
	pack := func(m *dns.Msg) []byte {
		wire, err := m.Pack()
		if err != nil {
			panic(err)
		}
		return wire
	}
	for says, answer := range map[string]func(query []byte) []byte{
		"asked for n1.plex.test. IN A, got a reply about elsewhere.example. IN A": func(query []byte) []byte {
			m := right(query)
			m.Question[0].Name = "elsewhere.example."
			return pack(m)
		},
		"got a reply about something else than one question": func(query []byte) []byte {
			m := right(query)
			m.Question = nil
			return pack(m)
		},
		"the reply to n1.plex.test. IN A: ": func(query []byte) []byte {
			wire := pack(right(query))
			return wire[:len(wire)-3]
		},
		"a message of 5 bytes, want at least the 12 of a header": func(query []byte) []byte { return query[:5] },
	} {
		t.Run(says, func(t *testing.T) {
			balance(t)
			client := dialDNS(t, connecting(answeringDNS(t, false, func(query []byte, reply func([]byte)) { reply(answer(query)) })), 1)
			_, err := client.Exchange(within(t), numbered(1))
			require.ErrorContains(t, err, says)
			pool, _ := client.Stats()
			failed := new(request.Error)
			if !errors.As(err, &failed) {
				require.Zero(t, pool.Lost)
				return
			}
			require.True(t, failed.MaybeSent, "on a connection that is not to be trusted any more")
			eventually(t, "another connection", func() bool { pool, _ = client.Stats(); return pool.Healed == 1 })
		})
	}
}

// A server need not repeat the question of a query that it could not read.
func TestDNSErrorWithoutQuestion(t *testing.T) {
	balance(t)
	client := dialDNS(t, connecting(answeringDNS(t, false, func(query []byte, send func([]byte)) {
		send(append(query[:2:2], 1<<7, dns.RcodeFormatError, 0, 0, 0, 0, 0, 0, 0, 0))
	})), 1)
	query := numbered(1)
	reply, err := client.Exchange(within(t), query)
	require.NoError(t, err)
	require.Equal(t, dns.RcodeFormatError, reply.Rcode)
	require.Equal(t, query.Id, reply.Id)
}

// A message with the identifier of a query that is a query itself is no reply to it.
func TestDNSQueriesFromTheServerAreNoReplies(t *testing.T) {
	balance(t)
	client := dialDNS(t, connecting(answeringDNS(t, false, func(query []byte, send func([]byte)) {
		send(bytes.Clone(query)) // as it came
		query[2] |= 1 << 7
		send(query)
	})), 1)
	reply, err := client.Exchange(within(t), numbered(1))
	require.NoError(t, err)
	require.True(t, reply.Response)
	_, requests := client.Stats()
	require.EqualValues(t, 1, requests.Unsolicited)
}

// numbers has callers ask for numbers. With a limit they begin again, otherwise each number is asked for once.
func numbers(client *resolver.Client, limit uint32, failed func(n uint32, err error)) *load {
	var next atomic.Uint32
	return &load{stats: client.Stats, pace: time.Millisecond, newCaller: func(int) func(context.Context) error {
		return func(ctx context.Context) error {
			n := next.Add(1)
			if limit > 0 {
				n %= limit
			}
			err := exchange(ctx, client, n)
			if err != nil && failed != nil {
				failed(n, err)
			}
			return err
		}
	}}
}

// Nothing is asked twice, and what an error says not to have been sent has not arrived.
func TestDNSQueriesArriveOnceWhileConnectionsBreak(t *testing.T) {
	balance(t)
	var mu sync.Mutex
	heard, unsent := make(map[uint32]int), make(map[uint32]error)
	address, _ := answeringNumbers(t, false, func(n uint32) {
		mu.Lock()
		defer mu.Unlock()
		heard[n]++
	})
	way, _ := breaking(t, address, 4)
	client := dialDNS(t, plex.Dial("tcp", way.Addr()), 4)
	lost := func() uint64 { pool, _ := client.Stats(); return pool.Lost }
	numbers(client, 0, func(n uint32, err error) {
		if failed := new(request.Error); errors.As(err, &failed) && !failed.MaybeSent {
			mu.Lock()
			defer mu.Unlock()
			unsent[n] = err
		}
	}).endure(t, func() { wearOut(t, way, lost, 100) })

	mu.Lock()
	defer mu.Unlock()
	for n, times := range heard {
		require.Equal(t, 1, times, "query %d", n)
		require.NoError(t, unsent[n], "query %d has arrived", n)
	}
	t.Logf("%d queries arrived, %d were not sent", len(heard), len(unsent))
}

func TestDNSCallersThatGiveUp(t *testing.T) {
	balance(t)
	_, address, _ := unbound(t)
	way := passing(t, proxy.Config{Backend: address})
	client := dialDNS(t, plex.Dial("tcp", way.Addr()), 4)
	numbers(client, names, nil).giveUp(t, way, func(ctx context.Context) error { return exchange(ctx, client, 1) })
	_, requests := client.Stats()
	require.Zero(t, requests.Abandoned, "identifiers of replies that have come")
}

// names is how many names unbound knows.
const names = 4096

// unbound starts the resolver of that name, which has all its answers in its configuration and asks nobody.
func unbound(t *testing.T) (p *program, address, overTLS string) {
	t.Helper()
	directory := t.TempDir()
	config := filepath.Join(directory, "unbound.conf")
	args := []string{installed(t, "unbound"), "-d", "-p", "-c", config}
	certificate, _ := certifiedOnce()
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	require.NoError(t, err)
	for name, block := range map[string]*pem.Block{
		"key.pem": {Type: "PRIVATE KEY", Bytes: key}, "certificate.pem": {Type: "CERTIFICATE", Bytes: certificate.Certificate[0]},
	} {
		require.NoError(t, os.WriteFile(filepath.Join(directory, name), pem.EncodeToMemory(block), 0o600))
	}
	host, port := freeAddress(t)
	tlsHost, tlsPort := freeAddress(t)
	var text bytes.Buffer
	fmt.Fprintf(&text, `
server:
	interface: %[2]s@%[3]d
	interface: %[4]s@%[5]d
	tls-port: %[5]d
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
`, directory, host, port, tlsHost, tlsPort, zone)
	for n := range uint32(names) {
		fmt.Fprintf(&text, "\tlocal-data: \"n%d.%s IN A %v\"\n", n, zone, ipOf(n))
	}
	require.NoError(t, os.WriteFile(config, text.Bytes(), 0o600))
	address, overTLS = fmt.Sprintf("%s:%d", host, port), fmt.Sprintf("%s:%d", tlsHost, tlsPort)
	return start(t, &program{args: args, addresses: []string{address, overTLS}}), address, overTLS
}

// certifiedOnce is the certificate of all unbounds.
var certifiedOnce = sync.OnceValues(certified)

// withUnbound runs a test with unbound, over TCP and over TLS.
func withUnbound(t *testing.T, test func(t *testing.T, p *program, address string, config *tls.Config)) {
	_, config := certifiedOnce()
	transports(t, func(t *testing.T, overTLS bool) {
		p, address, tlsAddress := unbound(t)
		if overTLS {
			test(t, p, tlsAddress, config)
		} else {
			test(t, p, address, nil)
		}
	})
}

func TestDNSUnbound(t *testing.T) {
	withUnbound(t, func(t *testing.T, _ *program, address string, config *tls.Config) {
		client := dialDNS(t, connecting(address, config), 2)
		require.NoError(t, exchange(within(t), client, names-1))
		reply, err := client.Exchange(within(t), numbered(names))
		require.NoError(t, err, "that there is no such name is an answer")
		require.Equal(t, dns.RcodeNameError, reply.Rcode)
	})
}

func TestDNSUnboundWhileConnectionsBreak(t *testing.T) {
	withUnbound(t, func(t *testing.T, _ *program, address string, config *tls.Config) {
		way, _ := breaking(t, address, 4)
		client := dialDNS(t, connecting(way.Addr(), config), 4)
		lost := func() uint64 { pool, _ := client.Stats(); return pool.Lost }
		numbers(client, names, nil).endure(t, func() { wearOut(t, way, lost, 50) })
	})
}

func TestDNSUnboundWhileItRestarts(t *testing.T) {
	withUnbound(t, func(t *testing.T, p *program, address string, config *tls.Config) {
		client := dialDNS(t, connecting(address, config), 4)
		l := numbers(client, names, nil)
		l.endure(t, func() {
			for _, signal := range []os.Signal{syscall.SIGTERM, syscall.SIGKILL} {
				p.down(signal)
				time.Sleep(5 * pause)
				p.up()
				l.answers(t)
			}
		})
		pool, _ := client.Stats()
		require.Positive(t, pool.Lost)
	})
}
