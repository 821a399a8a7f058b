package faulttest_test

// Connections that the host itself aborts.

import (
	"net"
	"os/exec"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex/faulttest/check"
	"go.atomizer.io/plex/faulttest/proxy"
)

// Row "connection aborted by the host": lost, healed.
// Catches: an end that comes neither from the peer nor from plex and is not seen while the connection is idle; an
// ECONNABORTED taken for something passing.
func TestFaultConnectionAbortedByTheHost(t *testing.T) {
	ss, err := exec.LookPath("ss")
	if err != nil {
		t.Skipf("iproute2 is missing: %v", err)
	}
	w := newWorld(t, 3, proxy.Config{})
	m := w.mux()
	rd, wr := reader(t, m), writer(t, m)
	if rd.LocalAddr().String() == wr.LocalAddr().String() { // two connections, and one idle
		other := writer(t, m)
		require.NoError(t, wr.Close())
		wr = other
	}
	host, port, err := net.SplitHostPort(w.Addr())
	require.NoError(t, err)
	w.everyone(3)
	read := make(chan error, 1)
	go func() {
		_, err := rd.Read(make([]byte, 1))
		read <- err
	}()
	// Of this test's connections only, and only the clients' ends.
	out, err := exec.Command(ss, "-K", "-t", "-n", "dst", host, "dport", "=", ":"+port).CombinedOutput()
	if err != nil {
		t.Errorf("ss -K: %v: %s", err, out)
	}
	if proxy.Established(check.Of(rd).TCPConn) { // it would be over when ss returns
		require.NoError(t, rd.Close())
		require.NoError(t, wr.Close())
		t.Skipf("this system does not destroy sockets (CONFIG_INET_DIAG_DESTROY), or not for this user: ss -K says %q", out)
	}
	within(t, "the reader", func() { err = <-read })
	require.ErrorIs(t, err, syscall.ECONNABORTED)
	eventually(t, func() bool { _, err = wr.Write([]byte("x")); return err != nil }, "the writer is told")
	require.NoError(t, rd.Close())
	require.NoError(t, wr.Close())
	w.healed(m, 3)
	w.alive(m)
}
