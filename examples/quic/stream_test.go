package main

import (
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/nettest"

	"go.atomizer.io/plex"
)

// A stream is what the net package wants a net.Conn to be.
func TestStreamIsANetConn(t *testing.T) {
	balance(t)
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		c1, c2 = newPeer(t, nil).pair(t)
		return c1, c2, func() { _, _ = c1.Close(), c2.Close() }, nil // the dialer is closed when the test ends
	})
}

// The addresses are those of the QUIC connection, but their network is not UDP's: plex would take the stream for a
// datagram connection, and lose what does not fit into the buffer of a Read.
func TestStreamIsNoDatagramConnection(t *testing.T) {
	balance(t)
	ours, theirs := newPeer(t, nil).pair(t)
	require.Equal(t, ours.LocalAddr().String(), theirs.RemoteAddr().String())
	require.Equal(t, ours.RemoteAddr().String(), theirs.LocalAddr().String())
	require.Equal(t, "quic", ours.LocalAddr().Network())

	m, err := plex.New(within(t), plex.WithConnections(ours))
	require.NoError(t, err)
	defer func() { require.NoError(t, m.Close()) }()
	const text = "a stream has no boundaries"
	_, err = io.WriteString(theirs, text)
	require.NoError(t, err)
	require.NoError(t, theirs.(*stream).CloseWrite())
	var got []byte
	for {
		r, err := m.ReadyReader(within(t), 0) // plex looks at the stream, and has read all of it then
		require.NoError(t, err)
		p := make([]byte, 3)
		n, err := r.Read(p)
		require.NoError(t, r.Close())
		got = append(got, p[:n]...)
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
	}
	require.Equal(t, text, string(got))
	require.NoError(t, theirs.Close())
}

// Close ends both directions, on both sides: what has been written arrives, and the other side's writing is in vain.
func TestCloseEndsBothDirections(t *testing.T) {
	balance(t)
	ours, theirs := newPeer(t, nil).pair(t)
	reading := make(chan error, 1)
	go func() {
		_, err := ours.Read(make([]byte, 1))
		reading <- err
	}()
	_, err := io.WriteString(ours, "the last words")
	require.NoError(t, err)
	require.NoError(t, ours.Close())

	require.Error(t, returns(t, "the end of a Read that blocks", reading))
	got, err := io.ReadAll(theirs)
	require.NoError(t, err)
	require.Equal(t, "the last words", string(got))
	comes(t, "a Write in vain", func() bool {
		_, err = theirs.Write([]byte("x"))
		return err != nil
	})
	var stopped *quic.StreamError
	require.ErrorAs(t, err, &stopped)
	require.True(t, stopped.Remote)
	require.NoError(t, theirs.Close())
	_, err = ours.Write([]byte("x"))
	require.Error(t, err)
}

// A Write that blocks, because the peer does not read, does not hold Close up.
func TestCloseInterruptsAWrite(t *testing.T) {
	balance(t)
	ours, theirs := newPeer(t, nil).pair(t)
	writing := make(chan error, 1)
	go func() {
		_, err := ours.Write(make([]byte, 64<<20)) // more than the peer allows
		writing <- err
	}()
	comes(t, "a Write", func() bool { return !ours.(*stream).writing.TryLock() || unlock(ours) })
	require.NoError(t, ours.Close())
	require.Error(t, returns(t, "the end of a Write that blocks", writing))

	_, err := io.Copy(io.Discard, theirs)
	var reset *quic.StreamError
	require.ErrorAs(t, err, &reset, "what was cut short must not look whole")
	require.NoError(t, theirs.Close())
}

// unlock gives back what TryLock has got, and reports false.
func unlock(conn net.Conn) bool {
	conn.(*stream).writing.Unlock()
	return false
}

// A deadline passes, and the stream is as good as before.
func TestDeadlines(t *testing.T) {
	balance(t)
	ours, theirs := newPeer(t, nil).pair(t)
	require.NoError(t, ours.SetReadDeadline(time.Now().Add(time.Millisecond)))
	_, err := ours.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, ours.SetReadDeadline(time.Time{}))
	_, err = io.WriteString(theirs, "x")
	require.NoError(t, err)
	_, err = io.ReadFull(ours, make([]byte, 1))
	require.NoError(t, err)

	require.NoError(t, ours.SetWriteDeadline(time.Now().Add(10*time.Millisecond)))
	n, err := ours.Write(make([]byte, 64<<20))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Less(t, n, 64<<20)
	require.NoError(t, ours.Close())
	require.NoError(t, theirs.Close())
}
