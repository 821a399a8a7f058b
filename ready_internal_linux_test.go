package plex

// What epoll has to do with ready readers.

import (
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fileBacked is a connection that shows a descriptor of which epoll wants to know nothing.
type fileBacked struct {
	net.Conn
	file *os.File
}

func (c *fileBacked) SyscallConn() (syscall.RawConn, error) { return c.file.SyscallConn() }

func TestWhatTheKernelDoesNotWatchIsLookedAt(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "regular"))
	require.NoError(t, err)
	defer file.Close()
	client, peer := tcpPair(t)
	m := muxOf(t, &fileBacked{client, file})
	for range 3 {
		_, err = m.ReadyReader(t.Context(), -1)
		require.ErrorIs(t, err, ErrTimeout, "there is nothing yet")
		requireWord(t, m, peer)
	}
}

// deaf is a connection that takes no notice of deadlines.
type deaf struct{ *net.TCPConn }

func (deaf) SetReadDeadline(time.Time) error { return nil }
func (deaf) SetDeadline(time.Time) error     { return nil }

// The end of a lease looks at what is inside the transport. If that look does not return, only closing the connection
// can end it.
func TestALeaseEndsAlsoIfTheTransportTakesNoNotice(t *testing.T) {
	client, peer := tcpPair(t)
	m := muxOf(t, deaf{client.(*net.TCPConn)})
	_, err := peer.Write([]byte("word"))
	require.NoError(t, err)
	r, err := m.ReadyReader(t.Context(), sweepPatience)
	require.NoError(t, err)
	_, err = r.Read(make([]byte, 4))
	require.NoError(t, err)
	closed := make(chan error, 1)
	go func() { closed <- r.Close() }()
	select {
	case err := <-closed:
		require.NoError(t, err)
	case <-time.After(sweepPatience):
		_ = peer.Close()
		require.FailNow(t, "the lease does not end")
	}
	require.EqualValues(t, 1, m.Stats().Lost)
}
