package faulttest_test

// Faults that only the kernel can cause: a listener's full backlog, and (in files of their own) a black hole, ss -K and
// the limit of descriptors.

import (
	"context"
	"errors"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/proxy"
)

// Row "dial hangs": waiters return on time; the slot stays counted.
// Catches: a waiter that waits for the kernel's patience (two minutes of SYNs) instead of its own.
func TestFaultDialHangs(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("a backlog of 0 can be had on Linux only")
	}
	w := newWorld(t, 2, proxy.Config{})
	require.NoError(t, w.PauseAccept(0))
	d := net.Dialer{Timeout: 500 * time.Millisecond}
	var fill []net.Conn
	for late := 0; late < 2; { // a busy machine may be late for once
		c, err := d.Dial("tcp", w.Addr())
		if err != nil {
			late++
			continue
		}
		defer c.Close()
		fill = append(fill, c)
		require.Less(t, len(fill), 10, "the backlog does not fill")
	}

	m := w.lazy(plex.WithConnectTimeout(200*time.Millisecond), plex.WithAutoScaling(time.Millisecond))
	var wg sync.WaitGroup
	for _, timeout := range []time.Duration{20, 50, 100, 300, 600} {
		wg.Go(func() {
			timeout *= time.Millisecond
			began := time.Now()
			_, err := m.Reader(context.Background(), timeout)
			took := time.Since(began)
			if err == nil || took < timeout {
				t.Errorf("a wait of %v took %v: %v", timeout, took, err)
			}
			if s := m.Stats(); s.Open != 0 || s.Connecting > 2 {
				t.Errorf("%+v", s)
			}
		})
	}
	within(t, "a waiter whose dial hangs", wg.Wait) // the kernel would have them wait for two minutes
	refusedWith(t, m, func(err error) bool {
		var ae *plex.AcquireError
		var cause net.Error
		return errors.As(err, &ae) && errors.As(ae.Connect, &cause) && cause.Timeout() // the connect's own timeout
	})
	for _, c := range fill { // they are no connections of the pool's
		require.NoError(t, c.Close())
	}
	require.NoError(t, w.ResumeAccept())
	require.NoError(t, reader(t, m).Close(), "served once the service accepts again")
}
