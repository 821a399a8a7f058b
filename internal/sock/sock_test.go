package sock_test

import (
	"crypto/tls"
	"errors"
	"net"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex/internal/sock"
)

// named is a connection with an address of that network, or none.
type named struct {
	net.Conn
	addr net.Addr
}

func (c named) LocalAddr() net.Addr { return c.addr }

type network string

func (n network) Network() string { return string(n) }
func (n network) String() string  { return "somewhere" }

// secured has a ConnectionState as *tls.Conn does.
type secured struct{ net.Conn }

func (secured) ConnectionState() tls.ConnectionState { return tls.ConnectionState{} }

func TestKindOf(t *testing.T) {
	for _, c := range []struct {
		addr                     net.Addr
		datagram, connectionless bool
	}{
		{network("tcp"), false, false},
		{network("unix"), false, false},
		{network("pipe"), false, false},
		{network("udp"), true, true},
		{network("udp6"), true, true},
		{network("ip"), true, true},
		{network("ip4:icmp"), true, true},
		{network("unixgram"), true, false},
		{network("unixpacket"), true, false},
		{nil, false, false},
		{(*net.TCPAddr)(nil), false, false},
	} {
		k := sock.KindOf(named{addr: c.addr})
		require.Equal(t, c.datagram, k.Datagram(), "%v", c.addr)
		require.Equal(t, c.connectionless, k.Connectionless(), "%v", c.addr)
		require.False(t, k.TLS(), "%v", c.addr)
		k = sock.KindOf(secured{named{addr: c.addr}})
		require.True(t, k.TLS(), "%v", c.addr)
		require.Equal(t, c.datagram, k.Datagram(), "%v", c.addr)
	}
	require.True(t, sock.KindOf(tls.Client(named{addr: network("tcp")}, nil)).TLS())
}

func TestErrReset(t *testing.T) {
	var e net.Error
	require.ErrorAs(t, sock.ErrReset, &e)
	require.False(t, e.Timeout())
	require.False(t, sock.BrokenPipe(sock.ErrReset))
	require.False(t, sock.BrokenPipe(nil))
}

// wrapper tells what it wraps.
type wrapper struct {
	net.Conn
	inside net.Conn
}

func (w *wrapper) NetConn() net.Conn { return w.inside }

// socketed shows a socket, or an error.
type socketed struct {
	net.Conn
	raw syscall.RawConn
	err error
}

func (s socketed) SyscallConn() (syscall.RawConn, error) { return s.raw, s.err }

// rawConn is a socket that does nothing.
type rawConn struct{}

func (*rawConn) Control(func(uintptr)) error    { return nil }
func (*rawConn) Read(func(uintptr) bool) error  { return nil }
func (*rawConn) Write(func(uintptr) bool) error { return nil }

func TestOfFindsTheSocketBeneath(t *testing.T) {
	raw := &rawConn{}
	bottom := socketed{raw: raw}
	deep := net.Conn(bottom)
	for range 7 {
		deep = &wrapper{inside: deep}
	}
	for name, nc := range map[string]net.Conn{
		"itself":  bottom,
		"TLS":     tls.Client(bottom, nil),
		"wrapped": &wrapper{inside: tls.Client(&wrapper{inside: bottom}, nil)},
		"deep":    deep,
	} {
		s := sock.Of(nc)
		require.True(t, s.Exists(), name)
		require.Same(t, raw, s.Raw(), name)
	}
}

func TestOfWithoutASocket(t *testing.T) {
	itself := &wrapper{}
	itself.inside = itself
	pipe, other := net.Pipe()
	defer pipe.Close()
	defer other.Close()
	for name, nc := range map[string]net.Conn{
		"nil":              nil,
		"typed nil":        (*net.TCPConn)(nil),
		"pipe":             pipe,
		"wraps itself":     itself,
		"wraps nil":        &wrapper{},
		"wraps typed nil":  &wrapper{inside: (*net.TCPConn)(nil)},
		"TLS over pipe":    tls.Client(pipe, nil),
		"no socket":        socketed{},
		"typed nil socket": socketed{raw: (*rawConn)(nil)},
		"refuses":          socketed{raw: &rawConn{}, err: errors.New("not today")},
	} {
		s := sock.Of(nc)
		require.False(t, s.Exists(), name)
		require.Nil(t, s.Raw(), name)
		require.False(t, s.WasReset(), name)
		require.Zero(t, s.Unsent(), name)
		s.ShutDown()
		s.ResetOnClose()
	}
}

// closer has a CloseWrite.
type closer struct {
	net.Conn
	err error
}

func (c closer) CloseWrite() error { return c.err }

func TestCloseWrite(t *testing.T) {
	require.NoError(t, sock.CloseWrite(closer{}))
	require.ErrorIs(t, sock.CloseWrite(closer{err: net.ErrClosed}), net.ErrClosed)
	require.ErrorIs(t, sock.CloseWrite(named{}), errors.ErrUnsupported)
}
