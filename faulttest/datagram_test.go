package faulttest_test

// Datagrams: errors that pass, boundaries that stay.

import (
	"context"
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
)

// udpServer is a UDP socket on addr, or a free port of 127.0.0.1.
func udpServer(t *testing.T, addr string) *net.UDPConn {
	t.Helper()
	a, err := net.ResolveUDPAddr("udp", addr)
	require.NoError(t, err)
	s, err := net.ListenUDP("udp", a)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// Row "UDP refused": passing.
// Catches: a connection thrown away, or redialled in a storm, because the service was away for a moment.
func TestFaultUDPRefused(t *testing.T) {
	balance(t)
	server := udpServer(t, "127.0.0.1:0")
	addr := server.LocalAddr().String()
	m := newMux(t, plex.WithMinConnections(1), plex.WithConnector(plex.Dial("udp", addr)))
	rd, wr := reader(t, m), writer(t, m)
	require.NoError(t, server.Close())

	refused := 0
	for i := 0; refused < 5 && i < 1000; i++ {
		// The answer to one is told to the next, reader or writer.
		if _, err := wr.Write([]byte("anyone?")); err != nil {
			require.ErrorIs(t, err, syscall.ECONNREFUSED)
			refused++
		}
		require.NoError(t, rd.SetReadDeadline(time.Now().Add(time.Millisecond)))
		if _, err := rd.Read(make([]byte, 10)); !isTimeout(err) {
			require.ErrorIs(t, err, syscall.ECONNREFUSED)
			refused++
		}
	}
	require.GreaterOrEqual(t, refused, 5)
	require.NoError(t, rd.Err())
	require.NoError(t, wr.Err())
	require.NoError(t, rd.Close())
	require.NoError(t, wr.Close())
	require.Zero(t, m.Stats().Lost)

	server = udpServer(t, addr)
	rd, wr = reader(t, m), writer(t, m)
	eventually(t, func() bool { _, err := wr.Write([]byte("back?")); return err == nil }, "a write")
	buf := make([]byte, 100)
	require.NoError(t, server.SetReadDeadline(time.Now().Add(patience)))
	n, from, err := server.ReadFromUDP(buf)
	require.NoError(t, err)
	require.Equal(t, "back?", string(buf[:n]))
	_, err = server.WriteToUDP([]byte("yes"), from)
	require.NoError(t, err)
	eventually(t, func() bool {
		n, err = rd.Read(buf) // a refusal may still be in front of it
		return err == nil || !errors.Is(err, syscall.ECONNREFUSED)
	}, "a read")
	require.NoError(t, err)
	require.Equal(t, "yes", string(buf[:n]))
	require.NoError(t, rd.Close())
	require.NoError(t, wr.Close())
	s := m.Stats()
	require.Zero(t, s.Lost)
	require.EqualValues(t, 1, s.Connected)
}

// Row "datagram empty or larger than the buffer": empty is no end; truncation documented.
// Catches: n == 0 taken for io.EOF, the rest of a large datagram given as the next, two datagrams in one chunk, one that
// is too large to be sent taken for a broken connection.
func TestFaultDatagramEmptyOrLargerThanTheBuffer(t *testing.T) {
	balance(t)
	server := udpServer(t, "127.0.0.1:0")
	m := newMux(t, plex.WithMinConnections(1), plex.WithConnector(plex.Dial("udp", server.LocalAddr().String())))
	rd, wr := reader(t, m), writer(t, m)
	buf := make([]byte, 1<<16)
	arrives := func(want string) *net.UDPAddr {
		require.NoError(t, server.SetReadDeadline(time.Now().Add(patience)))
		n, from, err := server.ReadFromUDP(buf)
		require.NoError(t, err)
		require.Equal(t, want, string(buf[:n]))
		return from
	}
	_, err := wr.Write(nil)
	require.NoError(t, err)
	client := arrives("")
	n, err := wr.Write(make([]byte, 1<<17))
	require.ErrorIs(t, err, syscall.EMSGSIZE)
	require.Zero(t, n)
	write(t, wr, "after")
	arrives("after")
	send := func(s string) {
		_, err := server.WriteToUDP([]byte(s), client)
		require.NoError(t, err)
	}

	for _, s := range []string{"one", "", "0123456789", "two", ""} {
		send(s)
	}
	small := make([]byte, 4)
	for _, want := range []string{"one", "", "0123", "two", ""} {
		n, err := rd.Read(small)
		require.NoError(t, err)
		require.Equal(t, want, string(small[:n]))
	}

	// In a stream, of which some goes back and is read by the next lease, with the boundaries kept.
	ctx, cancel := context.WithCancel(t.Context())
	chunks, err := rd.RecvChunks(ctx, 4)
	require.NoError(t, err)
	for _, s := range []string{"one", "", "0123456789", "two", "", "three"} {
		send(s)
	}
	for _, want := range []string{"one", "", "0123"} {
		require.Equal(t, want, string(<-chunks))
	}
	time.Sleep(10 * time.Millisecond) // the stream has read the others by now; if not, it must be right as well
	cancel()
	require.NoError(t, rd.Close())
	rd = reader(t, m)
	require.NoError(t, rd.SetReadDeadline(time.Now().Add(patience)))
	for _, want := range []string{"two", "", "thre"} {
		n, err := rd.Read(small)
		require.NoError(t, err)
		require.Equal(t, want, string(small[:n]))
	}

	// Each chunk is one datagram.
	out, err := wr.SendChunks(t.Context(), 0)
	require.NoError(t, err)
	for _, s := range []string{"a", "", "bc"} {
		out <- []byte(s)
	}
	close(out)
	for _, want := range []string{"a", "", "bc"} {
		arrives(want)
	}
	require.NoError(t, rd.Close())
	require.NoError(t, wr.Close())
	require.Zero(t, m.Stats().Lost)
}
