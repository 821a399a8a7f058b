package plex_test

import (
	"context"
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/sock"
)

// kernelSays is what a socket has of keep-alive, in seconds, and of the user timeout, in milliseconds.
type kernelSays struct{ on, idle, interval, count, userTimeout int }

func kernelOf(t *testing.T, conn net.Conn) (k kernelSays) {
	t.Helper()
	const tcpUserTimeout = 18
	require.NoError(t, sock.Of(conn).Raw().Control(func(fd uintptr) {
		for _, o := range []struct {
			level, option int
			value         *int
		}{
			{syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, &k.on},
			{syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE, &k.idle},
			{syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL, &k.interval},
			{syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT, &k.count},
			{syscall.IPPROTO_TCP, tcpUserTimeout, &k.userTimeout},
		} {
			value, err := syscall.GetsockoptInt(int(fd), o.level, o.option)
			require.NoError(t, err)
			*o.value = value
		}
	}))
	return k
}

func TestDialTCPTellsTheKernel(t *testing.T) {
	l := newLedger(t)
	address := tcpService(t, nil)
	raw, err := (&net.Dialer{KeepAlive: -1}).Dial("tcp", address)
	require.NoError(t, err)
	defer raw.Close()
	system := kernelOf(t, raw)

	const s = time.Second
	on := func(idle, interval time.Duration, count int) plex.TCPOption {
		return plex.KeepAlive(net.KeepAliveConfig{Enable: true, Idle: idle, Interval: interval, Count: count})
	}
	for _, tc := range []struct {
		name    string
		options []plex.TCPOption
		want    kernelSays
	}{
		{"nothing", nil, kernelSays{1, 15, 15, 9, 0}},
		{"keep-alive", []plex.TCPOption{on(20*s, 3*s, 4)}, kernelSays{1, 20, 3, 4, 0}},
		{"rounded up", []plex.TCPOption{on(1, 1500*time.Millisecond, 1)}, kernelSays{1, 1, 2, 1, 0}},
		{"off", []plex.TCPOption{plex.KeepAlive(net.KeepAliveConfig{})}, kernelSays{on: 0}},
		{"the most", []plex.TCPOption{on(32767*s, 32767*s, 127)}, kernelSays{1, 32767, 32767, 127, 0}},
		{"both", []plex.TCPOption{on(2*s, s, 3), plex.UserTimeout(5 * s)}, kernelSays{1, 2, 1, 3, 5000}},
		{"off, and a user timeout", []plex.TCPOption{plex.KeepAlive(net.KeepAliveConfig{}), plex.UserTimeout(5 * s)}, kernelSays{userTimeout: 5000}},
		{"the shortest", []plex.TCPOption{plex.UserTimeout(1)}, kernelSays{1, 1, 1, 9, 1}},
		{"rounded up to milliseconds", []plex.TCPOption{plex.UserTimeout(10*s + 1)}, kernelSays{1, 5, 1, 9, 10001}},
		{"keep-alive that fits", []plex.TCPOption{plex.UserTimeout(20 * s)}, kernelSays{1, 10, 3, 9, 20000}},
		{"and no less often than usual", []plex.TCPOption{plex.UserTimeout(time.Hour)}, kernelSays{1, 15, 15, 9, 3600000}},
		{"the longest", []plex.TCPOption{plex.UserTimeout((1<<31 - 1) * time.Millisecond)}, kernelSays{1, 15, 15, 9, 1<<31 - 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := kernelOf(t, detached(t, l, plex.DialTCP(address, tc.options...)))
			if tc.want.on == 0 { // the kernel keeps values that mean nothing
				got.idle, got.interval, got.count = 0, 0, 0
			}
			require.Equal(t, tc.want, got)
		})
	}
	t.Run("the system's", func(t *testing.T) {
		got := kernelOf(t, detached(t, l, plex.DialTCP(address, on(-1, -1, -1))))
		require.Equal(t, kernelSays{1, system.idle, system.interval, system.count, 0}, got)
	})
	whole := t
	t.Run("TLS", func(t *testing.T) {
		server, client := tlsConfigs(t)
		address := tcpService(whole, server) // which waits for what replaces it in the pool
		got := kernelOf(t, detached(t, l, plex.DialTCP(address, plex.TLS(client), plex.UserTimeout(5*s))))
		require.Equal(t, kernelSays{1, 2, 1, 9, 5000}, got)
	})
}

// A peer that is gone without a word is noticed after about 10 seconds, whether the connection is idle or not.
func ExampleUserTimeout() {
	address, stop := exampleService(exampleEcho)
	defer stop()

	mux, err := plex.New(context.Background(),
		plex.WithConnector(plex.DialTCP(address, plex.UserTimeout(10*time.Second))),
		plex.WithMinConnections(2),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mux.Close()

	fmt.Println(mux.Stats().Open)

	// Output:
	// 2
}
