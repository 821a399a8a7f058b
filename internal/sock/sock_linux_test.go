package sock_test

// What only real sockets can show.

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex/internal/sock"
)

const patience = 10 * time.Second

// pair is two ends of a connection, which are closed with the test.
func pair(t *testing.T, network string) (client, server net.Conn) {
	t.Helper()
	address := "127.0.0.1:0"
	if network != "tcp" {
		address = filepath.Join(t.TempDir(), "s")
	}
	l, err := net.Listen(network, address)
	require.NoError(t, err)
	defer l.Close()
	client, err = net.Dial(network, l.Addr().String())
	require.NoError(t, err)
	server, err = l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = client.Close()
		_ = server.Close()
	})
	for _, nc := range []net.Conn{client, server} {
		require.NoError(t, nc.SetDeadline(time.Now().Add(patience)))
	}
	return client, server
}

// ended waits until the kernel has seen that nc has come to an end, without taking anything from it.
func ended(t *testing.T, nc net.Conn, state func(s sock.Socket) bool) {
	t.Helper()
	s := sock.Of(nc)
	require.Eventually(t, func() bool { return state(s) }, patience, time.Millisecond)
}

func TestWasReset(t *testing.T) {
	client, server := pair(t, "tcp")
	require.False(t, sock.Of(client).WasReset(), "it is open")
	sock.Of(server).ResetOnClose()
	require.NoError(t, server.Close())
	ended(t, client, sock.Socket.WasReset)
	_, err := client.Write([]byte("x")) // takes the error
	require.ErrorIs(t, err, syscall.ECONNRESET)
	_, err = client.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err, "the next is told nothing of it")
	require.True(t, sock.Of(client).WasReset())
	_, err = client.Write([]byte("x"))
	require.True(t, sock.BrokenPipe(err), "%v", err)
	require.NoError(t, client.Close())
	require.False(t, sock.Of(client).WasReset(), "it is closed")
}

func TestACleanEndIsNoReset(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		client, server := pair(t, network)
		_, err := server.Write([]byte("x"))
		require.NoError(t, err)
		require.NoError(t, server.Close())
		_, err = client.Read(make([]byte, 2))
		require.NoError(t, err)
		_, err = client.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
		require.False(t, sock.Of(client).WasReset(), network)
	}
}

func TestUnsent(t *testing.T) {
	client, server := pair(t, "tcp")
	s := sock.Of(client)
	require.Zero(t, s.Unsent())
	sent := fill(t, client)
	require.Positive(t, s.Unsent())
	require.LessOrEqual(t, s.Unsent(), sent)

	require.NoError(t, sock.CloseWrite(client))
	n, err := io.Copy(io.Discard, server)
	require.NoError(t, err)
	require.EqualValues(t, sent, n)
	ended(t, client, func(s sock.Socket) bool { return s.Unsent() == 0 })
	require.False(t, s.WasReset(), "the peer's side is open")
}

func TestUnsentOfAConnectionThatHasEnded(t *testing.T) {
	client, server := pair(t, "tcp")
	s := sock.Of(client)
	fill(t, client)
	require.Positive(t, s.Unsent())
	sock.Of(server).ResetOnClose()
	require.NoError(t, server.Close())
	ended(t, client, func(s sock.Socket) bool { return s.WasReset() && s.Unsent() == 0 })

	stream, _ := pair(t, "unix")
	fill(t, stream)
	require.Zero(t, sock.Of(stream).Unsent(), "it is not TCP")
}

// fill writes until the peer, which does not read, takes no more.
func fill(t *testing.T, nc net.Conn) (n int) {
	t.Helper()
	for full := 0; full < 5; { // acknowledgements may be on their way
		require.NoError(t, sock.Of(nc).Raw().Write(func(fd uintptr) bool {
			k, err := syscall.Write(int(fd), zeros)
			if err == syscall.EAGAIN {
				full++
				time.Sleep(time.Millisecond)
				return true
			}
			require.NoError(t, err)
			full, n = 0, n+k
			return true
		}))
	}
	return n
}

func TestShutDownWakesBothHalves(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		client, server := pair(t, network)
		fill(t, client)
		read, write := make(chan error, 1), make(chan error, 1)
		go func() {
			_, err := client.Read(make([]byte, 1))
			read <- err
		}()
		go func() {
			_, err := client.Write(zeros)
			write <- err
		}()
		sock.Of(client).ShutDown()
		sock.Of(client).ShutDown() // which is no error
		require.Equal(t, io.EOF, <-read, network)
		err := <-write
		require.True(t, sock.BrokenPipe(err), "%s: %v", network, err)
		_, err = io.Copy(io.Discard, server)
		require.NoError(t, err, "%s: what was sent arrives, and then the end", network)
	}
}

func TestResetOnClose(t *testing.T) {
	client, server := pair(t, "tcp")
	sock.Of(client).ResetOnClose()
	require.NoError(t, client.Close())
	_, err := server.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET)
	require.ErrorIs(t, sock.ErrReset, syscall.ECONNRESET)
}

func TestCloseWriteOfTLSLeavesTheSocketOpen(t *testing.T) {
	a, b := pair(t, "tcp")
	client, server := tlsPair(t, a, b)
	require.NoError(t, sock.CloseWrite(client))
	_, err := server.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)
	require.NoError(t, b.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
	_, err = b.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded, "beneath it there is no end")
	_, err = server.Write([]byte("x"))
	require.NoError(t, err)
	_, err = client.Read(make([]byte, 1))
	require.NoError(t, err)
	require.Same(t, a, client.NetConn())
	require.True(t, sock.Of(client).Exists())
}

func TestKindOfRealConnections(t *testing.T) {
	a, _ := pair(t, "tcp")
	require.Equal(t, sock.Kind(0), sock.KindOf(a))
	a, _ = pair(t, "unix")
	require.Equal(t, sock.Kind(0), sock.KindOf(a))
	a, _ = pair(t, "unixpacket")
	require.True(t, sock.KindOf(a).Datagram())
	require.False(t, sock.KindOf(a).Connectionless())
	u, err := net.Dial("udp", "127.0.0.1:9")
	require.NoError(t, err)
	defer u.Close()
	require.True(t, sock.KindOf(u).Connectionless())
}

func TestPassing(t *testing.T) {
	var stream sock.Kind
	udp := sock.KindOf(named{addr: network("udp")})
	gram := sock.KindOf(named{addr: network("unixgram")})
	packet := sock.KindOf(named{addr: network("unixpacket")})
	for _, c := range []struct {
		err       error
		udp, unix bool
	}{
		{syscall.EMSGSIZE, true, true},
		{syscall.ENOBUFS, true, true},
		{syscall.ECONNREFUSED, true, false},
		{syscall.EHOSTUNREACH, true, false},
		{syscall.ENETUNREACH, true, false},
		{syscall.ENETDOWN, true, false},
		{syscall.EPERM, true, false},
		{syscall.ECONNRESET, false, false},
		{syscall.EPIPE, false, false},
		{syscall.ENOTCONN, false, false},
		{syscall.EBADF, false, false},
		{net.ErrClosed, false, false},
		{errors.New("other"), false, false},
	} {
		require.False(t, stream.Passing(in(c.err)), "%v", c.err)
		require.Equal(t, c.udp, udp.Passing(in(c.err)), "%v", c.err)
		require.Equal(t, c.unix, gram.Passing(in(c.err)), "%v", c.err)
		require.Equal(t, c.unix, packet.Passing(in(c.err)), "%v", c.err)
	}
	require.False(t, udp.Passing(nil))
}

// What the kernel does when the peer of a Unix datagram socket goes and comes back: nothing is passing but the size.
func TestErrorsOfAUnixDatagramSocket(t *testing.T) {
	address := &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unixgram"}
	server, err := net.ListenUnixgram("unixgram", address)
	require.NoError(t, err)
	client, err := net.DialUnix("unixgram", nil, address)
	require.NoError(t, err)
	defer client.Close()
	kind := sock.KindOf(client)
	require.True(t, kind.Datagram())

	_, err = client.Write(make([]byte, 16<<20))
	require.True(t, kind.Passing(err), "%v", err)
	_, err = client.Write([]byte("x"))
	require.NoError(t, err, "it is as good as before")

	require.NoError(t, server.Close())
	_, err = client.Write([]byte("x"))
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	require.False(t, kind.Passing(err))
	_ = os.Remove(address.Name)
	server, err = net.ListenUnixgram("unixgram", address)
	require.NoError(t, err)
	defer server.Close()
	_, err = client.Write([]byte("x"))
	require.ErrorIs(t, err, syscall.ENOTCONN, "it is of no more use")
	require.False(t, kind.Passing(err))
}

func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// in wraps errno as package net does.
func in(errno error) error {
	return fmt.Errorf("plex: %w", &net.OpError{Op: "write", Net: "udp", Err: os.NewSyscallError("write", errno)})
}

// tlsPair does a handshake over two ends of a TCP connection.
func tlsPair(t *testing.T, a, b net.Conn) (client, server *tls.Conn) {
	t.Helper()
	client = tls.Client(a, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // on loopback
	server = tls.Server(b, &tls.Config{Certificates: []tls.Certificate{certificate(t)}})
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	require.NoError(t, client.Handshake())
	require.NoError(t, <-done)
	return client, server
}

var zeros = bytes.Repeat([]byte{0}, 1<<20)
