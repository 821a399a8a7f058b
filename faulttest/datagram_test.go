package faulttest_test

// Datagrams: errors that pass, boundaries that stay.

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/request"
)

// udpServer is a UDP socket on addr or, if that is empty, on a free port of 127.0.0.1 that the system gives to no client,
// so that it is still free when the server comes back.
func udpServer(t *testing.T, addr string) (s *net.UDPConn) {
	t.Helper()
	if addr != "" {
		a, err := net.ResolveUDPAddr("udp", addr)
		require.NoError(t, err)
		s, err = net.ListenUDP("udp", a)
		require.NoError(t, err)
	}
	for s == nil {
		s, _ = net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 10000 + rand.IntN(20000)})
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// Row "UDP refused": passing.
// Catches: a connection thrown away, or redialled in a storm, because the service was away for a moment.
func TestFaultUDPRefused(t *testing.T) {
	balance(t)
	server := udpServer(t, "")
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
	server := udpServer(t, "")
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

// Row "a datagram is refused or too long, on any kind of datagram socket": passing; requests on it fail at once with the
// refusal.
// Catches: a socket thrown away for one consumer's datagram; a Unix socket that stays dead when its peer is back; a request
// that waits for its whole timeout though the kernel has told.
func TestFaultADatagramIsTooLong(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("how Unix datagram sockets refuse is each system's own")
	}
	path := filepath.Join(t.TempDir(), "s")
	agent, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	defer agent.Close()
	server := udpServer(t, "")
	for network, tc := range map[string]struct {
		addr string
		peer net.Conn
	}{"unixgram": {path, agent}, "udp": {server.LocalAddr().String(), server}} {
		t.Run(network, func(t *testing.T) {
			balance(t)
			m := newMux(t, plex.WithMinConnections(2), plex.WithConnector(plex.Dial(network, tc.addr)))
			buf := make([]byte, 100)
			for range 20 {
				wr := writer(t, m)
				n, err := wr.Write(make([]byte, 1<<20))
				require.ErrorIs(t, err, syscall.EMSGSIZE)
				require.Zero(t, n)
				require.NoError(t, wr.Close())
				wr = writer(t, m)
				write(t, wr, "short")
				require.NoError(t, wr.Close())
				require.NoError(t, tc.peer.SetReadDeadline(time.Now().Add(patience)))
				n, err = tc.peer.Read(buf)
				require.NoError(t, err)
				require.Equal(t, "short", string(buf[:n]))
			}
			s := m.Stats()
			require.Zero(t, s.Lost)
			require.EqualValues(t, 2, s.Connected)
		})
	}
}

// A Unix datagram socket whose peer has gone is of no more use, and its place is filled when the peer is back.
func TestFaultADatagramIsRefusedByAUnixSocketsPeer(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("how Unix datagram sockets refuse is each system's own")
	}
	balance(t)
	path := filepath.Join(t.TempDir(), "s")
	listen := func() *net.UnixConn {
		agent, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
		require.NoError(t, err)
		return agent
	}
	agent := listen()
	m := newMux(t, plex.WithMinConnections(2), plex.WithBackoff(quick), plex.WithConnector(plex.Dial("unixgram", path)))
	for range 3 {
		require.NoError(t, agent.Close())
		_ = os.Remove(path)
		agent = listen()
		failed := 0
		eventually(t, func() bool {
			wr := writer(t, m)
			_, err := wr.Write([]byte("hits"))
			require.NoError(t, wr.Close())
			if err != nil {
				failed++
			}
			return err == nil
		}, "a datagram that is not refused")
		require.LessOrEqual(t, failed, 2, "each socket is refused once")
		require.NoError(t, agent.SetReadDeadline(time.Now().Add(patience)))
		require.Equal(t, "hits", read(t, agent, 4))
	}
	require.NoError(t, agent.Close())
}

// short is a protocol of datagrams that begin with an identifier of two bytes.
type short struct{}

func (short) Append(dst []byte, id uint64, q string) ([]byte, error) {
	return append(binary.BigEndian.AppendUint16(dst, uint16(id)), q...), nil
}

func (short) Split(data []byte, _ bool) (int, []byte, error) { return len(data), data, nil }

func (short) Parse(m []byte) (uint64, string, error) {
	if len(m) < 2 {
		return 0, "", request.ErrNotReply
	}
	return uint64(binary.BigEndian.Uint16(m)), string(m[2:]), nil
}

func TestFaultARequestInADatagramIsRefused(t *testing.T) {
	balance(t)
	server := udpServer(t, "")
	addr := server.LocalAddr().String()
	require.NoError(t, server.Close())
	m := newMux(t, plex.WithMinConnections(1), plex.WithConnector(plex.Dial("udp", addr)))
	c, err := request.New[string, string](m, short{}, request.WithIDs(1<<16-1))
	require.NoError(t, err)
	defer c.Close()
	for range 10 {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, err = c.Do(ctx, "anyone?")
		cancel()
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		require.NotErrorIs(t, err, context.DeadlineExceeded)
	}
	require.Zero(t, m.Stats().Lost)
}
