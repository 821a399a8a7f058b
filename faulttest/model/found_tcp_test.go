package model

// What the soak has found, each as a test of its own.

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
)

// tcpPair is a TCP connection and its peer.
func tcpPair(t *testing.T) (client, server *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	s, err := l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// fill writes until nothing more is taken.
func fill(t *testing.T, c net.Conn) {
	t.Helper()
	p := make([]byte, 64<<10)
	for {
		require.NoError(t, c.SetWriteDeadline(time.Now().Add(100*time.Millisecond)))
		if n, _ := c.Write(p); n < len(p) {
			break
		}
	}
	require.NoError(t, c.SetWriteDeadline(time.Time{}))
}

// slowToClose is closed when it may be.
type slowToClose struct {
	*net.TCPConn
	may chan struct{}
}

func (c *slowToClose) Close() error {
	<-c.may
	return c.TCPConn.Close()
}

// A connection was killed while both ends were full, and its reader read on meanwhile. Its end was then so quiet that the
// peer, whose window was shut, heard of it only from the kernel's keeping of time, a minute or more later.
func TestThePeerOfAKilledConnectionIsNotLeftHanging(t *testing.T) {
	t.Run("the pool goes on", func(t *testing.T) { killedWhileBothEndsAreFull(t, false) })
	t.Run("the pool closes", func(t *testing.T) { killedWhileBothEndsAreFull(t, true) })
}

func killedWhileBothEndsAreFull(t *testing.T, closes bool) {
	client, server := tcpPair(t)
	slow := &slowToClose{client, make(chan struct{})}
	m, err := plex.New(context.Background(), plex.WithConnections(slow))
	require.NoError(t, err)
	defer m.Close()
	r, err := m.Reader(context.Background(), 0)
	require.NoError(t, err)
	w, err := m.Writer(context.Background(), 0)
	require.NoError(t, err)

	fill(t, server)
	p := make([]byte, 64<<10)
	for n := len(p); n == len(p); {
		require.NoError(t, w.SetWriteDeadline(time.Now().Add(100*time.Millisecond)))
		n, _ = w.Write(p)
	}
	time.Sleep(1500 * time.Millisecond) // for the kernel to shut the window to the last byte
	heard := make(chan struct{})        // of the client's end
	ended := make(chan error, 1)        // what the peer sends
	require.NoError(t, w.Kill())
	if closes {
		go m.Close()
		require.Eventually(t, func() bool {
			_, err := m.Reader(context.Background(), -1)
			return errors.Is(err, plex.ErrClosed)
		}, time.Minute, time.Millisecond)
	}
	go func() {
		defer close(heard)
		p := make([]byte, 64<<10)
		for {
			if _, err := server.Read(p); err != nil {
				return
			}
		}
	}()
	select {
	case <-heard:
	case <-time.After(3 * time.Second): // with both ends full, the kernel may drop what says that there is room again
	}
	for { // what had arrived
		if _, err := r.Read(p); err != nil {
			break
		}
	}
	close(slow.may)
	<-heard
	go func() {
		p := make([]byte, 64<<10)
		for {
			if _, err := server.Write(p); err != nil {
				ended <- err
				return
			}
		}
	}()
	select {
	case <-ended:
	case <-time.After(40 * time.Second): // without help the kernel takes a minute or more
		t.Error("the peer's Write still waits for a connection that was killed 40 s ago")
		_ = server.Close()
		<-ended
	}
	_ = r.Close()
}
