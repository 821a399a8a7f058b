package plex

import (
	"context"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex/internal/fakenet"
)

// legalLives is the table at the top of conn.go, written out.
var legalLives = map[life][]life{
	{phaseClaimed, whyNone}: {
		{phaseOpen, whyNone}, {phaseClosing, whyLost}, {phaseClosing, whyKilled}, {phaseClosing, whyShutDown},
	},
	{phaseOpen, whyNone}: append([]life{
		{phaseOpen, whyExpired}, {phaseOpen, whyRenewed}, {phaseOpen, whyDrained}, {phaseOpen, whyMoved},
	}, leaving...),
	{phaseOpen, whyExpired}: leaving,
	{phaseOpen, whyRenewed}: leaving,
	{phaseOpen, whyDrained}: leaving,
	{phaseOpen, whyMoved}:   leaving,
}

// leaving is how a connection may leave service.
var leaving = []life{
	{phaseLeaving, whyLost},
	{phaseLeaving, whyKilled},
	{phaseLeaving, whySurplus},
	{phaseLeaving, whyExpired},
	{phaseLeaving, whyRenewed},
	{phaseLeaving, whyDrained},
	{phaseLeaving, whyMoved},
	{phaseLeaving, whyDetached},
	{phaseLeaving, whyShutDown},
}

func TestLifeTurnsOnlyAsTheTableSays(t *testing.T) {
	for y := whyLost; y <= whyShutDown; y++ { // once a connection leaves, its why stays
		legalLives[life{phaseLeaving, y}] = []life{{phaseClosing, y}}
		legalLives[life{phaseClosing, y}] = []life{{phaseClosed, y}}
	}

	for p := phaseClaimed; p <= phaseClosed; p++ {
		for y := whyNone; y <= whyShutDown; y++ {
			from := life{p, y}
			if p == phaseClaimed && y != whyNone || p == phaseOpen && y != whyNone && !y.replaces() || p >= phaseLeaving && y == whyNone {
				continue // nothing leads there
			}
			for to := phaseClaimed; to <= phaseClosed; to++ {
				for because := whyNone; because <= whyShutDown; because++ {
					next, ok := from.turn(to, because)
					want := life{to, because}
					if p >= phaseLeaving {
						want.why = y
					}
					legal := false
					for _, l := range legalLives[from] {
						legal = legal || l == want
					}
					require.Equal(t, legal, ok, "%+v to %+v", from, want)
					if ok {
						require.Equal(t, want, next)
					} else {
						require.Equal(t, from, next, "what is not legal changes nothing")
					}
				}
			}
		}
	}
}

func TestPeersEndTurnsOnlyAsTheTableSays(t *testing.T) {
	legal := map[[2]stage]bool{
		{peerOpen, peerNoticed}: true,
		{peerOpen, peerRead}:    true,
		{peerNoticed, peerRead}: true,
		{peerRead, peerTold}:    true,
		{peerTold, peerRead}:    true,
	}
	for from := peerOpen; from <= peerTold; from++ {
		for to := peerOpen; to <= peerTold; to++ {
			var p peerEnd
			p.stage.Store(int32(from))
			ok := p.turn(to)
			require.Equal(t, legal[[2]stage{from, to}], ok, "%d to %d", from, to)
			want := from
			if ok {
				want = to
			}
			require.EqualValues(t, want, p.stage.Load())
			for s := peerOpen; s <= peerTold; s++ {
				require.Equal(t, want >= s, p.reached(s))
			}
		}
	}
}

func TestWhyOfAFailure(t *testing.T) {
	require.Equal(t, whyKilled, whyOf(ErrKilled))
	require.Equal(t, whyShutDown, whyOf(ErrClosed))
	require.Equal(t, whyLost, whyOf(errPeerClosed))
	require.Equal(t, whyLost, whyOf(ErrPartialWrite))
}

// muxOf is a multiplexer of one connection.
func muxOf(t *testing.T, nc net.Conn) *Multiplexer {
	t.Helper()
	m, err := New(t.Context(), WithConnections(nc))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

func TestAKillIsNoFailureOfTheService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := New(t.Context(), WithConnector(DialFunc(func(context.Context) (net.Conn, error) {
			client, peer := net.Pipe()
			t.Cleanup(func() { _ = peer.Close() })
			return client, nil
		})), WithMinConnections(1))
		require.NoError(t, err)
		for range 3 {
			w, err := m.Writer(t.Context(), 0)
			require.NoError(t, err)
			require.NoError(t, w.Kill())
		}
		m.mu.Lock()
		failures := m.healer.pace.Failures(time.Now())
		m.mu.Unlock()
		require.Zero(t, failures)
		require.NoError(t, m.Close())
	})
}

// Both halves fail at once, or a kill comes beside a failure: the second finds a cause, but the first
// may not have come further than that.
func TestFailuresThatMeetAreOneLoss(t *testing.T) {
	nc, _ := fakenet.Pair()
	m := muxOf(t, nc)
	c := m.roster.all()[0]
	first := error(syscall.ECONNRESET)
	c.cause.Store(&first)
	c.fail(ErrKilled)
	s := m.Stats()
	require.Equal(t, [3]int{1, 0, 0}, [3]int{int(s.Lost), s.IdleReaders, s.IdleWriters}, "lost, and idle halves")
}

// Whoever closes the multiplexer waits for a transport that somebody else is about to close.
func TestCloseWaitsForATransportThatSomebodyElseIsAboutToClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		books := fakenet.NewBooks(t)
		transport, _ := books.Pair()
		m, err := New(context.Background(), WithConnections(transport))
		require.NoError(t, err)
		c := m.roster.all()[0]
		m.mu.Lock()
		require.True(t, c.closeLocked(whyLost))
		m.mu.Unlock()
		closed := make(chan error, 1)
		go func() { closed <- m.Close() }()
		synctest.Wait()
		require.Empty(t, closed, "it has not been closed yet")
		c.end()
		require.NoError(t, <-closed)
		require.Equal(t, 1, transport.Closes())
	})
}

// A connection that was detached is not closed, and Close does not wait for that.
func TestCloseDoesNotWaitForADetachedTransport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		books := fakenet.NewBooks(t)
		transport, _ := books.Pair()
		m, err := New(context.Background(), WithConnections(transport))
		require.NoError(t, err)
		d, err := m.Duplex(t.Context(), -1)
		require.NoError(t, err)
		nc, err := d.Detach()
		require.NoError(t, err)
		began := time.Now()
		require.NoError(t, m.Close())
		require.Zero(t, time.Since(began))
		require.NoError(t, nc.Close())
	})
}
