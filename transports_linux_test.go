//go:build !plexportable

package plex_test

import (
	"crypto/tls"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex"
)

// TestTransportResetToldToSomebodyElse: the kernel tells of a reset once, and has the next who asks believe in a clean
// end of the stream.
func TestTransportResetToldToSomebodyElse(t *testing.T) {
	for _, tr := range streams()[:2] {
		t.Run(tr.name, func(t *testing.T) {
			mux, l := openOne(t, newLedger(t), tr)
			r, w := leaseReader(t, mux), leaseWriter(t, mux)
			raw := []net.Conn{l.client, l.server}
			for i, c := range raw {
				if c, ok := c.(*tls.Conn); ok {
					raw[i] = c.NetConn()
				}
			}
			reset(t, &link{server: raw[1]})
			control, err := raw[0].(*net.TCPConn).SyscallConn()
			require.NoError(t, err)
			eventually(t, func() bool {
				var told int
				require.NoError(t, control.Control(func(fd uintptr) {
					told, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ERROR)
				}))
				require.NoError(t, err)
				return told == int(syscall.ECONNRESET)
			}, "the reset's arrival")

			_, err = r.Read(make([]byte, 1))
			assert.ErrorIs(t, err, syscall.ECONNRESET)
			_, err = w.Write([]byte("x"))
			assert.ErrorIs(t, err, syscall.ECONNRESET)
			_ = r.Close()
			_ = w.Close()
			assertLost(t, mux)
		})
	}
}

// tellsLate is a transport that takes its time to say what the kernel has told a Write.
type tellsLate struct {
	*net.TCPConn
	failed, tell chan struct{}
}

func (c *tellsLate) Write(p []byte) (int, error) {
	n, err := c.TCPConn.Write(p)
	if err != nil {
		close(c.failed)
		<-c.tell
	}
	return n, err
}

// The kernel tells a reset once. If a Write has been told, and has not said so yet, a Read that meanwhile comes upon the
// end waits for it, so that both halves report what the kernel has said.
func TestAResetIsWhatTheWriteSaysThatWasToldOfIt(t *testing.T) {
	l := newLedger(t)
	client, server := tcpPair(t)
	late := &tellsLate{client.(*net.TCPConn), make(chan struct{}), make(chan struct{})}
	m := l.mux(plex.WithConnections(late))
	r, w := readerOf(t, m), writerOf(t, m)
	require.NoError(t, server.(*net.TCPConn).SetLinger(0))
	require.NoError(t, server.Close())
	written := later(func() (err error) {
		for err == nil {
			_, err = w.Write([]byte("x"))
		}
		return err
	})
	<-late.failed
	time.AfterFunc(5*time.Millisecond, func() { close(late.tell) })
	_, err := r.Read(make([]byte, 1))
	told := <-written
	require.ErrorIs(t, told, syscall.ECONNRESET)
	require.ErrorContains(t, told, "write tcp", "by the kernel")
	require.Equal(t, told, err)
	require.Equal(t, told, r.Err())
	requireClosed(t, r)
	requireClosed(t, w)
}
