package plex

// What stands for the poller where there is none, and what the poller keeps.

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// sweepPatience bounds what takes a sweep or two.
const sweepPatience = 10 * time.Second

// tcpPair is a connection over the loopback and its peer.
func tcpPair(t *testing.T) (client, server net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	client, err = net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	server, err = ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { _, _ = client.Close(), server.Close() })
	return client, server
}

func TestSweeperLeavesWhatItReadsToTheNextReader(t *testing.T) {
	silent, silentPeer := tcpPair(t)
	ended, endedPeer := tcpPair(t)
	m, err := New(t.Context(), WithConnections(silent, ended))
	require.NoError(t, err)
	defer m.Close()
	m.watcher.stop() // it sees no more
	m.watcher.done = make(chan struct{})
	defer close(m.watcher.done)
	m.watcher.startSweeping()

	_, err = endedPeer.Write([]byte("word"))
	require.NoError(t, err)
	require.NoError(t, endedPeer.Close())
	require.Eventually(t, func() bool { // a sweep has read it
		for _, c := range m.roster.all() {
			if c.nc == ended {
				return c.r.word().is(dataLeft)
			}
		}
		return false
	}, sweepPatience, time.Millisecond)
	for range 2 {
		r, err := m.Reader(t.Context(), sweepPatience)
		require.NoError(t, err)
		if r.h.conn.nc == silent {
			_, err = silentPeer.Write([]byte("word"))
			require.NoError(t, err)
		}
		b := make([]byte, 4)
		require.NoError(t, r.SetReadDeadline(time.Now().Add(sweepPatience)))
		_, err = io.ReadFull(r, b)
		require.NoError(t, err)
		require.Equal(t, "word", string(b))
		defer r.Close()
	}
}

func TestSweepsTellsWhatCanBeSwept(t *testing.T) {
	pipe, other := net.Pipe()
	defer pipe.Close()
	defer other.Close()
	for _, c := range []struct {
		nc   net.Conn
		want bool
	}{
		{&net.TCPConn{}, true},
		{&net.UnixConn{}, true},
		{&tls.Conn{}, true},
		{&net.UDPConn{}, false},
		{pipe, false},
		{struct{ net.Conn }{&net.TCPConn{}}, false},
	} {
		assert.Equal(t, c.want, sweeps(&conn{nc: c.nc}), "%T", c.nc)
	}
}
