//go:build linux

package plex

// The sweeper, which watches connections where there is no epoll, in the place of the watcher. Where it is the real
// thing, watch_test.go tests it.

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// sweepPatience bounds what takes a sweep or two.
const sweepPatience = 10 * time.Second

// swept is a multiplexer whose connections are swept, and its peers.
type swept struct {
	*Multiplexer
	*testing.T

	mu    sync.Mutex
	peers []*sweptPeer // in the order of the connections
}

// sweptPeer is the other end of a connection.
type sweptPeer struct {
	net.Conn          // through TLS, if that is used
	raw      net.Conn // what it runs over
	client   net.Conn
}

// sweeping makes a multiplexer of one connection of each kind that is named, with a sweeper in the watcher's place. A
// connection is replaced by one of the kind of the first.
func sweeping(t *testing.T, kinds ...string) *swept {
	t.Helper()
	goroutines, descriptors := runtime.NumGoroutine(), openDescriptors(t)
	s := &swept{T: t}
	var conns []net.Conn
	for _, kind := range kinds {
		conns = append(conns, s.open(kind))
	}
	m, err := New(t.Context(), WithConnections(conns...),
		WithConnector(DialFunc(func(context.Context) (net.Conn, error) { return s.open(kinds[0]), nil })),
		WithBackoff(func(int) time.Duration { return time.Millisecond }))
	require.NoError(t, err)
	s.Multiplexer = m

	m.watcher.stop() // it sees no more, of the replacements neither
	sweeper := newSweeper(m)
	require.True(t, m.spawn(sweeper.run))
	stop := make(chan struct{})
	require.True(t, m.spawn(func() { // what Multiplexer.watch and unwatchConn do
		known := map[*conn]bool{}
		for {
			m.mu.Lock()
			for c := range m.conns {
				if c.admitted && !known[c] && sweeps(c) {
					known[c] = true
					sweeper.add(c)
				}
				if c.shutting {
					sweeper.remove(c)
				}
			}
			m.mu.Unlock()
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}))
	t.Cleanup(func() {
		close(stop)
		sweeper.stop()
		require.NoError(t, m.Close())
		for _, p := range s.peers {
			_ = p.raw.Close()
		}
		soon(t, func() bool { return runtime.NumGoroutine() <= goroutines && openDescriptors(t) <= descriptors },
			"the goroutines and descriptors of before")
	})
	return s
}

func openDescriptors(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}

// soon waits until ok holds.
func soon(t *testing.T, ok func() bool, what string, args ...any) {
	t.Helper()
	for end := time.Now().Add(sweepPatience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			require.FailNow(t, "did not happen", append([]any{what}, args...)...)
		}
	}
}

// open makes a connection.
func (s *swept) open(kind string) net.Conn {
	network, address := "tcp", "127.0.0.1:0"
	var d net.Dialer
	if kind == "unix" {
		dir, err := os.MkdirTemp("", "plex")
		require.NoError(s, err)
		defer os.RemoveAll(dir) //nolint:errcheck // it is only a name by then
		network, address = "unix", filepath.Join(dir, "s")
	}
	ln, err := net.Listen(network, address)
	require.NoError(s, err)
	defer ln.Close() //nolint:errcheck // likewise
	client, err := d.Dial(network, ln.Addr().String())
	require.NoError(s, err)
	raw, err := ln.Accept()
	require.NoError(s, err)
	p := &sweptPeer{Conn: raw, raw: raw, client: client}
	if kind == "tls" {
		serverConfig, clientConfig := sweptTLS(s.T)
		c, server := tls.Client(client, clientConfig), tls.Server(raw, serverConfig)
		p.Conn, p.client = server, c
		var wg sync.WaitGroup
		wg.Go(func() { assert.NoError(s, server.Handshake()) })
		require.NoError(s, c.Handshake())
		wg.Wait()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.peers = append(s.peers, p)
	return p.client
}

var sweptCertificate = sync.OnceValues(func() (cert tls.Certificate, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return cert, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"plex.test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return cert, err
	}
	leaf, err := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
})

func sweptTLS(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	cert, err := sweptCertificate()
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(cert.Leaf)
	return &tls.Config{Certificates: []tls.Certificate{cert}}, &tls.Config{RootCAs: roots, ServerName: "plex.test"}
}

// peer returns the other end of a connection by its number.
func (s *swept) peer(i int) *sweptPeer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peers[i]
}

func (p *sweptPeer) reset() {
	if tc, ok := p.raw.(*net.TCPConn); ok {
		_ = tc.SetLinger(0)
	}
	_ = p.raw.Close()
}

// healed waits until lost connections have been replaced.
func (s *swept) healed(lost int) {
	s.Helper()
	soon(s.T, func() bool {
		st := s.Stats()
		return st.Lost == uint64(lost) && st.Healed == uint64(lost) && st.Open == st.Capacity
	}, "%d connections replaced: %+v", lost, s.Stats())
}

// number is the number of a peer.
func (s *swept) number(p *sweptPeer) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Index(s.peers, p)
}

// readersOf leases all readers that are idle, and returns them by the peer.
func (s *swept) readersOf(n int) map[*sweptPeer]Reader {
	s.Helper()
	readers := make(map[*sweptPeer]Reader, n)
	for range n {
		r, err := s.Reader(s.Context(), sweepPatience) // one that is being swept is not idle at that moment
		require.NoError(s, err)
		s.mu.Lock()
		i := slices.IndexFunc(s.peers, func(p *sweptPeer) bool { return p.client == r.h.conn.nc })
		readers[s.peers[i]] = r
		s.mu.Unlock()
	}
	return readers
}

func TestSweeperReplacesIdleConnectionsThatTheirPeersEnd(t *testing.T) {
	kinds := []string{"tcp", "tls", "unix"}
	s := sweeping(t, slices.Concat(kinds, kinds, kinds, kinds)...)
	_, err := s.peer(5).client.Write([]byte("unread")) // which is how a Unix socket is reset
	require.NoError(t, err)
	for i := range kinds {
		require.NoError(t, s.peer(i).Close())
		s.peer(3 + i).reset()
		if cw, ok := s.peer(6 + i).Conn.(interface{ CloseWrite() error }); ok {
			require.NoError(t, cw.CloseWrite()) // over TLS, too, since it reads
		}
	}
	started := time.Now()
	s.healed(9)
	t.Logf("replaced after %v", time.Since(started))
	require.Len(t, s.peers, 21)

	// The others are what they were, and the new ones are good.
	for p, r := range s.readersOf(12) {
		require.GreaterOrEqual(t, s.number(p), 9)
		_, err := p.Write([]byte("word"))
		require.NoError(t, err)
		b := make([]byte, 4)
		require.NoError(t, r.SetReadDeadline(time.Now().Add(sweepPatience)))
		_, err = io.ReadFull(r, b)
		require.NoError(t, err)
		require.Equal(t, "word", string(b))
		require.NoError(t, r.Close())
	}

	// And are swept again.
	s.peer(12).reset()
	require.NoError(t, s.peer(13).Close())
	s.healed(11)
	w, err := s.Writer(t.Context(), 0)
	require.NoError(t, err)
	require.NoError(t, w.Close())
}

// The real watcher keeps no account of what is gone, in its map or in the kernel.
func TestWatcherForgetsConnectionsThatAreGone(t *testing.T) {
	s := &swept{T: t}
	m, err := New(t.Context(), WithConnections(s.open("tcp"), s.open("tcp")),
		WithConnector(DialFunc(func(context.Context) (net.Conn, error) { return s.open("tcp"), nil })),
		WithBackoff(func(int) time.Duration { return time.Millisecond }))
	require.NoError(t, err)
	s.Multiplexer = m
	for i := range 10 {
		if i%2 == 0 {
			s.peer(i).reset()
		} else {
			require.NoError(t, s.peer(i).Close())
		}
		s.healed(i + 1)
	}
	soon(t, func() bool {
		m.watcher.mu.Lock()
		defer m.watcher.mu.Unlock()
		return len(m.watcher.conns) == 2
	}, "it knows the two that are open")
	require.NoError(t, m.Close())
	for _, p := range s.peers {
		_ = p.raw.Close()
	}
}

func TestSweeperLeavesWhatItFindsToTheNextReader(t *testing.T) {
	kinds := []string{"tcp", "tls", "unix"}
	s := sweeping(t, slices.Concat(kinds, kinds)...)
	long := strings.Repeat("0123456789", 10_000)
	short := long[:10] // with which the end of a TLS connection comes in one piece
	for i, p := range s.peers {
		message := long
		if i >= len(kinds) {
			message = short
		}
		_, err := p.Write([]byte(message))
		require.NoError(t, err)
		require.NoError(t, p.Close())
	}
	soon(t, func() bool { // the sweeper has read something from each
		swept := 0
		s.Multiplexer.mu.Lock()
		defer s.Multiplexer.mu.Unlock()
		for c := range s.conns {
			if c.r.state.Load()&backlog != 0 {
				swept++
			}
		}
		return swept == 2*len(kinds)
	}, "a sweep")
	for read := 0; read < 2*len(kinds); {
		for p, r := range s.readersOf(1) {
			i := s.number(p)
			if i < 2*len(kinds) { // else a replacement's
				message := long
				if i >= len(kinds) {
					message = short
				}
				require.NoError(t, r.SetReadDeadline(time.Now().Add(sweepPatience)))
				got, err := io.ReadAll(r)
				require.NoError(t, err)
				require.Equal(t, len(message), len(got))
				require.Equal(t, message, string(got))
				read++
			}
			require.NoError(t, r.Close())
		}
	}
	s.healed(2 * len(kinds))
}

// A glance comes between leases at any moment, and nothing is lost by it, or disturbed.
func TestSweeperAmongLeasesLosesNothing(t *testing.T) {
	for _, kind := range []string{"tcp", "tls", "unix"} {
		t.Run(kind, func(t *testing.T) {
			const words = 10_000
			s := sweeping(t, kind)
			var c *conn
			for c = range s.conns {
			}
			p := s.peers[0]
			late := time.AfterFunc(sweepPatience, func() { _ = p.raw.Close() }) // and with it the reads, which have no deadline
			defer late.Stop()
			var wg sync.WaitGroup
			defer wg.Wait()
			stop := make(chan struct{})
			defer close(stop)
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						c.glance()
						runtime.Gosched()
					}
				}
			})
			wg.Go(func() {
				buf := make([]byte, 0, 8*100)
				for i := 0; i < words; i += 100 {
					buf = buf[:0]
					for j := range 100 {
						buf = binary.BigEndian.AppendUint64(buf, uint64(i+j))
					}
					if _, err := p.Write(buf); !assert.NoError(t, err) {
						return
					}
					if i%2000 == 0 {
						time.Sleep(2 * time.Millisecond) // so that glances find nothing, too
					}
				}
			})
			word := make([]byte, 8)
			var r Reader
			for i := range words {
				if i%37 == 0 {
					var err error
					r, err = s.Reader(t.Context(), sweepPatience)
					require.NoError(t, err)
				}
				_, err := io.ReadFull(r, word)
				require.NoError(t, err)
				require.EqualValues(t, i, binary.BigEndian.Uint64(word))
				if i%37 == 36 {
					require.NoError(t, r.Close())
				}
			}
			_ = r.Close() // twice if the words end with a lease
			require.Zero(t, s.Stats().Lost)
		})
	}
}

func TestSweepsTellsWhatCanBeSwept(t *testing.T) {
	udp, err := net.Dial("udp", "127.0.0.1:9")
	require.NoError(t, err)
	defer udp.Close() //nolint:errcheck // nothing was sent
	pipe, other := net.Pipe()
	defer pipe.Close()  //nolint:errcheck // a pipe
	defer other.Close() //nolint:errcheck // a pipe
	for _, tc := range []struct {
		nc       net.Conn
		datagram bool
		want     bool
	}{
		{&net.TCPConn{}, false, true},
		{&net.UnixConn{}, false, true},
		{&net.UnixConn{}, true, false},
		{&tls.Conn{}, false, true},
		{udp, true, false},
		{pipe, false, false},
		{struct{ net.Conn }{&net.TCPConn{}}, false, false},
	} {
		assert.Equal(t, tc.want, sweeps(&conn{nc: tc.nc, datagram: tc.datagram}), "%T", tc.nc)
	}
}
