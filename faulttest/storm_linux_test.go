package faulttest_test

// Thousands of connections that end at once with something unsent, to peers that do not read.

import (
	"context"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
)

// deaf makes n connections to a server that reads nothing, if full is set with as much written as the kernel takes.
func deaf(t *testing.T, n int, full bool) []net.Conn {
	t.Helper()
	small := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10) })
	}}
	l, err := small.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var accepting sync.WaitGroup
	var held []net.Conn
	accepting.Go(func() {
		for range n {
			c, err := l.Accept()
			if err != nil {
				return
			}
			held = append(held, c)
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		accepting.Wait()
		for _, c := range held {
			_ = c.Close()
		}
	})
	conns := make([]net.Conn, n)
	var dialing sync.WaitGroup
	for worker := range 8 {
		dialing.Go(func() {
			junk := make([]byte, 256<<10)
			for i := worker; i < n; i += 8 {
				c, err := net.Dial("tcp", l.Addr().String())
				if err != nil {
					t.Error(err)
					return
				}
				conns[i] = c
				if !full {
					continue
				}
				_ = c.(*net.TCPConn).SetWriteBuffer(4 << 10)
				raw, err := c.(*net.TCPConn).SyscallConn()
				if err == nil {
					err = raw.Write(func(fd uintptr) bool { _, _ = syscall.Write(int(fd), junk); return true })
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	dialing.Wait()
	require.False(t, t.Failed())
	return conns
}

// cpu is how much of the processors this process has had.
func cpu(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Of the row "thousands of connections end, expire or are killed at once", those that have something unsent: what it costs
// for each does not grow with their number, and is not much more than what each costs that has nothing unsent.
// Catches: a look at each of them by the millisecond, and whatever goes through all of them for each.
func TestFaultThousandsEndWithSomethingUnsent(t *testing.T) {
	const few, many = 1000, 8000
	var limit syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	if limit.Cur < 2*many+1000 {
		t.Skipf("no more than %d descriptors", limit.Cur)
	}
	for name, end := range map[string]func(t *testing.T, m *plex.Multiplexer, leases []plex.Writer){
		"killed": func(t *testing.T, m *plex.Multiplexer, leases []plex.Writer) {
			for _, w := range leases {
				_ = w.Kill()
			}
			eventually(t, func() bool { return m.Stats().Open == 0 }, "all are closed")
		},
		"shut down": func(t *testing.T, m *plex.Multiplexer, leases []plex.Writer) {
			for _, w := range leases {
				_ = w.Close()
			}
			require.NoError(t, m.Shutdown(t.Context()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			cost := func(n int, full bool) (each time.Duration) {
				t.Run("", func(t *testing.T) {
					balance(t)
					conns := deaf(t, n, full)
					m := newMux(t, plex.WithConnections(conns...))
					leases := make([]plex.Writer, n)
					for i := range leases {
						var err error
						leases[i], err = m.Writer(context.Background(), patience)
						require.NoError(t, err)
					}
					before := cpu(t)
					end(t, m, leases)
					each = (cpu(t) - before) / time.Duration(n)
					t.Logf("%d connections, something unsent %t: CPU for each %v", n, full, each)
				})
				return each
			}
			// A busy machine costs more at one time than at another, so the cheaper of two tries counts.
			least := func(n int, full bool) time.Duration { return min(cost(n, full), cost(n, full)) }
			plain, one := least(few, false), least(few, true)
			require.LessOrEqual(t, one, 15*plain, "beside those that have nothing unsent")
			other := cost(many, true)
			if other > 3*one {
				other = min(other, cost(many, true))
			}
			require.LessOrEqual(t, other, 3*one, "of many, for each, beside %v of few", one)
		})
	}
}
