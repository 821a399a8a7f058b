package plex_test

// What the watcher does to the process and its descriptors, which takes Linux to see.

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
)

// processorTime is what this process has used.
func processorTime(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// An end is told once: a connection that goes on half closed does not keep the watcher busy.
func TestHalfClosedConnectionCostsNoProcessorTime(t *testing.T) {
	l := newLedger(t)
	s := newHost(t, "tcp")
	m, p := s.mux(l)
	r, w := leaseReader(t, m), leaseWriter(t, m)
	p.halfClose()
	eventually(t, func() bool { return m.Stats().Lost == 1 }, "the loss is seen")
	before := processorTime(t)
	time.Sleep(200 * time.Millisecond)
	assert.Less(t, processorTime(t)-before, 60*time.Millisecond)
	requireClosed(t, r, w)
	requireHealed(t, m, 1, 1)
}

// ---------------------------------------------------------------------------------------------------------------
// No descriptors left

// asChild is set in a process that a test has started to do what must not be done in its own.
const asChild = "PLEX_TEST_CHILD"

// inChild runs the test again in a process of its own and reports false there. What that process prints is shown.
func inChild(t *testing.T) bool {
	t.Helper()
	if os.Getenv(asChild) != "" {
		return false
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1")
	cmd.Env = append(os.Environ(), asChild+"=1", "GORACE=atexit_sleep_ms=0")
	out, err := cmd.CombinedOutput()
	scanner := bufio.NewScanner(strings.NewReader(string(out)))
	for scanner.Scan() {
		t.Log("child: " + scanner.Text())
	}
	require.NoError(t, err)
	require.Contains(t, string(out), "--- PASS: "+t.Name())
	return true
}

// limitDescriptors lets the process have no more of them; what is open stays open. The function takes that back.
func limitDescriptors(t *testing.T) (lift func()) {
	t.Helper()
	var before syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before))
	// The limit is for the numbers. There is none free below 3.
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 3, Max: before.Max}))
	_, err := os.Open(os.DevNull)
	require.ErrorIs(t, err, syscall.EMFILE)
	return func() { require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before)) }
}

func TestProcessWithoutDescriptorsKeepsTheHealthyConnectionsAndRecovers(t *testing.T) {
	if inChild(t) {
		return
	}
	l := newLedger(t)
	s := newHost(t, "tcp")
	var log logbook
	m := l.mustOpen(8, s.connect(), plex.WithLogger(log.logger()))
	peers := make([]*peer, 8)
	for i := range peers {
		peers[i] = s.next()
	}
	alive := func() {
		t.Helper()
		for _, p := range peers[4:] {
			r := readerOn(t, m, p)
			p.send(t, 0, 800)
			_, err := readOracle(r, p.number, 800)
			require.NoError(t, err)
			requireClosed(t, r)
		}
	}

	lift := limitDescriptors(t)
	for _, p := range peers[:4] {
		p.fin()
	}
	eventually(t, func() bool { return m.Stats().Open == 4 && m.Stats().Lost == 4 }, "four are lost")
	started := time.Now()
	before := s.dialed()
	waiting := later(func() error { // gets its connection when there are more than the healthy ones
		var leases []io.Closer
		for range 5 {
			w, err := m.Writer(t.Context(), patience)
			if err != nil {
				return err
			}
			leases = append(leases, w)
		}
		var errs []error
		for _, w := range leases {
			errs = append(errs, w.Close())
		}
		return errors.Join(errs...)
	})
	for time.Since(started) < time.Second {
		alive()
		time.Sleep(50 * time.Millisecond)
	}
	connects := s.dialed() - before
	t.Logf("%d connects in %v", connects, time.Since(started))
	assert.LessOrEqual(t, connects, 10, "it backs off")
	assert.Positive(t, connects)
	stats := m.Stats()
	assert.ErrorIs(t, stats.LastConnectError, syscall.EMFILE)
	assert.Equal(t, 4, stats.Open, "the healthy ones are kept")
	assert.EqualValues(t, 4, stats.Lost)
	requirePending(t, waiting, "the wait for a fifth connection")
	assert.ErrorIs(t, log.named(t, "plex: connect failed", 1)[0].attrs["cause"].(error), syscall.EMFILE)

	lift()
	require.NoError(t, <-waiting)
	requireHealed(t, m, 8, 4)
	alive()
}

// The watcher itself costs one descriptor, however many connections there are, and none once the multiplexer is closed.
func TestWatcherCostsOneDescriptorForThePool(t *testing.T) {
	l := newLedger(t)
	s := newHost(t, "tcp")
	var conns []net.Conn
	for range 50 {
		conns = append(conns, s.open().client)
	}
	before := fakenet.Descriptors()
	m, err := plex.New(t.Context(), plex.WithConnections(conns...))
	require.NoError(t, err)
	l.closeAtEnd(m)
	require.Equal(t, before+byPoller(1, 0), fakenet.Descriptors())
	require.NoError(t, m.Close())
	require.Equal(t, before-len(conns), fakenet.Descriptors())
	for range 20 { // and none by multiplexers that come and go
		p := s.open()
		m, err := plex.New(t.Context(), plex.WithConnections(p.client))
		require.NoError(t, err)
		require.NoError(t, m.Close())
		p.fin()
	}
	require.Equal(t, before-len(conns), fakenet.Descriptors(), fmt.Sprint("after ", len(conns), " connections"))
}

// The end of a connection may overtake the watching of its admission.
func TestAConnectionMayEndWhileItIsAdmitted(t *testing.T) {
	l := newLedger(t)
	for i := range 300 {
		client, server := tcpPair(t)
		m := l.mux(plex.WithMaxCapacity(1))
		begun := make(chan struct{})
		added := later(func() error { close(begun); _, err := m.Add(t.Context(), client); return err })
		<-begun
		for began := time.Now(); time.Since(began) < time.Duration(i)*time.Microsecond/2; {
			runtime.Gosched()
		}
		require.NoError(t, m.Close())
		if <-added != nil {
			requireClosed(t, client)
		}
		requireClosed(t, server)
	}
}

// The kernel tells nothing of a descriptor that is closed in this process, so plex looks now and then.
func TestATransportThatSomebodyElseClosesIsReplaced(t *testing.T) {
	l := fakenet.NewBooks(t)
	client, _ := tcpPair(t)
	m, err := plex.New(t.Context(), plex.WithConnections(client), plex.WithConnector(plex.DialFunc(func(context.Context) (net.Conn, error) {
		c, _ := l.Pair()
		return c, nil
	})))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, m.Close()) })
	require.NoError(t, client.Close())
	require.Eventually(t, func() bool { return m.Stats().Healed == 1 }, time.Minute, time.Millisecond)
	require.EqualValues(t, 1, m.Stats().Lost)
}
