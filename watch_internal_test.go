package plex

// Helpers of the tests that look inside.

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// sweepPatience bounds what is done in a moment.
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
