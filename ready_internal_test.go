package plex

// What can come in between when a read half becomes idle, on real sockets.

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Whatever plex does with idle halves, each word is delivered, and the next is sent when it has been.
// So a word that is overlooked ends the test.
func TestNothingIsOverlookedAmongHoldsGlancesAndReadyReaders(t *testing.T) {
	client, peer := tcpPair(t)
	m, err := New(t.Context(), WithConnections(client))
	require.NoError(t, err)
	defer m.Close()
	_, err = m.ReadyReader(t.Context(), -1)
	require.ErrorIs(t, err, ErrTimeout)
	h := &m.roster.all()[0].r
	ctx, cancel := context.WithCancel(t.Context())
	var last atomic.Uint64
	last.Store(uint64(firstLease))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, disturb := range []func(){
		func() {
			if h.hold() {
				h.arrive(fromHold)
			}
		},
		h.conn.glance,
		func() { h.attend(word(last.Load()), true) }, // late, on behalf of an earlier lease
		func() {
			if r, err := m.ReadyReader(ctx, -1); err == nil {
				last.Store(uint64(r.id))
				_ = r.Close()
			}
		},
	} {
		wg.Go(func() {
			for ctx.Err() == nil {
				disturb()
				time.Sleep(50 * time.Microsecond) // a pace, not a wait
			}
		})
	}
	b := make([]byte, 4)
	for range 300 {
		_, err := peer.Write([]byte("word"))
		require.NoError(t, err)
		for read := 0; read < len(b); {
			r, err := m.ReadyReader(t.Context(), sweepPatience)
			require.NoError(t, err)
			require.NoError(t, r.SetReadDeadline(time.Now().Add(sweepPatience)))
			n, err := r.Read(b[read:])
			require.NoError(t, err)
			read += n
			require.NoError(t, r.Close())
		}
		require.Equal(t, "word", string(b))
	}
}

// requireWordReady has the peer send a word, and a ready reader read it.
func requireWord(t *testing.T, m *Multiplexer, peer net.Conn) {
	t.Helper()
	_, err := peer.Write([]byte("word"))
	require.NoError(t, err)
	r, err := m.ReadyReader(t.Context(), sweepPatience)
	require.NoError(t, err)
	b := make([]byte, 4)
	require.NoError(t, r.SetReadDeadline(time.Now().Add(sweepPatience)))
	_, err = r.Read(b)
	require.NoError(t, err)
	require.Equal(t, "word", string(b))
	require.NoError(t, r.Close())
}

// An event carries the number of the lease after which it was armed.
func TestAnEventListsOnlyAnIdleHalfOfItsOwnLease(t *testing.T) {
	client, _ := net.Pipe()
	defer client.Close()
	m := muxOf(t, client)
	m.reading.Store(readsReady)
	h := &m.roster.all()[0].r
	tag := h.word().tag()

	h.becomeReady(tag - 1)
	require.False(t, h.word().is(poolListed), "that was armed after an earlier lease")
	for range 2 {
		h.becomeReady(tag)
		require.True(t, h.word().is(poolListed))
		require.Len(t, m.readers.idle, 1)
	}
	_, _, err := m.tryTake(&m.readers)
	require.NoError(t, err)
	h.becomeReady(h.word().tag())
	require.Empty(t, m.readers.idle, "it is leased")
}

// The end of a lease makes the half idle, and then arms the poller. In between another lease can have begun and ended.
func TestTheEndOfALeaseThatIsOvertakenByALaterOneLeavesNothingUnnoticed(t *testing.T) {
	client, peer := tcpPair(t)
	m := muxOf(t, client)
	_, err := m.ReadyReader(t.Context(), -1)
	require.ErrorIs(t, err, ErrTimeout)
	h := &m.roster.all()[0].r
	first := h.word()
	for range 3 {
		requireWord(t, m, peer)
	}
	h.attend(first, true)
	requireWord(t, m, peer)
}

// buffered is a transport that has something inside itself.
type buffered struct {
	*net.TCPConn
	inside []byte
}

func (b *buffered) Read(p []byte) (int, error) {
	if len(b.inside) > 0 {
		n := copy(p, b.inside)
		b.inside = b.inside[n:]
		return n, nil
	}
	return b.TCPConn.Read(p)
}

// Plex holds a half, for another reason, when somebody asks for ready readers for the first time.
func TestWhatIsInsideIsNoticedWhenAHoldEndsThatHasNotLooked(t *testing.T) {
	client, _ := tcpPair(t)
	m := muxOf(t, &buffered{client.(*net.TCPConn), []byte("word")})
	h := &m.roster.all()[0].r
	require.True(t, h.hold())
	_, err := m.ReadyReader(t.Context(), -1)
	require.ErrorIs(t, err, ErrTimeout)
	h.arrive(fromHold)
	r, err := m.ReadyReader(t.Context(), sweepPatience)
	require.NoError(t, err)
	require.NoError(t, r.Close())
}

func TestTheFirstCallDecidesHowReadHalvesAreAskedFor(t *testing.T) {
	ways := map[int32]func(m *Multiplexer) error{
		readsAny:   func(m *Multiplexer) error { _, err := m.Reader(t.Context(), -1); return err },
		readsReady: func(m *Multiplexer) error { _, err := m.ReadyReader(t.Context(), -1); return err },
	}
	for first, ask := range ways {
		client, peer := net.Pipe()
		defer peer.Close()
		m := muxOf(t, client)
		for range 2 {
			require.NotErrorIs(t, ask(m), ErrReaderMode)
			for other, ask := range ways {
				if other != first {
					require.ErrorIs(t, ask(m), ErrReaderMode)
				}
			}
		}
	}
}
