//go:build linux && !plexportable

package plex_test

// What is so because the poller is epoll: it does not look at the sockets, costs a descriptor, and sees an end behind
// whatever is unread.

import (
	"io"
	"net"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
)

// withDescriptor calls f with the descriptor of nc.
func withDescriptor(t testing.TB, nc net.Conn, f func(fd int)) {
	t.Helper()
	raw, err := nc.(syscall.Conn).SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) { f(int(fd)) }))
}

// unreadBytes is what has arrived at nc and not been read.
func unreadBytes(t testing.TB, nc net.Conn) (n int32) {
	t.Helper()
	withDescriptor(t, nc, func(fd int) {
		_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TIOCINQ, uintptr(unsafe.Pointer(&n)))
		require.Zero(t, errno)
	})
	return n
}

// The kernel tells a reset once. Whoever comes second is told of a clean end, which it was not.
func TestResetThatSomebodyElseWasToldOfIsNoCleanEnd(t *testing.T) {
	l := newLedger(t)
	s := newHost(t, "tcp")
	m, p := s.mux(l)
	r, w := leaseReader(t, m), leaseWriter(t, m)
	p.reset()
	withDescriptor(t, p.client, func(fd int) {
		code, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_ERROR)
		require.NoError(t, err)
		require.Equal(t, syscall.ECONNRESET, syscall.Errno(code))
	})
	_, err := r.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET)
	require.ErrorIs(t, w.Err(), syscall.ECONNRESET)
	requireHealed(t, m, 1, 1)
	requireClosed(t, r, w)
}

// What the peer has sent before its end stays with the system, but for a little.
func TestNoMoreThanAFewRemainsAreKeptInMemory(t *testing.T) {
	const size = 400_000
	l := newLedger(t)
	s := newHost(t, "tcp")
	s.prep = func(p *peer) { require.NoError(t, p.client.(*net.TCPConn).SetReadBuffer(2*size)) }
	m, p := s.mux(l)
	p.send(t, 0, size)
	p.fin()
	requireHealed(t, m, 1, 1)
	for range 4 { // which is not enough to take it all, and so close the descriptor
		r := readerOn(t, m, p) // reads nothing
		requireClosed(t, r)
		time.Sleep(5 * time.Millisecond)
	}
	taken := size - unreadBytes(t, p.client)
	assert.LessOrEqual(t, taken, int32(128<<10), "of %d bytes %d are in memory", size, taken)

	r := readerOn(t, m, p)
	n, err := readOracle(r, p.number, -1)
	require.Equal(t, io.EOF, err)
	require.EqualValues(t, size, n)
	requireClosed(t, r)
}

// A descriptor's number is soon another connection's. Whatever happens to the connection that had it before is no news
// about the one that has it now.
func TestDescriptorThatHasBecomeAnotherConnectionIsWatchedForThatOne(t *testing.T) {
	l := newLedger(t)
	s := newHost(t, "tcp")
	descriptor := func(p *peer) (fd int) {
		withDescriptor(t, p.client, func(n int) { fd = n })
		return fd
	}
	for range 10 {
		older := s.open()
		fd := descriptor(older)
		m := l.mux(plex.WithConnections(older.client), plex.WithMaxCapacity(2))
		require.NoError(t, older.client.Close()) // behind plex's back
		newer := s.open()
		if descriptor(newer) != fd { // somebody else was faster
			newer.fin()
			require.NoError(t, newer.client.Close())
			require.NoError(t, m.Close())
			continue
		}
		rest, err := m.Add(t.Context(), newer.client)
		require.NoError(t, err)
		require.Empty(t, rest)

		// The older one's end, as its peer sees it, and as a consumer does.
		older.fin()
		w, err := m.Writer(t.Context(), 0)
		require.NoError(t, err)
		require.Equal(t, older.client.LocalAddr(), w.LocalAddr())
		_, err = w.Write([]byte("x"))
		require.ErrorIs(t, err, net.ErrClosed)
		requireClosed(t, w)
		requirePassing(t, m, newer)
		eventually(t, func() bool { return m.Stats().Open == 1 }, "the older one is closed")
		require.EqualValues(t, 1, m.Stats().Lost)

		newer.fin()
		eventually(t, func() bool { return m.Stats().Lost == 2 }, "the newer one's end is seen")
		requireLost(t, m, 2)
		return
	}
	t.Skip("no descriptor was the same twice")
}

// Where there is no descriptor for the watcher either, connections are not watched, and that is all.
func TestProcessWithoutADescriptorForTheWatcherHealsOnUse(t *testing.T) {
	if inChild(t) {
		return
	}
	l := newLedger(t)
	s := newHost(t, "tcp")
	p := s.open()
	var log logbook
	lift := limitDescriptors(t)
	m := l.mux(plex.WithConnections(p.client), plex.WithConnector(s.connect()), plex.WithLogger(log.logger()), retryAtOnce)
	assert.ErrorIs(t, log.named(t, "plex: idle connections are not watched", 1)[0].attrs["cause"].(error), syscall.EMFILE)
	requirePassing(t, m, p)
	lift()

	p.fin()
	r := leaseReader(t, m)
	_, err := r.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)
	requireClosed(t, r)
	requireHealed(t, m, 1, 1)
	s.next().fin() // this one is watched
	requireHealed(t, m, 1, 2)
	requirePassing(t, m, s.next())
}
