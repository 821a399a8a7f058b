package main

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex"
)

func TestStreamsShareOneConnection(t *testing.T) {
	balance(t)
	s, c := start(t, 8)
	require.Equal(t, 1, c.dialer.Dials())
	comes(t, "the connection, at the service", func() bool { return s.connections.Load() == 1 })

	remote := make(map[plex.Conn]bool)
	var leases []plex.Writer
	for range 8 {
		w, err := c.mux.Writer(within(t), 0)
		require.NoError(t, err)
		require.Equal(t, s.address, w.RemoteAddr().String())
		remote[w.Conn()] = true
		leases = append(leases, w)
	}
	require.Len(t, remote, 8)
	for _, w := range leases {
		require.NoError(t, w.Close())
	}
}

// A stream that is killed is replaced on the QUIC connection that there is, and the server has it off its hands.
func TestKilledStreams(t *testing.T) {
	balance(t)
	s, c := start(t, 4)
	ask(t, c, 50)
	for i := range 10 {
		w, err := c.mux.Writer(within(t), 0)
		require.NoError(t, err)
		require.NoError(t, w.Kill())
		comes(t, "another stream", func() bool { return c.mux.Stats().Healed == uint64(i+1) && c.mux.Stats().Open == 4 })
		ask(t, c, 10)
	}
	require.Equal(t, 1, c.dialer.Dials())
	comes(t, "the end of the killed ones at the service", func() bool { return s.streams.Load() <= 4 })
	require.Greater(t, s.accepted.Load(), int64(4))
}

// When the QUIC connection dies, all streams do, and one dial replaces it for all of them.
func TestOneDialForAll(t *testing.T) {
	balance(t)
	const streams, deaths = 8, 5
	s, c := start(t, streams)
	for i := 1; i <= deaths; i++ {
		ask(t, c, 3*streams) // over every stream, so that plex has reason to trust them
		require.True(t, s.closeOne())
		comes(t, "other streams", func() bool {
			stats := c.mux.Stats()
			return stats.Healed == uint64(i*streams) && stats.Open == streams
		})
		require.Equal(t, 1+i, c.dialer.Dials())
	}
	comes(t, "the connections, at the service", func() bool { return s.connections.Load() == 1+deaths })
	require.EqualValues(t, deaths*streams, c.mux.Stats().Lost)
}

// What a request is told when the QUIC connection dies is why.
func TestTheCauseIsTold(t *testing.T) {
	balance(t)
	p := newPeer(t, nil)
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
func TestADialIsNobodysInParticular(t *testing.T) {
	balance(t)
	serverTLS, clientTLS, err := newCertificate()
	require.NoError(t, err)
	s, err := newService(serverTLS)
	require.NoError(t, err)
	d, err := NewDialer("127.0.0.1:0", s.address, clientTLS, nil)
	require.NoError(t, err)
	defer func() { require.NoError(t, d.Close()) }()

	// The service is not up, so the dial goes on until it is.
	first, cancel := context.WithCancel(within(t))
	results := make(chan error, 2)
	go func() {
		_, err := d.DialStream(first)
		results <- err
	}()
	comes(t, "the dial", func() bool { return d.Dials() == 1 })
	second := within(t)
	streams := make(chan net.Conn, 1)
	go func() {
		conn, err := d.DialStream(second)
		streams <- conn
		results <- err
	}()
	cancel()
	require.ErrorIs(t, returns(t, "the end of the first", results), context.Canceled)

	require.NoError(t, s.up())
	defer func() { require.NoError(t, s.down()) }()
	conn := returns(t, "a stream for the second", streams)
	require.NoError(t, returns(t, "the end of the second", results))
	require.NoError(t, conn.Close())
	require.Equal(t, 1, d.Dials())
}

func TestDialsThatFail(t *testing.T) {
	balance(t)
	serverTLS, clientTLS, err := newCertificate()
	require.NoError(t, err)
	s, err := newService(serverTLS)
	require.NoError(t, err)
	require.NoError(t, s.up())
	t.Cleanup(func() { require.NoError(t, s.down()) })
	_, stranger, err := newCertificate()
	require.NoError(t, err)
	other := clientTLS.Clone()
	other.NextProtos = []string{"other"}
	elsewhere := clientTLS.Clone()
	elsewhere.ServerName = "plex.invalid"

	for name, config := range map[string]*tls.Config{
		"certificate signed by unknown authority": stranger,
		"no application protocol":                 other,
		"wanted to match plex.invalid":            elsewhere,
	} {
		d, err := NewDialer("127.0.0.1:0", s.address, config, nil)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, d.Close()) })
		for dials := 1; dials <= 2; dials++ {
			_, err = d.DialStream(within(t))
			require.ErrorContains(t, err, "quic: dial "+s.address)
			require.ErrorContains(t, err, name)
			require.Equal(t, dials, d.Dials(), "a dial that failed is made anew")
		}
	}

	_, err = NewDialer("127.0.0.1:0", "nowhere", clientTLS, nil)
	require.ErrorContains(t, err, "missing port")
}

// Close ends a dial that is under way, and there is nothing to be had from the dialer afterwards.
func TestDialerClose(t *testing.T) {
	balance(t)
	_, clientTLS, err := newCertificate()
	require.NoError(t, err)
	silent, err := net.ListenPacket("udp", "127.0.0.1:0") // and never answers
	require.NoError(t, err)
	defer silent.Close()
	d, err := NewDialer("127.0.0.1:0", silent.LocalAddr().String(), clientTLS, nil)
	require.NoError(t, err)
	results := make(chan error, 1)
	ctx := within(t)
	go func() {
		_, err := d.DialStream(ctx)
		results <- err
	}()
	comes(t, "the dial", func() bool { return d.Dials() == 1 })
	require.NoError(t, d.Close())
	require.ErrorIs(t, returns(t, "the end of the dial", results), context.Canceled)
	_, err = d.DialStream(within(t))
	require.ErrorIs(t, err, net.ErrClosed)
	require.Equal(t, 1, d.Dials())
}

// The server need not find out by itself that the dialer has closed.
func TestTheServerIsToldOfTheEnd(t *testing.T) {
	balance(t)
	p := newPeer(t, nil)
	_, theirs := p.pair(t)
	require.NoError(t, p.dialer.Close())
	conn := theirs.(*stream).conn
	returns(t, "the end of the connection", conn.Context().Done())
	var told *quic.ApplicationError
	require.ErrorAs(t, context.Cause(conn.Context()), &told)
	require.True(t, told.Remote)
}

// As many streams as the server allows, and the next waits for its caller's context and no longer.
func TestMoreStreamsThanTheServerAllows(t *testing.T) {
	balance(t)
	p := newPeer(t, &quic.Config{MaxIncomingStreams: 1})
	ours, theirs := p.pair(t)
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

// ask makes requests and checks the replies.
func ask(t *testing.T, c *client, n int) {
	t.Helper()
	l := &load{client: c, patience: long}
	for range n {
		l.ask()
	}
	require.NoError(t, l.audit())
	require.NoError(t, l.lastFail)
	require.EqualValues(t, n, l.answered.Load())
}
