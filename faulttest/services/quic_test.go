package services

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/nettest"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/examples/quic/streams"
	"go.atomizer.io/plex/message"
	"go.atomizer.io/plex/request"
)

// idleTimeout is after how long without a packet a QUIC connection is dead.
const idleTimeout = time.Second

// quicConfigs makes the configurations of a server and of a client that trusts it.
func quicConfigs() (server, client *tls.Config) {
	certificate, client := certified()
	client = client.Clone()
	client.NextProtos = []string{"plex-test"}
	return &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: client.NextProtos}, client
}

// reversal is a service over QUIC that answers each request with its payload reversed, on the stream that it came over. It
// can close the QUIC connections of its clients, and go away without a word and come back on the same port.
type reversal struct {
	t        *testing.T
	tls      *tls.Config
	addr     *net.UDPAddr
	resetKey quic.StatelessResetKey // the same after it has come back, so that it can disown what it does not know any more

	connections, accepted, serving atomic.Int64 // connections and streams that were accepted, and streams being served

	mu        sync.Mutex
	socket    *net.UDPConn
	transport *quic.Transport // nil while it is down
	conns     map[*quic.Conn]struct{}
	users     sync.WaitGroup
}

// newReversal makes a service that is down.
func newReversal(t *testing.T, config *tls.Config) *reversal {
	t.Helper()
	host, port := freeAddress(t)
	s := &reversal{t: t, tls: config, addr: &net.UDPAddr{IP: net.ParseIP(host), Port: port}}
	_, _ = rand.Read(s.resetKey[:]) // it never fails
	t.Cleanup(s.down)
	return s
}

func (s *reversal) address() string { return s.addr.String() }

func (s *reversal) up() {
	s.t.Helper()
	socket, err := net.ListenUDP("udp", s.addr)
	require.NoError(s.t, err)
	transport := &quic.Transport{Conn: socket, StatelessResetKey: &s.resetKey}
	listener, err := transport.Listen(s.tls, &quic.Config{MaxIdleTimeout: idleTimeout})
	require.NoError(s.t, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.socket, s.transport, s.conns = socket, transport, make(map[*quic.Conn]struct{})
	s.users.Go(func() { s.accept(listener) })
}

// down ends the service as the end of its process would: no client is told.
func (s *reversal) down() {
	s.mu.Lock()
	transport, socket := s.transport, s.socket
	s.transport = nil
	s.mu.Unlock()
	if transport != nil {
		require.NoError(s.t, errors.Join(transport.Close(), socket.Close()))
		s.users.Wait()
	}
}

// closeOne closes the QUIC connection of a client, with all its streams, and tells it. It reports whether there was one.
func (s *reversal) closeOne() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.conns {
		if conn.Context().Err() == nil {
			_ = conn.CloseWithError(1, "closed by the test") // the error is that it has ended already
			return true
		}
	}
	return false
}

func (s *reversal) accept(listener *quic.Listener) {
	for {
		conn, err := listener.Accept(context.Background())
		if err != nil {
			return // the service is down
		}
		s.connections.Add(1)
		s.mu.Lock()
		s.conns[conn] = struct{}{}
		s.mu.Unlock()
		s.users.Go(func() {
			for {
				accepted, err := conn.AcceptStream(context.Background())
				if err != nil {
					return
				}
				s.accepted.Add(1)
				s.serving.Add(1)
				s.users.Go(func() {
					defer s.serving.Add(-1)
					reverse(streams.Conn(conn, accepted))
				})
			}
		})
	}
}

// reverse answers the requests of one stream, until it ends.
func reverse(conn net.Conn) {
	defer conn.Close()
	requests := bufio.NewScanner(conn)
	requests.Split(reversing{}.Split)
	for requests.Scan() {
		id, payload, _ := reversing{}.Parse(requests.Bytes())
		slices.Reverse(payload)
		reply, err := reversing{}.Append(nil, id, payload)
		if err != nil {
			return
		}
		if _, err := conn.Write(reply); err != nil {
			return
		}
	}
}

// reversing is what the service speaks: an identifier and a payload, behind their length.
type reversing struct{}

func (reversing) Append(dst []byte, id uint64, payload []byte) ([]byte, error) {
	return message.Prefix{Bytes: 4}.Append(dst, append(binary.BigEndian.AppendUint64(nil, id), payload...))
}

func (reversing) Split(data []byte, atEOF bool) (advance int, token []byte, err error) {
	return message.Prefix{Bytes: 4}.Split(data, atEOF)
}

func (reversing) Parse(message []byte) (id uint64, reply []byte, err error) {
	if len(message) < 8 {
		return 0, nil, errors.New("a message without an identifier")
	}
	return binary.BigEndian.Uint64(message), message[8:], nil
}

// quicClient asks the service over a pool of streams.
type quicClient struct {
	dialer   *streams.Dialer
	mux      *plex.Multiplexer
	requests *request.Client[[]byte, []byte]
}

// startQUIC starts a service, and a client with so many streams, which end with the test.
func startQUIC(t *testing.T, pooled int) (*reversal, *quicClient) {
	t.Helper()
	serverTLS, clientTLS := quicConfigs()
	s := newReversal(t, serverTLS)
	s.up()
	c := &quicClient{dialer: streams.NewDialer(s.address(), clientTLS, &quic.Config{
		MaxIdleTimeout: idleTimeout, KeepAlivePeriod: idleTimeout / 4, // while nobody asks, too
	})}
	var err error
	c.mux, err = plex.New(t.Context(), plex.WithConnector(plex.DialFunc(c.dialer.DialStream)),
		plex.WithMinConnections(pooled), plex.WithMaxCapacity(pooled))
	require.NoError(t, err)
	c.requests, err = request.New(c.mux, reversing{})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, errors.Join(c.requests.Close(), c.mux.Close(), c.dialer.Close()))
		stats := c.mux.Stats()
		require.Zero(t, stats.Open+stats.LeasedReaders+stats.LeasedWriters)
		eventually(t, "the end of the streams at the service", func() bool { return s.serving.Load() == 0 })
	})
	return s, c
}

func (c *quicClient) stats() (plex.Stats, request.Stats) { return c.mux.Stats(), c.requests.Stats() }

// ask makes a request and checks the reply.
func (c *quicClient) ask(ctx context.Context) error {
	question := rand.Text()
	want := []byte(question)
	slices.Reverse(want)
	reply, err := c.requests.Do(ctx, []byte(question))
	if err == nil && !bytes.Equal(reply, want) {
		return fmt.Errorf("%q got the reply %q", question, reply)
	}
	return err
}

func (c *quicClient) load(pace time.Duration) *load {
	return &load{stats: c.stats, pace: pace, newCaller: func(int) func(context.Context) error { return c.ask }}
}

// asks makes requests, all of which have to be answered.
func (c *quicClient) asks(t *testing.T, n int) {
	t.Helper()
	for range n {
		require.NoError(t, c.ask(within(t)))
	}
}

// quicPeer is a listener and a dialer to it, for tests of streams without a pool.
type quicPeer struct {
	listener *quic.Listener
	dialer   *streams.Dialer
}

func newQUICPeer(t *testing.T, config *quic.Config) *quicPeer {
	t.Helper()
	serverTLS, clientTLS := quicConfigs()
	listener, err := quic.ListenAddr("127.0.0.1:0", serverTLS, config)
	require.NoError(t, err)
	dialer := streams.NewDialer(listener.Addr().String(), clientTLS, config)
	t.Cleanup(func() { _, _ = dialer.Close(), listener.Close() }) // the test may have closed one
	return &quicPeer{listener: listener, dialer: dialer}
}

// pair opens a stream and returns both its ends, and the server's connection. The server learns of a stream when something
// comes over it, which is one byte here, and read already.
func (p *quicPeer) pair(t *testing.T) (ours, theirs net.Conn, conn *quic.Conn) {
	t.Helper()
	ctx := within(t)
	ours, err := p.dialer.DialStream(ctx)
	require.NoError(t, err)
	_, err = ours.Write([]byte{0})
	require.NoError(t, err)
	conn, err = p.listener.Accept(ctx)
	require.NoError(t, err)
	accepted, err := conn.AcceptStream(ctx)
	require.NoError(t, err)
	theirs = streams.Conn(conn, accepted)
	_, err = theirs.Read(make([]byte, 1))
	require.NoError(t, err)
	return ours, theirs, conn
}

func TestQUICStreamsShareOneConnection(t *testing.T) {
	balance(t)
	s, c := startQUIC(t, 8)
	require.Equal(t, 1, c.dialer.Dials())
	eventually(t, "the connection, at the service", func() bool { return s.connections.Load() == 1 })

	remote := make(map[plex.Conn]bool)
	var leases []plex.Writer
	for range 8 {
		w, err := c.mux.Writer(within(t), 0)
		require.NoError(t, err)
		require.Equal(t, s.address(), w.RemoteAddr().String())
		remote[w.Conn()] = true
		leases = append(leases, w)
	}
	require.Len(t, remote, 8)
	for _, w := range leases {
		require.NoError(t, w.Close())
	}
}

// A stream that is killed is replaced on the QUIC connection that there is, and the server has it off its hands.
func TestQUICKilledStreams(t *testing.T) {
	balance(t)
	s, c := startQUIC(t, 4)
	c.asks(t, 50)
	for i := range 10 {
		w, err := c.mux.Writer(within(t), 0)
		require.NoError(t, err)
		require.NoError(t, w.Kill())
		eventually(t, "another stream", func() bool { return c.mux.Stats().Healed == uint64(i+1) && c.mux.Stats().Open == 4 })
		c.asks(t, 10)
	}
	require.Equal(t, 1, c.dialer.Dials())
	eventually(t, "the end of the killed ones at the service", func() bool { return s.serving.Load() <= 4 })
	require.Greater(t, s.accepted.Load(), int64(4))
}

// When the QUIC connection dies, all streams do, and one dial replaces it for all of them.
func TestQUICOneDialForAll(t *testing.T) {
	balance(t)
	const streams, deaths = 8, 5
	s, c := startQUIC(t, streams)
	for i := 1; i <= deaths; i++ {
		c.asks(t, 3*streams) // over every stream, so that plex has reason to trust them
		require.True(t, s.closeOne())
		eventually(t, "other streams", func() bool {
			stats := c.mux.Stats()
			return stats.Healed == uint64(i*streams) && stats.Open == streams
		})
		require.Equal(t, 1+i, c.dialer.Dials())
	}
	eventually(t, "the connections, at the service", func() bool { return s.connections.Load() == 1+deaths })
	require.EqualValues(t, deaths*streams, c.mux.Stats().Lost)
}

// What a request is told when the QUIC connection dies is why.
func TestQUICTheCauseIsTold(t *testing.T) {
	balance(t)
	p := newQUICPeer(t, nil)
	var serving sync.WaitGroup
	defer serving.Wait()
	ctx := within(t)
	serving.Go(func() {
		conn, err := p.listener.Accept(ctx)
		if err != nil {
			return
		}
		accepted, err := conn.AcceptStream(ctx)
		if err != nil {
			return
		}
		_, _ = accepted.Read(make([]byte, 1))
		_ = conn.CloseWithError(7, "out of order")
	})
	m, err := plex.New(ctx, plex.WithConnector(plex.DialFunc(p.dialer.DialStream)), plex.WithMinConnections(1))
	require.NoError(t, err)
	defer func() { require.NoError(t, m.Close()) }()
	w, err := m.Writer(ctx, 0)
	require.NoError(t, err)
	_, err = w.Write([]byte{0})
	require.NoError(t, err)
	r, err := m.Reader(ctx, 0)
	require.NoError(t, err)
	_, err = r.Read(make([]byte, 1))
	var closedBy *quic.ApplicationError
	require.ErrorAs(t, err, &closedBy)
	require.Equal(t, quic.ApplicationErrorCode(7), closedBy.ErrorCode)
	require.Equal(t, "out of order", closedBy.ErrorMessage)
	_ = r.Close()
	_ = w.Close()
}

// A caller that gives up does not take away the dial that others wait for.
func TestQUICADialIsNobodysInParticular(t *testing.T) {
	balance(t)
	serverTLS, clientTLS := quicConfigs()
	s := newReversal(t, serverTLS)
	d := streams.NewDialer(s.address(), clientTLS, nil)
	defer func() { require.NoError(t, d.Close()) }()

	// The service is not up, so the dial goes on until it is.
	first, cancel := context.WithCancel(within(t))
	results := make(chan error, 2)
	go func() {
		_, err := d.DialStream(first)
		results <- err
	}()
	eventually(t, "the dial", func() bool { return d.Dials() == 1 })
	second := within(t)
	conns := make(chan net.Conn, 1)
	go func() {
		conn, err := d.DialStream(second)
		conns <- conn
		results <- err
	}()
	cancel()
	require.ErrorIs(t, receive(t, "the end of the first", results), context.Canceled)

	s.up()
	conn := receive(t, "a stream for the second", conns)
	require.NoError(t, receive(t, "the end of the second", results))
	require.NoError(t, conn.Close())
	require.Equal(t, 1, d.Dials())
}

func TestQUICDialsThatFail(t *testing.T) {
	balance(t)
	serverTLS, clientTLS := quicConfigs()
	s := newReversal(t, serverTLS)
	s.up()
	_, stranger := quicConfigs()
	stranger.RootCAs = x509.NewCertPool()
	other := clientTLS.Clone()
	other.NextProtos = []string{"other"}
	elsewhere := clientTLS.Clone()
	elsewhere.ServerName = "plex.invalid"

	for name, config := range map[string]*tls.Config{
		"certificate signed by unknown authority": stranger,
		"no application protocol":                 other,
		"not plex.invalid":                        elsewhere,
	} {
		d := streams.NewDialer(s.address(), config, nil)
		t.Cleanup(func() { require.NoError(t, d.Close()) })
		for dials := 1; dials <= 2; dials++ {
			_, err := d.DialStream(within(t))
			require.ErrorContains(t, err, "quic: dial "+s.address())
			require.ErrorContains(t, err, name)
			require.Equal(t, dials, d.Dials(), "a dial that failed is made anew")
		}
	}

	d := streams.NewDialer("nowhere", clientTLS, nil)
	_, err := d.DialStream(within(t))
	require.ErrorContains(t, err, "missing port")
	require.NoError(t, d.Close())
}

// Close ends a dial that is under way, and there is nothing to be had from the dialer afterwards.
func TestQUICDialerClose(t *testing.T) {
	balance(t)
	_, clientTLS := quicConfigs()
	silent, err := net.ListenPacket("udp", "127.0.0.1:0") // and never answers
	require.NoError(t, err)
	defer silent.Close()
	d := streams.NewDialer(silent.LocalAddr().String(), clientTLS, nil)
	results := make(chan error, 1)
	ctx := within(t)
	go func() {
		_, err := d.DialStream(ctx)
		results <- err
	}()
	eventually(t, "the dial", func() bool { return d.Dials() == 1 })
	require.NoError(t, d.Close())
	require.ErrorIs(t, receive(t, "the end of the dial", results), context.Canceled)
	_, err = d.DialStream(within(t))
	require.ErrorIs(t, err, net.ErrClosed)
	require.Equal(t, 1, d.Dials())
}

// The server need not find out by itself that the dialer has closed.
func TestQUICTheServerIsToldOfTheEnd(t *testing.T) {
	balance(t)
	p := newQUICPeer(t, nil)
	_, _, conn := p.pair(t)
	require.NoError(t, p.dialer.Close())
	receive(t, "the end of the connection", conn.Context().Done())
	var told *quic.ApplicationError
	require.ErrorAs(t, context.Cause(conn.Context()), &told)
	require.True(t, told.Remote)
}

// As many streams as the server allows, and the next waits for its caller's context and no longer.
func TestQUICMoreStreamsThanTheServerAllows(t *testing.T) {
	balance(t)
	p := newQUICPeer(t, &quic.Config{MaxIncomingStreams: 1})
	ours, theirs, _ := p.pair(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := p.dialer.DialStream(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)

	require.NoError(t, ours.Close())
	require.NoError(t, theirs.Close())
	next, err := p.dialer.DialStream(within(t)) // closed on both sides it has made room
	require.NoError(t, err)
	require.NoError(t, next.Close())
	require.Equal(t, 1, p.dialer.Dials())
}

// A stream is what the net package wants a net.Conn to be.
func TestQUICStreamIsANetConn(t *testing.T) {
	balance(t)
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		c1, c2, _ = newQUICPeer(t, nil).pair(t)
		return c1, c2, func() { _, _ = c1.Close(), c2.Close() }, nil // the dialer is closed when the test ends
	})
}

// The addresses are those of the QUIC connection, but their network is not UDP's: plex would take the stream for a
// datagram connection, and lose what does not fit into the buffer of a Read.
func TestQUICStreamIsNoDatagramConnection(t *testing.T) {
	balance(t)
	ours, theirs, _ := newQUICPeer(t, nil).pair(t)
	require.Equal(t, ours.RemoteAddr().String(), theirs.LocalAddr().String())
	require.Equal(t, "quic", ours.LocalAddr().Network())

	m, err := plex.New(within(t), plex.WithConnections(ours))
	require.NoError(t, err)
	defer func() { require.NoError(t, m.Close()) }()
	const text = "a stream has no boundaries"
	_, err = io.WriteString(theirs, text)
	require.NoError(t, err)
	require.NoError(t, theirs.(interface{ CloseWrite() error }).CloseWrite())
	var got []byte
	for {
		r, err := m.ReadyReader(within(t), 0) // plex looks at the stream, and has read all of it then
		require.NoError(t, err)
		p := make([]byte, 3)
		n, err := r.Read(p)
		require.NoError(t, r.Close())
		got = append(got, p[:n]...)
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
	}
	require.Equal(t, text, string(got))
	require.NoError(t, theirs.Close())
}

// Close ends both directions, on both sides: what has been written arrives, and the other side's writing is in vain.
func TestQUICCloseEndsBothDirections(t *testing.T) {
	balance(t)
	ours, theirs, _ := newQUICPeer(t, nil).pair(t)
	reading := make(chan error, 1)
	go func() {
		_, err := ours.Read(make([]byte, 1))
		reading <- err
	}()
	_, err := io.WriteString(ours, "the last words")
	require.NoError(t, err)
	require.NoError(t, ours.Close())

	require.Error(t, receive(t, "the end of a Read that blocks", reading))
	got, err := io.ReadAll(theirs)
	require.NoError(t, err)
	require.Equal(t, "the last words", string(got))
	eventually(t, "a Write in vain", func() bool {
		_, err = theirs.Write([]byte("x"))
		return err != nil
	})
	var stopped *quic.StreamError
	require.ErrorAs(t, err, &stopped)
	require.True(t, stopped.Remote)
	require.NoError(t, theirs.Close())
	_, err = ours.Write([]byte("x"))
	require.Error(t, err)
}

// A Write that blocks, because the peer does not read, does not hold Close up.
func TestQUICCloseInterruptsAWrite(t *testing.T) {
	balance(t)
	ours, theirs, _ := newQUICPeer(t, nil).pair(t)
	writing := make(chan error, 1)
	go func() {
		_, err := ours.Write(make([]byte, 64<<20)) // more than the peer allows
		writing <- err
	}()
	_, err := io.ReadFull(theirs, make([]byte, 1)) // the Write is under way, and cannot end
	require.NoError(t, err)
	require.NoError(t, ours.Close())
	require.Error(t, receive(t, "the end of a Write that blocks", writing))

	_, err = io.Copy(io.Discard, theirs)
	var reset *quic.StreamError
	require.ErrorAs(t, err, &reset, "what was cut short must not look whole")
	require.NoError(t, theirs.Close())
}

// A deadline passes, and the stream is as good as before.
func TestQUICDeadlines(t *testing.T) {
	balance(t)
	ours, theirs, _ := newQUICPeer(t, nil).pair(t)
	require.NoError(t, ours.SetReadDeadline(time.Now().Add(time.Millisecond)))
	_, err := ours.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, ours.SetReadDeadline(time.Time{}))
	_, err = io.WriteString(theirs, "x")
	require.NoError(t, err)
	_, err = io.ReadFull(ours, make([]byte, 1))
	require.NoError(t, err)

	require.NoError(t, ours.SetWriteDeadline(time.Now().Add(10*time.Millisecond)))
	n, err := ours.Write(make([]byte, 64<<20))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Less(t, n, 64<<20)
	require.NoError(t, ours.Close())
	require.NoError(t, theirs.Close())
}

// While nothing is broken, nothing fails.
func TestQUICRequestsWithoutFaults(t *testing.T) {
	balance(t)
	_, c := startQUIC(t, 4)
	l := c.load(0)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); l.run(ctx, 16) }()
	eventually(t, "answers", func() bool { return l.right.Load() >= 5000 })
	cancel()
	<-done
	l.audit(t)
	require.Equal(t, l.begun.Load(), l.right.Load())
	require.Zero(t, c.mux.Stats().Lost)
	require.Equal(t, 1, c.dialer.Dials())
}

func TestQUICWhileTheServerClosesTheConnection(t *testing.T) {
	balance(t)
	s, c := startQUIC(t, 4)
	const closes = 10
	l := c.load(time.Millisecond)
	l.endure(t, func() {
		for range closes {
			require.True(t, s.closeOne())
			l.answers(t)
		}
	})
	require.Positive(t, l.maybeSent.Load())
	require.GreaterOrEqual(t, c.mux.Stats().Lost, uint64(closes))
	require.Equal(t, 1+closes, c.dialer.Dials())
}

// The server goes without a word. That it is gone is found when it says nothing any more, or, when it is back, that it
// knows nothing of the connection.
func TestQUICWhileTheServerRestarts(t *testing.T) {
	for name, outage := range map[string]time.Duration{
		"for a moment": pause, "for longer than it takes to find out": idleTimeout + idleTimeout/2,
	} {
		t.Run(name, func(t *testing.T) {
			balance(t)
			s, c := startQUIC(t, 4)
			c.load(time.Millisecond).endure(t, func() {
				s.down()
				time.Sleep(outage)
				s.up()
				eventually(t, "the end of the old streams", func() bool { return c.mux.Stats().Lost >= 4 })
			})
		})
	}
}
