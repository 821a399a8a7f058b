package faulttest_test

// One service with several addresses: servers on addresses of loopback, behind a DNS server of the test's own.

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/proxy"
	"go.atomizer.io/plex/request"
)

const (
	// askedEvery is how often the service's addresses are asked for in these tests.
	askedEvery = 3 * time.Second

	// serviceName is what certificates of net/http/httptest are made out to.
	serviceName = "example.com."
)

// fleet is a service: servers with the same port on addresses that nobody else uses, and the DNS server that knows them.
type fleet struct {
	testing.TB
	port    string
	ips     []net.IP
	servers []*proxy.Proxy
	zone    *zone
}

// newFleet starts n servers, and the DNS server, which names all of them. For as long as the test runs, Go's resolver asks
// that one.
func newFleet(t testing.TB, n int, handler func(*proxy.Conn)) *fleet {
	t.Helper()
	balance(t)
	f := &fleet{TB: t}
	t.Cleanup(func() {
		for _, p := range f.servers {
			p.Close()
		}
	})
	for try := 0; len(f.servers) < n; try++ {
		require.Less(t, try, 100, "no port is free")
		f.listen(n, handler)
	}
	f.zone = newZone(t)
	f.list(f.ips...)
	return f
}

// listen tries to start the servers, on a port that the system gives to no outgoing connection.
func (f *fleet) listen(n int, handler func(*proxy.Conn)) {
	for _, p := range f.servers {
		p.Close()
	}
	f.servers, f.ips, f.port = nil, nil, fmt.Sprint(10_000+rand.IntN(20_000))
	second, third := byte(128+rand.IntN(100)), byte(rand.IntN(256))
	for i := range n {
		ip := net.IPv4(127, second, third, byte(i+1)).To4()
		p, err := proxy.New(proxy.Config{Handler: handler, Listen: net.JoinHostPort(ip.String(), f.port)})
		if err != nil {
			return
		}
		f.servers, f.ips = append(f.servers, p), append(f.ips, ip)
	}
}

// list has the name stand for these addresses from now on.
func (f *fleet) list(ips ...net.IP) {
	records := make([]dns.RR, len(ips))
	for i, ip := range ips {
		records[i] = &dns.A{Hdr: header(serviceName, dns.TypeA), A: ip}
	}
	f.zone.set(records...)
}

// resolver finds the servers by their name.
func (f *fleet) resolver() plex.Resolver {
	return plex.DNS("tcp", net.JoinHostPort(serviceName, f.port))
}

// open is how many connections each server has, as the pool and as the servers count them. It is nil while they disagree,
// and while connections are on their way.
func (f *fleet) open(m *plex.Multiplexer) (open []int) {
	known := map[string]int{}
	for _, a := range m.Addresses() {
		if a.Connecting > 0 {
			return nil
		}
		known[a.Address.Address] = a.Open
	}
	for _, p := range f.servers {
		if p.Established() != known[p.Addr()] {
			return nil
		}
		open = append(open, known[p.Addr()])
	}
	return open
}

// become waits until the servers have so many connections.
func (f *fleet) become(m *plex.Multiplexer, want ...int) {
	f.Helper()
	began := time.Now()
	var have []int
	for !slices.Equal(have, want) {
		if have = f.open(m); time.Since(began) > patience {
			require.FailNow(f, "the connections are not spread as they should be", "want %v, have %v: %+v", want, have, m.Addresses())
		}
		time.Sleep(time.Millisecond)
	}
	f.Logf("%v after %v", want, time.Since(began).Round(time.Millisecond))
}

// zone is a DNS server with one zone that can be changed.
type zone struct {
	mu      sync.Mutex
	records []dns.RR
}

// newZone starts the server, and has net.DefaultResolver ask it until the test's end.
func newZone(t testing.TB) *zone {
	t.Helper()
	z := &zone{}
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	started := make(chan struct{})
	server := &dns.Server{PacketConn: socket, Handler: z, NotifyStartedFunc: func() { close(started) }}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.ActivateAndServe() }) // the error of a server that is shut down
	<-started
	before := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", socket.LocalAddr().String())
	}}
	t.Cleanup(func() {
		net.DefaultResolver = before
		_ = server.Shutdown()
		serving.Wait()
	})
	return z
}

func (z *zone) set(records ...dns.RR) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.records = records
}

// ServeDNS answers with the records of the name and type that are asked for.
func (z *zone) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	reply := new(dns.Msg).SetReply(query)
	reply.Authoritative = true
	z.mu.Lock()
	for _, r := range z.records {
		if q := query.Question[0]; r.Header().Name == q.Name && r.Header().Rrtype == q.Qtype {
			reply.Answer = append(reply.Answer, r)
		}
	}
	z.mu.Unlock()
	_ = w.WriteMsg(reply) // one who does not get it asks again
}

func header(name string, kind uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET}
}

// echoed is a protocol of numbers that come back: an identifier, and a number.
type echoed struct{}

func (echoed) Append(dst []byte, id, number uint64) ([]byte, error) {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(dst, id), number), nil
}

func (echoed) Split(data []byte, _ bool) (advance int, token []byte, err error) {
	if len(data) < 16 {
		return 0, nil, nil
	}
	return 16, data[:16:16], nil
}

func (echoed) Parse(message []byte) (id, number uint64, err error) {
	return binary.BigEndian.Uint64(message), binary.BigEndian.Uint64(message[8:]), nil
}

// echo is its server.
func echo(c *proxy.Conn) { _, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}) }

// load is callers who make requests all the time.
type load struct {
	testing.TB
	client  *request.Client[uint64, uint64]
	stop    context.CancelFunc
	calling sync.WaitGroup

	answered atomic.Uint64
	mu       sync.Mutex
	failed   []error
}

// newLoad starts the callers. They stop at the test's end, or by end.
func newLoad(t testing.TB, m *plex.Multiplexer, callers int) *load {
	t.Helper()
	client, err := request.New(m, echoed{})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	l := &load{TB: t, client: client, stop: stop}
	for range callers {
		l.calling.Go(func() {
			for number := uint64(1); ctx.Err() == nil; number++ {
				one, cancel := context.WithTimeout(context.Background(), patience)
				reply, err := client.Do(one, number)
				cancel()
				if err == nil && reply != number {
					err = fmt.Errorf("the reply to %d is %d", number, reply)
				}
				if err != nil {
					l.mu.Lock()
					l.failed = append(l.failed, err)
					l.mu.Unlock()
				} else {
					l.answered.Add(1)
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	t.Cleanup(func() { l.end() })
	return l
}

// end stops the callers.
func (l *load) end() {
	l.stop()
	l.calling.Wait()
	require.NoError(l, l.client.Close())
}

// more waits until n more requests have been answered.
func (l *load) more(n uint64) {
	l.Helper()
	until := l.answered.Load() + n
	eventually(l, func() bool { return l.answered.Load() >= until }, "%d requests are answered", n)
}

// failures are the errors since the last call.
func (l *load) failures() (all []error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all, l.failed = l.failed, nil
	return all
}

// A rolling restart of all servers, under load. Afterwards each has its share again, and no request
// has failed that was not on its way over a connection of a server that went down.
// Catches: everything on the server that was restarted first, and nothing on the last; callers who wait for a server that
// is down while others are well.
func TestFaultARollingRestartOfTheServers(t *testing.T) {
	f := newFleet(t, 3, echo)
	m := newMux(t, plex.WithConnector(plex.DialResolved(&net.Dialer{})), plex.WithResolver(f.resolver(), askedEvery),
		plex.WithMinConnections(72), plex.WithMaxCapacity(96))
	f.become(m, 24, 24, 24)
	l := newLoad(t, m, 16)
	l.more(1000)
	require.Empty(t, l.failures())

	for _, p := range f.servers {
		require.NoError(t, p.Restart(500*time.Millisecond, true))
		eventually(t, func() bool { return m.Stats().Open >= 72 }, "whole again")
		l.more(1000)
		for _, err := range l.failures() {
			var failed *request.Error
			require.ErrorAs(t, err, &failed)
			require.NotZero(t, failed.Conn, "a request had no connection: %v", err)
			require.Equal(t, p.Addr(), failed.Conn.RemoteAddr().String(), err)
		}
	}
	f.become(m, 24, 24, 24)
	l.more(1000)
	require.Empty(t, l.failures(), "what is moved fails nothing")
	s := m.Stats()
	require.GreaterOrEqual(t, s.Lost, uint64(72))
	l.end()
}

// An address that is gone from DNS is drained, and one that is new gets its share, and no request fails.
// Catches: a name that is resolved once for ever; connections to servers that are to be switched off; requests that are
// cut off when their connection is drained.
func TestFaultTheAddressesOfTheServiceChange(t *testing.T) {
	f := newFleet(t, 4, echo)
	f.list(f.ips[:3]...)
	m := newMux(t, plex.WithConnector(plex.DialResolved(&net.Dialer{})), plex.WithResolver(f.resolver(), askedEvery),
		plex.WithMinConnections(24), plex.WithMaxCapacity(30))
	f.become(m, 8, 8, 8, 0)
	l := newLoad(t, m, 16)
	l.more(1000)

	f.list(f.ips[:2]...)
	f.become(m, 12, 12, 0, 0)
	f.list(f.ips[0], f.ips[1], f.ips[3])
	f.become(m, 8, 8, 0, 8)
	l.more(1000)
	l.end()
	require.Empty(t, l.failures())
	s := m.Stats()
	require.Zero(t, s.Lost, "nothing of this is a loss")
	require.GreaterOrEqual(t, s.Retired, uint64(16))
}

// An address that swallows connects slows down nobody: neither New, nor callers, nor the replacement of what is lost.
// Catches: connects to a dead address that have the places of those to the others; New or a caller waiting for a connect
// that hangs. The connect timeout is longer than this test may take, so whoever waits for one fails it.
func TestFaultOneAddressSwallowsConnects(t *testing.T) {
	f := newFleet(t, 3, echo)
	dark := f.servers[2]
	require.NoError(t, dark.PauseAccept(0))
	fill(t, dark.Addr())

	var m *plex.Multiplexer
	within(t, "New", func() {
		m = newMux(t, plex.WithConnector(plex.DialResolved(&net.Dialer{})), plex.WithResolver(f.resolver(), askedEvery),
			plex.WithMinConnections(12), plex.WithMaxCapacity(24), plex.WithConnectTimeout(10*patience))
	})
	eventually(t, func() bool { return m.Stats().Open >= 12 }, "whole without it")
	for _, a := range m.Addresses() {
		if a.Address.Address == dark.Addr() {
			require.Zero(t, a.Open)
		}
	}
	l := newLoad(t, m, 16)
	l.more(1000)
	require.Empty(t, l.failures())

	// What is lost now is replaced at the address that is left.
	f.servers[0].Refuse()
	f.servers[0].ResetAll()
	eventually(t, func() bool { return f.servers[1].Established() >= 12 }, "whole at one address")
	l.more(1000)
	for _, err := range l.failures() {
		var failed *request.Error
		require.ErrorAs(t, err, &failed)
		require.NotZero(t, failed.Conn, "a request had no connection: %v", err)
		require.Equal(t, f.servers[0].Addr(), failed.Conn.RemoteAddr().String(), err)
	}
	l.end()
}

// fill connects to an address until it answers no more.
func fill(t testing.TB, address string) {
	t.Helper()
	for range 100 {
		d := net.Dialer{Timeout: time.Second}
		c, err := d.Dial("tcp", address)
		var ne net.Error
		if errors.As(err, &ne) && ne.Timeout() {
			return
		}
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
	}
	require.FailNow(t, "the backlog is never full")
}

// Of the servers in SRV records those of the first priority have the connections.
// Catches: connections to servers that are for emergencies only; a port that is not the record's.
func TestFaultTheServersOfSRVRecordsChange(t *testing.T) {
	f := newFleet(t, 3, hold)
	hosts := []string{"a.plex.test.", "b.plex.test.", "c.plex.test."}
	records := func(priorities ...uint16) (all []dns.RR) {
		for i, priority := range priorities {
			var port uint16
			_, err := fmt.Sscan(f.port, &port)
			require.NoError(t, err)
			all = append(all, &dns.A{Hdr: header(hosts[i], dns.TypeA), A: f.ips[i]}, &dns.SRV{
				Hdr: header("_plex._tcp.plex.test.", dns.TypeSRV), Priority: priority, Weight: 1, Port: port, Target: hosts[i],
			})
		}
		return all
	}
	f.zone.set(records(1, 1, 2)...)
	m := newMux(t, plex.WithConnector(plex.DialResolved(&net.Dialer{})), plex.WithMinConnections(6), plex.WithMaxCapacity(9),
		plex.WithResolver(plex.SRV("tcp", "plex", "tcp", "plex.test."), askedEvery))
	established := func() (all []int) {
		for _, p := range f.servers {
			all = append(all, p.Established())
		}
		return all
	}
	eventually(t, func() bool { return slices.Equal([]int{3, 3, 0}, established()) }, "those of the first priority have all")
	var names []string
	for _, a := range m.Addresses() {
		names = append(names, a.Name, a.Address.Address)
	}
	slices.Sort(names)
	require.Equal(t, []string{"a.plex.test", "a.plex.test:" + f.port, "b.plex.test", "b.plex.test:" + f.port}, names)

	f.zone.set(records(2, 2, 1)...)
	eventually(t, func() bool { return slices.Equal([]int{0, 0, 6}, established()) }, "the one that has taken over has all")
	require.Zero(t, m.Stats().Lost)
}

// Over TLS a server is asked for the certificate of the service's name, though its address is what is dialled.
// Catches: the certificate checked against the IP address, so that no server behind DNS can be used over TLS.
func TestFaultTheCertificateIsForTheNameThatWasResolved(t *testing.T) {
	https := httptest.NewTLSServer(nil) // which has a certificate
	defer https.Close()
	roots := x509.NewCertPool()
	roots.AddCert(https.Certificate())
	var mu sync.Mutex
	asked := map[string]bool{}
	config := &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		mu.Lock()
		defer mu.Unlock()
		asked[hello.ServerName] = true
		return &https.TLS.Certificates[0], nil
	}}
	f := newFleet(t, 2, func(c *proxy.Conn) {
		server := tls.Server(c, config)
		_, _ = io.Copy(io.Discard, server)
	})
	d := &tls.Dialer{Config: &tls.Config{RootCAs: roots}}
	m := newMux(t, plex.WithConnector(plex.DialResolved(d)), plex.WithResolver(f.resolver(), 0), plex.WithMinConnections(4))
	eventually(t, func() bool { return slices.Equal([]int{2, 2}, f.open(m)) }, "both servers have two")
	require.Empty(t, d.Config.ServerName, "the user's own configuration is as it was")

	f.zone.set(&dns.A{Hdr: header("wrong.plex.test.", dns.TypeA), A: f.ips[0]})
	_, err := plex.New(t.Context(), plex.WithConnector(plex.DialResolved(d)), plex.WithMinConnections(1),
		plex.WithResolver(plex.DNS("tcp", "wrong.plex.test.:"+f.port), 0))
	var wrong x509.HostnameError
	require.ErrorAs(t, err, &wrong)
	require.Equal(t, "wrong.plex.test", wrong.Host)

	// A name that the user has set stays.
	d = &tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: "www.example.com"}}
	_, err = plex.New(t.Context(), plex.WithConnector(plex.DialResolved(d)), plex.WithMinConnections(1),
		plex.WithResolver(plex.DNS("tcp", "wrong.plex.test.:"+f.port), 0))
	require.NotErrorAs(t, err, &wrong)
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, map[string]bool{"example.com": true, "wrong.plex.test": true, "www.example.com": true}, asked)
}
