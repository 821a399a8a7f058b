package faulttest_test

// A name that resolves to another address than before.

import (
	"context"
	"net"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/proxy"
)

// Row "the name resolves elsewhere now": a redial resolves anew.
// Catches: the address of the first dial kept for ever, so that a service that has moved is never found again.
func TestFaultTheNameResolvesElsewhereNow(t *testing.T) {
	balance(t)
	old, err := proxy.New(proxy.Config{Handler: hold})
	require.NoError(t, err)
	t.Cleanup(old.Close)
	host, port, err := net.SplitHostPort(old.Addr())
	require.NoError(t, err)
	moved, err := proxy.New(proxy.Config{Handler: hold, Listen: net.JoinHostPort("127.0.0.2", port)})
	if err != nil {
		t.Skipf("no second loopback address here: %v", err)
	}
	t.Cleanup(moved.Close)

	var answer atomic.Pointer[net.IP]
	ip := net.ParseIP(host)
	answer.Store(&ip)
	d := &net.Dialer{Resolver: nameServer(t, &answer)}
	m := newMux(t, plex.WithMaxCapacity(2), plex.WithMinConnections(2), plex.WithBackoff(quick),
		plex.WithConnector(plex.DialContext(d, "tcp", net.JoinHostPort("service.plex.test.", port))))
	rd := reader(t, m)
	require.Equal(t, old.Addr(), rd.RemoteAddr().String())
	require.NoError(t, rd.Close())

	eventually(t, func() bool { return old.Established() == 2 }, "the server has both")
	ip2 := net.IPv4(127, 0, 0, 2)
	answer.Store(&ip2)
	old.Refuse()
	old.ResetAll()
	eventually(t, func() bool { s := m.Stats(); return s.Healed >= 2 && s.Open == 2 }, "healed at the new address")
	for range 2 {
		wr := writer(t, m)
		require.Equal(t, moved.Addr(), wr.RemoteAddr().String())
		require.NoError(t, wr.Close())
	}
	eventually(t, func() bool { return moved.Established() == 2 }, "the new server has both")
}

// nameServer is a resolver that answers every question for an IPv4 address with *answer, by a DNS server of its own on
// loopback, and every other with nothing.
func nameServer(t *testing.T, answer *atomic.Pointer[net.IP]) *net.Resolver {
	s := udpServer(t, "")
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 512)
		for {
			n, from, err := s.ReadFromUDP(buf)
			if err != nil {
				return
			}
			if reply := dnsReply(buf[:n], *answer.Load()); reply != nil {
				_, _ = s.WriteToUDP(reply, from) // one who does not get it asks again
			}
		}
	}()
	t.Cleanup(func() { _ = s.Close(); <-done })
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", s.LocalAddr().String())
	}}
}

// dnsReply answers the one question of a DNS query.
func dnsReply(query []byte, ip net.IP) []byte {
	const header = 12
	end := header
	for end < len(query) && query[end] != 0 {
		end += 1 + int(query[end])
	}
	end += 1 + 4 // the root, the type and the class
	if end > len(query) {
		return nil
	}
	isA := query[end-4] == 0 && query[end-3] == 1
	reply := append([]byte(nil), query[:end]...)
	reply[2], reply[3] = 0x84|query[2]&1, 0x80 // an authoritative answer
	copy(reply[4:header], []byte{0, 1, 0, 0, 0, 0, 0, 0})
	if isA {
		reply[7] = 1
		reply = append(reply, 0xC0, header, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
		reply = append(reply, ip.To4()...)
	}
	return reply
}
