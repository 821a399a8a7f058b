package faulttest_test

// A service that is well and accepts slowly, behind a backlog that is soon full.

import (
	"context"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
)

// Row "a small accept backlog at start": New goes by the window.
// Catches: a connect for each of the minimum at the same moment, which a Unix socket refuses.
func TestFaultASmallAcceptBacklogAtStart(t *testing.T) {
	balance(t)
	const minimum = 100
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	require.NoError(t, err)
	raw, err := l.(*net.UnixListener).SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) { require.NoError(t, syscall.Listen(int(fd), 4)) }))
	var accepting sync.WaitGroup
	var accepted []net.Conn
	accepting.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted = append(accepted, c)
			time.Sleep(time.Millisecond)
		}
	})
	defer func() {
		_ = l.Close()
		accepting.Wait()
		for _, c := range accepted {
			_ = c.Close()
		}
	}()
	var now, most atomic.Int32
	dial := plex.Dial("unix", l.Addr().String())
	m := newMux(t, plex.WithMinConnections(minimum), plex.WithBackoff(quick), plex.WithConnector(func(ctx context.Context, conn net.Conn) error {
		n := now.Add(1)
		defer now.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		time.Sleep(5 * time.Millisecond) // so that those that have started together are seen together
		return dial(ctx, conn)
	}))
	require.Equal(t, minimum, m.Stats().Open)
	require.LessOrEqual(t, most.Load(), int32(32), "connects at the same moment")
	require.NoError(t, m.Close())
}
