package sock_test

import (
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex/internal/sock"
)

func TestSetUserTimeout(t *testing.T) {
	client, _ := pair(t, "tcp")
	s := sock.Of(client)
	for d, want := range map[time.Duration]int{1: 1, time.Millisecond: 1, time.Millisecond + 1: 2, time.Hour: 3600000} {
		require.NoError(t, s.SetUserTimeout(d))
		require.NoError(t, s.Raw().Control(func(fd uintptr) {
			got, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, 18)
			require.NoError(t, err)
			require.Equal(t, want, got, "%v", d)
		}))
	}
	require.ErrorIs(t, s.SetUserTimeout(-time.Second), syscall.EINVAL)

	stream, _ := pair(t, "unix")
	require.Error(t, sock.Of(stream).SetUserTimeout(time.Second), "it is not TCP")
	require.NoError(t, client.Close())
	require.ErrorIs(t, s.SetUserTimeout(time.Second), net.ErrClosed)
	require.ErrorIs(t, sock.Socket{}.SetUserTimeout(time.Second), net.ErrClosed)
}
