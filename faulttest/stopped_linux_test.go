package faulttest_test

// A process that stands still for seconds.

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/proxy"
	"go.atomizer.io/plex/request"
)

// stoppedAt is what the process that is stopped finds the server's address in.
const stoppedAt = "PLEX_STOPPED_AT"

// Row "the process stands still for seconds": nothing is killed for it.
// Catches: an interrupted operation, a look or a caller that is given up because a clock has gone on while the process
// has not.
func TestFaultTheProcessStandsStill(t *testing.T) {
	if addr := os.Getenv(stoppedAt); addr != "" {
		standStill(t, addr)
		return
	}
	balance(t)
	p, err := proxy.New(proxy.Config{Handler: func(c *proxy.Conn) {
		buf := make([]byte, 4<<10)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			if _, err := c.Write(buf[:n]); err != nil {
				return
			}
		}
	}})
	require.NoError(t, err)
	defer p.Close()
	child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1")
	child.Env = append(os.Environ(), stoppedAt+"="+p.Addr())
	child.Stderr = os.Stderr
	in, err := child.StdinPipe()
	require.NoError(t, err)
	out, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	defer func() {
		_ = child.Process.Kill() // if the test fails
		_ = child.Wait()
	}()
	lines := bufio.NewScanner(out)
	told := func() string {
		for lines.Scan() {
			if text := lines.Text(); text != "" {
				return text
			}
		}
		return ""
	}
	require.Equal(t, "ready", told())
	for range 3 {
		require.NoError(t, child.Process.Signal(syscall.SIGSTOP))
		time.Sleep(1500 * time.Millisecond) // longer than plex is patient with an interrupted operation
		require.NoError(t, child.Process.Signal(syscall.SIGCONT))
		_, err = fmt.Fprintln(in, "go on")
		require.NoError(t, err)
		require.Equal(t, "going on", told())
	}
	require.NoError(t, in.Close())
	require.Equal(t, "well", told())
	require.NoError(t, child.Wait())
	require.Equal(t, 2*stillConns, p.Accepted(), "no connection had to be replaced")
}

const stillConns = 16

// late is a transport whose Read takes a while to return when a deadline has passed, so that at any moment some lease is
// about to end.
type late struct{ net.Conn }

func (c late) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		time.Sleep(30 * time.Millisecond)
	}
	return n, err
}

// standStill is the process that is stopped: leases are closed in use and streams canceled all the time, and requests
// are made.
func standStill(t *testing.T, addr string) {
	var m [2]*plex.Multiplexer
	for i := range m {
		var err error
		m[i], err = plex.New(t.Context(), plex.WithMinConnections(stillConns), plex.WithConnector(plex.DialFunc(func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			c, err := d.DialContext(ctx, "tcp", addr)
			return late{c}, err
		})))
		require.NoError(t, err)
		defer m[i].Close()
	}
	client, err := request.New[string, string](m[1], numbered{})
	require.NoError(t, err)
	defer client.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	var stop atomic.Bool
	defer stop.Store(true)
	var leases, replies atomic.Int64
	for i := range 2 * stillConns { // so that some wait, with a timeout that is long for a process that runs
		wg.Go(func() {
			for !stop.Load() {
				r, err := m[0].Reader(t.Context(), patience)
				if err != nil {
					t.Errorf("a caller was not served: %v", err)
					return
				}
				time.AfterFunc(time.Millisecond, func() { _ = r.Close() })
				if i%2 == 0 {
					_, err = r.Read(make([]byte, 1))
				} else if chunks, streamErr := r.RecvChunks(t.Context(), 0); streamErr == nil {
					for range chunks {
					}
					err = r.Err()
				}
				if err != nil && !errors.Is(err, plex.ErrLeaseClosed) {
					t.Errorf("a lease that is closed in use: %v", err)
					return
				}
				leases.Add(1)
			}
		})
		wg.Go(func() {
			for !stop.Load() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				if reply, err := client.Do(ctx, "hello"); err != nil || reply != "hello" {
					t.Errorf("a request: %q, %v", reply, err)
				}
				cancel()
				replies.Add(1)
			}
		})
	}
	more := func() {
		l, r := leases.Load(), replies.Load()
		eventually(t, func() bool { return leases.Load() > l+10 && replies.Load() > r+10 }, "leases and replies")
	}
	more()
	fmt.Println("ready")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		more()
		fmt.Println("\ngoing on")
	}
	for _, m := range m {
		s := m.Stats()
		require.Zero(t, s.Lost, "%+v", s)
		require.Zero(t, s.TimedOut, "%+v", s)
	}
	fmt.Println("\nwell")
}
