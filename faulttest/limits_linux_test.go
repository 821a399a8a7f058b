package faulttest_test

// The limit of descriptors, in a process of its own.

import (
	"context"
	"net"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/check"
	"go.atomizer.io/plex/faulttest/proxy"
)

// child is the environment variable that tells the test binary that it is the process of its own.
const child = "PLEX_FAULT_CHILD"

// Row "no descriptors left (EMFILE)": backs off, keeps the healthy ones.
// Catches: healthy connections closed because a connect has failed, a storm of connects, a slot lost with each of them.
func TestFaultNoDescriptorsLeft(t *testing.T) {
	if os.Getenv(child) == t.Name() {
		noDescriptorsLeft(t)
		return
	}
	exe, err := os.Executable()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), child+"="+t.Name())
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "--- PASS: "+t.Name())
}

func noDescriptorsLeft(t *testing.T) {
	w := newWorld(t, 4, proxy.Config{})
	var dials atomic.Int32
	inner := w.book.Dial(w.Addr())
	m := w.bare(plex.WithMaxCapacity(4), plex.WithMinConnections(4), // the default backoff
		plex.WithConnector(func(ctx context.Context, conn net.Conn) error {
			dials.Add(1)
			return inner(ctx, conn)
		}))
	w.everyone(4)
	dials.Store(0)

	var limit syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	low := limit
	low.Cur = 3 // those that are open stay; there is none for anything new
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &low))
	restore := func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
	}
	defer restore()

	began := time.Now()
	w.server(0).Reset()
	eventually(t, func() bool { s := m.Stats(); return s.Lost == 1 && s.ConnectFailed > 0 }, "the connect fails")
	for range 50 {
		for range 3 {
			rd, wr := reader(t, m), writer(t, m)
			write(t, wr, "healthy")
			require.NoError(t, rd.Close())
			require.NoError(t, wr.Close())
		}
		time.Sleep(10 * time.Millisecond)
	}
	s := m.Stats()
	require.Equal(t, 3, s.Open)
	require.EqualValues(t, 1, s.Lost)
	require.ErrorIs(t, s.LastConnectError, syscall.EMFILE)
	// Six in half a second; the pauses grow, but a busy machine may take longer.
	require.LessOrEqual(t, float64(dials.Load()), 2+8*time.Since(began).Seconds())
	restore()
	w.healed(m, 1)
	require.NoError(t, check.Whole(m, 4, patience))
}
