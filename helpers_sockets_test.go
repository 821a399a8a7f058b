package plex_test

// Real connections for tests: pairs of each kind, a server that knows both ends, the byte oracle, and what is ready.

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
)

// patience bounds everything in these tests that has to happen soon. It is never waited out when all is well, so it is
// long enough for a busy machine and the race detector.
const patience = time.Minute

// transport is one kind of connection with the traits that the tests have to know.
type transport struct {
	name string
	// open returns both ends of a new connection. What they need beside them is gone when the test ends.
	open func(t *testing.T) (client, server net.Conn)
	// halfCloses is set where one side can end its stream and go on reading.
	halfCloses bool
	// resets is set where SetLinger(0) and Close reset the connection.
	resets bool
	// deadlines is set where a deadline interrupts a blocked Read without harm.
	deadlines bool
	// writeTimeouts is set where a connection survives a Write that a deadline cut before the first byte.
	writeTimeouts bool
}

// streams are all the transports that carry a stream of bytes.
func streams() []transport {
	return []transport{
		{name: "tcp", open: tcpPair, halfCloses: true, resets: true, deadlines: true, writeTimeouts: true},
		{name: "tls", open: tlsPair, halfCloses: true, deadlines: true},
		{name: "unix", open: unixPair, halfCloses: true, deadlines: true, writeTimeouts: true},
		{name: "pipe", open: pipePair, deadlines: true, writeTimeouts: true},
		{name: "no deadlines", open: stubbornPair, halfCloses: true, resets: true},
	}
}

// forEachTransport runs f, with a ledger, for every transport that f is for.
func forEachTransport(t *testing.T, fits func(transport) bool, f func(t *testing.T, books *ledger, tr transport)) {
	for _, tr := range streams() {
		if fits(tr) {
			t.Run(tr.name, func(t *testing.T) { f(t, newLedger(t), tr) })
		}
	}
}

func anyTransport(transport) bool { return true }

func listenerPair(t *testing.T, l net.Listener, dial func() (net.Conn, error)) (client, server net.Conn) {
	t.Helper()
	client, err := dial()
	require.NoError(t, err)
	server, err = l.Accept()
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return client, server
}

func tcpPair(t *testing.T) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return listenerPair(t, l, func() (net.Conn, error) { return net.Dial("tcp", l.Addr().String()) })
}

// unixPair binds the client too, so that its LocalAddr tells the connections apart.
func unixPair(t *testing.T) (client, server net.Conn) {
	t.Helper()
	dir, err := os.MkdirTemp("", "plex")
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	require.NoError(t, err)
	return listenerPair(t, l, func() (net.Conn, error) {
		return net.DialUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(dir, "c")}, l.Addr().(*net.UnixAddr))
	})
}

// counted is a net.Conn that counts how often it is closed. Nothing else of what it wraps can be seen through it.
type counted struct {
	net.Conn
	closes atomic.Int64
}

func (c *counted) Close() error {
	c.closes.Add(1)
	return c.Conn.Close()
}

func (c *counted) Closes() int { return int(c.closes.Load()) }

// numbered is one end of a net.Pipe with a LocalAddr of its own.
type numbered struct {
	counted
	addr fakenet.Addr
}

func (c *numbered) LocalAddr() net.Addr { return c.addr }

func pipePair(*testing.T) (client, server net.Conn) {
	client, server = net.Pipe()
	c := &numbered{addr: fakenet.NewAddr("pipe")}
	c.Conn = client
	return c, server
}

// stubborn is a net.Conn that refuses deadlines, as the channels of SSH do.
type stubborn struct{ counted }

func (*stubborn) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (*stubborn) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (*stubborn) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

func stubbornPair(t *testing.T) (client, server net.Conn) {
	t.Helper()
	client, server = tcpPair(t)
	c := &stubborn{}
	c.Conn = client
	return c, server
}

// tlsPair has done the handshake.
func tlsPair(t *testing.T) (client, server net.Conn) {
	t.Helper()
	c, s := tlsEnds(t)
	var wg sync.WaitGroup
	wg.Go(func() { assert.NoError(t, s.Handshake()) })
	require.NoError(t, c.Handshake())
	wg.Wait()
	return c, s
}

// tlsEnds has not done the handshake.
func tlsEnds(t *testing.T) (client, server *tls.Conn) {
	t.Helper()
	c, s := tcpPair(t)
	serverConfig, clientConfig := tlsConfigs(t)
	return tls.Client(c, clientConfig), tls.Server(s, serverConfig)
}

var certificate = sync.OnceValues(func() (cert tls.Certificate, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return cert, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "plex"},
		DNSNames:              []string{"plex.test"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return cert, err
	}
	leaf, err := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
})

func tlsConfigs(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	cert, err := certificate()
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(cert.Leaf)
	return &tls.Config{Certificates: []tls.Certificate{cert}}, &tls.Config{RootCAs: roots, ServerName: "plex.test"}
}

// udpPair is a connected client and an unconnected server.
func udpPair(t *testing.T) (client *net.UDPConn, server *net.UDPConn) {
	t.Helper()
	server, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	conn, err := net.Dial("udp", server.LocalAddr().String())
	require.NoError(t, err)
	return conn.(*net.UDPConn), server
}

// udpPacketPair and unixgramPair are a connected client and an unconnected server.
func udpPacketPair(t *testing.T) (client net.Conn, server net.PacketConn) {
	t.Helper()
	return udpPair(t)
}

func unixgramPair(t *testing.T) (client net.Conn, server net.PacketConn) {
	t.Helper()
	dir, err := os.MkdirTemp("", "plex")
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
	at := func(name string) *net.UnixAddr { return &net.UnixAddr{Net: "unixgram", Name: filepath.Join(dir, name)} }
	server, err = net.ListenUnixgram("unixgram", at("server"))
	require.NoError(t, err)
	client, err = net.DialUnix("unixgram", at("client"), at("server"))
	require.NoError(t, err)
	return client, server
}

// The byte oracle: every 8 bytes of a stream are a word that carries the stream's number and the word's place in it.

func oracle(p []byte, stream int, offset int64) {
	var word [8]byte
	for len(p) > 0 {
		binary.BigEndian.PutUint64(word[:], uint64(stream)<<48|uint64(offset/8))
		n := copy(p, word[offset%8:])
		p, offset = p[n:], offset+int64(n)
	}
}

// checkOracle returns an error that says where p departs from the stream.
func checkOracle(p []byte, stream int, offset int64) error {
	want := make([]byte, len(p))
	oracle(want, stream, offset)
	if bytes.Equal(p, want) {
		return nil
	}
	for i := range p {
		if p[i] == want[i] {
			continue
		}
		// Show whole words where there are some.
		start := i - int((offset+int64(i))%8)
		start = max(start, 0)
		end := min(start+24, len(p))
		return fmt.Errorf("stream %d at offset %d (%d bytes in): got % x, want % x", stream, offset+int64(i), i, p[start:end], want[start:end])
	}
	return nil
}

// link is a connection with both ends, and what leases have done with it.
type link struct {
	client, server net.Conn
	down, up       int // the numbers of its streams: from server to client, and to the server

	// The number of the latest read lease, and how much write leases have written. They have no lock on purpose: the
	// race detector shall see it when two leases of a half overlap, or when one does not happen before the next.
	lease   int
	written int64

	mu       sync.Mutex
	received []delivery
}

// delivery is what a read lease got, in order. Leases have ended when the next one begins, but what they got may be
// handed in late.
type delivery struct {
	lease int
	data  []byte
}

// begin numbers a read lease that was just acquired.
func (l *link) begin() (lease int) {
	l.lease++
	return l.lease
}

// deliver notes what a read lease got. One lease calls it in order.
func (l *link) deliver(lease int, data []byte) {
	if len(data) > 0 {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.received = append(l.received, delivery{lease, bytes.Clone(data)})
	}
}

// checkReceived checks that the leases got the stream's first bytes, in order, without a gap and none twice, and
// returns their number.
func (l *link) checkReceived() (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.SortStableFunc(l.received, func(a, b delivery) int { return a.lease - b.lease })
	var offset int64
	for i, d := range l.received {
		if err := checkOracle(d.data, l.down, offset); err != nil {
			return offset, fmt.Errorf("lease %d, piece %d of %d: %w", d.lease, i+1, len(l.received), err)
		}
		offset += int64(len(d.data))
	}
	return offset, nil
}

// links are the connections of one multiplexer.
type links []*link

// openLinks opens n connections and has the books watch those that count.
func openLinks(t *testing.T, books *ledger, tr transport, n int) links {
	t.Helper()
	ls := make(links, n)
	for i := range ls {
		client, server := tr.open(t)
		if c, ok := client.(fakenet.CloseCounter); ok {
			books.Watch(c)
		}
		ls[i] = &link{client: client, server: server, down: 1 + i, up: 101 + i}
		t.Cleanup(func() { server.Close() }) // the end that plex does not own; closed twice is fine
	}
	return ls
}

func (ls links) clients() []net.Conn {
	conns := make([]net.Conn, len(ls))
	for i, l := range ls {
		conns[i] = l.client
	}
	return conns
}

// of returns the link that a lease with this LocalAddr is on.
func (ls links) of(local net.Addr) *link {
	return ls[slices.IndexFunc(ls, func(l *link) bool { return l.client.LocalAddr().String() == local.String() })]
}

// openOne is a multiplexer over one connection.
func openOne(t *testing.T, books *ledger, tr transport) (*plex.Multiplexer, *link) {
	t.Helper()
	ls := openLinks(t, books, tr, 1)
	return books.mux(plex.WithConnections(ls.clients()...)), ls[0]
}

func leaseReader(t *testing.T, m *plex.Multiplexer) plex.Reader {
	t.Helper()
	r, err := m.Reader(soon(t), 0)
	require.NoError(t, err)
	return r
}

func leaseWriter(t *testing.T, m *plex.Multiplexer) plex.Writer {
	t.Helper()
	w, err := m.Writer(soon(t), 0)
	require.NoError(t, err)
	return w
}

// soon returns a context that outlives a test in which all is well.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// finish runs f and fails the test when it does not return soon.
func finish(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(patience):
		buf := make([]byte, 1<<20)
		t.Fatalf("%s takes longer than %v:\n%s", what, patience, buf[:runtime.Stack(buf, true)])
	}
}

// writeOracle writes n bytes of stream in pieces of up to size bytes.
func writeOracle(w io.Writer, stream int, offset, n int64, size int) error {
	buf := make([]byte, size)
	for n > 0 {
		p := buf[:min(int64(size), n)]
		oracle(p, stream, offset)
		m, err := w.Write(p)
		if err != nil {
			return fmt.Errorf("stream %d at offset %d: %w", stream, offset+int64(m), err)
		}
		offset, n = offset+int64(m), n-int64(m)
	}
	return nil
}

// readOracle reads stream until its end, or until n bytes where n is not negative, and returns how many bytes came.
func readOracle(r io.Reader, stream int, n int64) (int64, error) {
	buf := make([]byte, 32<<10)
	var offset int64
	for n < 0 || offset < n {
		p := buf
		if n >= 0 {
			p = buf[:min(int64(len(buf)), n-offset)]
		}
		m, err := r.Read(p)
		if wrong := checkOracle(p[:m], stream, offset); wrong != nil {
			return offset, wrong
		}
		offset += int64(m)
		if err != nil {
			return offset, err
		}
	}
	return offset, nil
}

// blockedIn says whether a goroutine waits for I/O, or for the other end of a pipe, beneath the function.
func blockedIn(function string) bool {
	buf := make([]byte, 1<<20)
	for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		state, frames, _ := strings.Cut(stack, "\n")
		if strings.Contains(frames, function) && (strings.Contains(state, "[IO wait") || strings.Contains(state, "[select")) {
			return true
		}
	}
	return false
}

// echo sends back what comes over conn until its end. It hides conn's type from io.Copy, which would splice: the pipes
// that the net package keeps for that are descriptors which only the garbage collector closes.
func echo(conn net.Conn) {
	_, _ = io.Copy(struct{ io.Writer }{conn}, struct{ io.Reader }{conn})
}

// ---------------------------------------------------------------------------------------------------------------
// A server on a real socket that knows both ends of its connections, and what plex logs.

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
	requireHealedWithin(t, patience, m, open, lost)
}

func requireHealedWithin(t testing.TB, d time.Duration, m *plex.Multiplexer, open, lost int) {
	t.Helper()
	ok := within(d, func() bool {
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

// ---------------------------------------------------------------------------------------------------------------
// Ready readers.

// readyReader leases a reader that must be ready, or become so soon.
func readyReader(t testing.TB, m *plex.Multiplexer) plex.Reader {
	t.Helper()
	r, err := m.ReadyReader(t.Context(), patience)
	require.NoError(t, err)
	return r
}

// requireReady leases a reader that must be ready soon, checks that its first bytes are want and that it is on the
// connection with this local address, and puts it back.
func requireReady(t testing.TB, m *plex.Multiplexer, local net.Addr, want string) {
	t.Helper()
	r := readyReader(t, m)
	require.Equal(t, local.String(), r.LocalAddr().String(), "the connection that is ready")
	require.Equal(t, want, readN(t, r, len(want)))
	requireClosed(t, r)
}

// requireNothingReady checks that nothing is ready, nor becomes so in a while that is long for what could be late.
func requireNothingReady(t testing.TB, m *plex.Multiplexer) {
	t.Helper()
	r, err := m.ReadyReader(t.Context(), 50*time.Millisecond)
	if err == nil {
		b := make([]byte, 100)
		_ = r.SetReadDeadline(time.Now().Add(time.Millisecond))
		n, readErr := r.Read(b)
		_ = r.Close()
		require.FailNow(t, "a reader was ready", "on %v: %q, %v", r.LocalAddr(), b[:n], readErr)
	}
	require.ErrorIs(t, err, plex.ErrTimeout)
}

// attend turns the attention of m on, which nothing but ReadyReader does.
func attend(t testing.TB, m *plex.Multiplexer) {
	t.Helper()
	r, err := m.ReadyReader(t.Context(), -1)
	if err == nil {
		requireClosed(t, r)
	}
}

// requireIdleReaders waits until n read halves are idle. One that plex is looking at is idle a moment later.
func requireIdleReaders(t testing.TB, m *plex.Multiplexer, n int) {
	t.Helper()
	eventually(t, func() bool { return m.Stats().IdleReaders == n }, "%d read halves are idle", n)
}

// wantReady asks for a ready reader in the background of a bubble, and returns when that waits or is done.
func wantReady(t *testing.T, m *plex.Multiplexer, timeout time.Duration) <-chan waiter {
	ch := later(func() waiter {
		r, err := m.ReadyReader(t.Context(), timeout)
		return waiter{r: r, err: err, at: time.Now()}
	})
	synctest.Wait()
	return ch
}

// cork is the service's end of a connection which keeps back what is written to it, if it is in place.
type cork struct {
	net.Conn

	mu    sync.Mutex
	place bool
	held  []byte
}

func (c *cork) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.place {
		return c.Conn.Write(p)
	}
	c.held = append(c.held, p...)
	return len(p), nil
}

// put keeps back what is written from now on.
func (c *cork) put() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.place = true
}

// kept is how many bytes are kept back.
func (c *cork) kept() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.held)
}

// pass lets the first n bytes that are kept back go.
func (c *cork) pass(t testing.TB, n int) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.Conn.Write(c.held[:n])
	require.NoError(t, err)
	c.held = c.held[n:]
}
