package plex_test

// Helpers of watch_test.go: a server on a real socket that knows both ends of its connections, and what plex logs.

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
)

// sockets are the kinds of connection that the watcher sees.
var sockets = []string{"tcp", "tls", "unix"}

// forEachSocket runs f, with a ledger, for every kind.
func forEachSocket(t *testing.T, f func(t *testing.T, l *ledger, s *host)) {
	for _, kind := range sockets {
		t.Run(kind, func(t *testing.T) {
			l := newLedger(t)
			f(t, l, newHost(t, kind))
		})
	}
}

// host listens on a socket, and dials itself: its dial is the connector, and makes both ends. So each end is known
// to the other, whatever the kind, and nothing but the test uses the peers.
type host struct {
	testing.TB
	kind, network, address string
	server, client         *tls.Config // nil without TLS

	// Set before use.
	wrap func(net.Conn) net.Conn // what plex gets instead of the transport
	prep func(client *peer)      // called with each new connection before plex has it

	mu    sync.Mutex // held for a whole dial, so that what is accepted is the other end
	ln    net.Listener
	dials int
	peers []*peer
	taken int // of peers, by next
}

// peer is the service's end of a connection.
type peer struct {
	net.Conn          // through TLS, if that is used
	raw      net.Conn // what it runs over
	client   net.Conn // plex's end
	number   int      // counting from 0
}

// newHost starts one that is gone, with all its connections, when the test ends. Call it after newLedger.
func newHost(tb testing.TB, kind string) *host {
	tb.Helper()
	s := &host{TB: tb, kind: kind, network: "tcp", address: "127.0.0.1:0"}
	if kind == "unix" {
		dir, err := os.MkdirTemp("", "plex")
		require.NoError(tb, err)
		tb.Cleanup(func() { assert.NoError(tb, os.RemoveAll(dir)) })
		s.network, s.address = "unix", filepath.Join(dir, "s")
	}
	if kind == "tls" {
		s.server, s.client = tlsConfigs(tb.(*testing.T))
	}
	s.start()
	s.address = s.ln.Addr().String()
	tb.Cleanup(func() {
		s.stop()
		s.drop((*peer).fin)
	})
	return s
}

// start listens, on the same address as ever. Where the port is somebody's outgoing port at this moment, it waits.
func (s *host) start() {
	s.Helper()
	var ln net.Listener
	require.True(s, within(patience, func() (ok bool) {
		var err error
		ln, err = net.Listen(s.network, s.address)
		return err == nil
	}), "cannot listen on %s", s.address)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ln = ln
}

// stop closes the port. Connections go on.
func (s *host) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ln != nil {
		_ = s.ln.Close()
		s.ln = nil
	}
}

// drop ends all connections that there are.
func (s *host) drop(end func(*peer)) {
	s.mu.Lock()
	peers := s.peers
	s.mu.Unlock()
	for _, p := range peers {
		end(p)
	}
}

// dial makes a connection.
func (s *host) dial(ctx context.Context) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dials++
	var d net.Dialer
	if s.network == "unix" { // which has no address of its own unless it is given one
		d.LocalAddr = &net.UnixAddr{Net: "unix", Name: s.address + "-" + strconv.Itoa(s.dials)}
	}
	client, err := d.DialContext(ctx, s.network, s.address)
	if err != nil {
		return nil, err
	}
	if s.ln == nil { // the port is another's for the moment
		_ = client.Close()
		return nil, errRefused
	}
	raw, err := s.ln.Accept()
	for err == nil && raw.RemoteAddr().String() != client.LocalAddr().String() { // one whose dial was given up
		_ = raw.Close()
		raw, err = s.ln.Accept()
	}
	if err != nil {
		_ = client.Close()
		return nil, err
	}
	p := &peer{Conn: raw, raw: raw, client: client, number: len(s.peers)}
	s.peers = append(s.peers, p)
	if s.server != nil {
		c, server := tls.Client(client, s.client), tls.Server(raw, s.server)
		p.Conn, p.client = server, c
		shaken := later(func() error { return server.HandshakeContext(ctx) })
		if err := errors.Join(c.HandshakeContext(ctx), <-shaken); err != nil {
			_ = client.Close()
			return nil, err
		}
	}
	if s.prep != nil {
		s.prep(p)
	}
	if s.wrap != nil {
		p.client = s.wrap(p.client)
	}
	return p.client, nil
}

// connect is the Connect that plex gets.
func (s *host) connect() plex.Connect { return plex.DialFunc(s.dial) }

// open makes a connection to give to plex.
func (s *host) open() *peer {
	s.Helper()
	_, err := s.dial(context.Background())
	require.NoError(s, err)
	return s.next()
}

// next waits for the next connection in the order in which they were made.
func (s *host) next() *peer {
	s.Helper()
	eventually(s, func() bool { return s.made() > s.taken }, "another connection")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken++
	return s.peers[s.taken-1]
}

// at returns a connection by its number.
func (s *host) at(number int) *peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peers[number]
}

// made is how many connections have been made.
func (s *host) made() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.peers)
}

// dialed is how many times a connection was tried to be made.
func (s *host) dialed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dials
}

// mux makes a multiplexer of one connection that is given, and hence does not count as one that the service has
// accepted only to hang up.
func (s *host) mux(l *ledger, opts ...plex.Option) (*plex.Multiplexer, *peer) {
	s.Helper()
	p := s.open()
	opts = append([]plex.Option{plex.WithConnections(p.client), plex.WithConnector(s.connect())}, opts...)
	return l.mux(opts...), p
}

// fin closes the connection in good order.
func (p *peer) fin() { _ = p.Close() }

// reset breaks it. A TCP connection that is closed without lingering is reset, as is any that is closed with something
// unread.
func (p *peer) reset() {
	if tc, ok := p.raw.(*net.TCPConn); ok {
		_ = tc.SetLinger(0)
	}
	_ = p.raw.Close()
}

// halfClose ends the peer's stream; it can still read.
func (p *peer) halfClose() { _ = p.Conn.(interface{ CloseWrite() error }).CloseWrite() }

// send has p send n bytes of its stream, which all have to find room in the sockets' buffers.
func (p *peer) send(t testing.TB, offset, n int64) {
	t.Helper()
	require.NoError(t, p.SetWriteDeadline(time.Now().Add(patience)))
	require.NoError(t, writeOracle(p, p.number, offset, n, 16<<10))
}

// requireHealed waits until m is whole again with as many connections as have been lost.
func requireHealed(t testing.TB, m *plex.Multiplexer, open, lost int) {
	t.Helper()
	ok := within(patience, func() bool {
		s := m.Stats()
		return s.Open == open && s.Lost == uint64(lost) && s.Healed == uint64(lost) && s.Connecting == 0
	})
	if !ok {
		require.FailNow(t, "not healed", "%d open and %d lost were wanted: %+v", open, lost, m.Stats())
	}
}

// requirePassing passes bytes both ways over the connection of p, which is m's only one.
func requirePassing(t *testing.T, m *plex.Multiplexer, p *peer) {
	t.Helper()
	r, w := readerOn(t, m, p), leaseWriter(t, m)
	require.Equal(t, p.client.LocalAddr(), w.LocalAddr(), "the writer's connection")
	requireBothWays(t, r, w, p)
	requireClosed(t, r, w)
}

// requireBothWays passes bytes over the two halves of p's connection.
func requireBothWays(t testing.TB, r plex.Reader, w plex.Writer, p *peer) {
	t.Helper()
	require.NoError(t, p.SetDeadline(time.Now().Add(patience)))
	_, err := w.Write([]byte("ping"))
	require.NoError(t, err)
	b := make([]byte, 4)
	_, err = io.ReadFull(p, b)
	require.NoError(t, err)
	require.Equal(t, "ping", string(b))
	_, err = p.Write([]byte("pong"))
	require.NoError(t, err)
	require.NoError(t, r.SetReadDeadline(time.Now().Add(patience)))
	require.Equal(t, "pong", readN(t, r, 4))
	require.NoError(t, p.SetDeadline(time.Time{}))
}

// readerOn leases the reader of p's connection and puts any others back that it comes upon. It waits, since a half that
// has just been admitted, or is being looked at, is idle a moment later.
func readerOn(t *testing.T, m *plex.Multiplexer, p *peer) plex.Reader {
	t.Helper()
	var others []io.Closer
	defer func() { requireClosed(t, others...) }()
	for {
		r := leaseReader(t, m)
		if r.LocalAddr().String() == p.client.LocalAddr().String() {
			return r
		}
		others = append(others, r)
	}
}

// journal is a slog.Handler that keeps what it is told.
type journal struct {
	mu      sync.Mutex
	entries []entry
}

type entry struct {
	message string
	attrs   map[string]any
}

func (*journal) Enabled(context.Context, slog.Level) bool { return true }
func (j *journal) WithAttrs([]slog.Attr) slog.Handler     { return j }
func (j *journal) WithGroup(string) slog.Handler          { return j }

func (j *journal) Handle(_ context.Context, r slog.Record) error {
	e := entry{r.Message, map[string]any{}}
	r.Attrs(func(a slog.Attr) bool {
		e.attrs[a.Key] = a.Value.Any()
		return true
	})
	j.mu.Lock()
	defer j.mu.Unlock()
	j.entries = append(j.entries, e)
	return nil
}

func (j *journal) logger() *slog.Logger { return slog.New(j) }

// named waits for the first n entries with this message, and returns them.
func (j *journal) named(t testing.TB, message string, n int) (found []entry) {
	t.Helper()
	eventually(t, func() bool {
		j.mu.Lock()
		defer j.mu.Unlock()
		found = nil
		for _, e := range j.entries {
			if e.message == message {
				found = append(found, e)
			}
		}
		return len(found) >= n
	}, "%d log entries %q", n, message)
	return found
}
