package plex_test

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
)

// The kernel tells of a refused datagram once. If plex looks at the connection in that moment, whoever
// reads next is told, and the connection lives on.
func TestARefusalThatPlexHasReadGoesToTheNextReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := fakenet.NewDatagrams()
		m, err := plex.New(t.Context(), plex.WithConnections(c))
		require.NoError(t, err)
		defer m.Close()
		_, err = m.ReadyReader(t.Context(), -1)
		require.Error(t, err, "nothing has arrived")

		c.FailRead(syscall.ECONNREFUSED)
		for range 2 {
			r, err := m.ReadyReader(t.Context(), time.Second)
			require.NoError(t, err, "there is something to deliver")
			p := make([]byte, 10)
			_, err = r.Read(p)
			require.ErrorIs(t, err, syscall.ECONNREFUSED)
			require.NoError(t, r.Close())

			_, err = m.ReadyReader(t.Context(), time.Second)
			require.ErrorIs(t, err, plex.ErrTimeout, "the refusal is told once")

			c.Deliver("reply")
			r, err = m.ReadyReader(t.Context(), time.Second)
			require.NoError(t, err)
			n, err := r.Read(p)
			require.NoError(t, err)
			assert.Equal(t, "reply", string(p[:n]))
			require.NoError(t, r.Close())
			c.FailRead(syscall.ECONNREFUSED)
		}
		assert.Equal(t, 1, m.Stats().Open)
	})
}

// tooLittle is a transport with a socket beneath it whose next Read takes something, and takes its time, but has
// nothing to deliver yet.
type tooLittle struct {
	*net.TCPConn
	begins, leave chan struct{}

	reading sync.Mutex // held in each Read
	waits   bool
}

func (c *tooLittle) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if !c.waits {
		return c.TCPConn.Read(p)
	}
	c.waits = false
	_ = c.SetReadDeadline(time.Time{}) // a look has a millisecond, which is over soon on a busy machine
	_, _ = c.TCPConn.Read(p)
	close(c.begins)
	<-c.leave
	return 0, os.ErrDeadlineExceeded
}

// A connection that is to be retired, and that nothing keeps any more, is not forgotten because plex looks at it in
// that moment.
func TestAConnectionThatIsLookedAtWhenItsLastPinGoesIsRetired(t *testing.T) {
	l, s := newLedger(t), newHost(t, "tcp")
	first := &tooLittle{begins: make(chan struct{}), leave: make(chan struct{})}
	s.wrap = func(nc net.Conn) net.Conn {
		if first.TCPConn == nil {
			first.TCPConn = nc.(*net.TCPConn)
			return first
		}
		return nc
	}
	m := l.mux(plex.WithConnector(s.connect()), plex.WithMinConnections(1), plex.WithMaxCapacity(2), plex.WithRetireGrace(time.Hour))
	p := s.next()
	attend(t, m)
	w := writerOf(t, m)
	unpin := w.Conn().Pin()
	w.Conn().Retire()
	requireClosed(t, w)
	s.next() // which replaces it
	eventually(t, func() bool { return w.Conn().Info().Writer.State == plex.HalfRetired }, "the write half is retired")
	first.reading.Lock() // no look has begun before
	first.waits = true
	first.reading.Unlock()
	_, err := p.Write([]byte("x"))
	require.NoError(t, err)
	<-first.begins
	unpin()
	time.Sleep(20 * time.Millisecond) // nothing shows that the retirement has been tried
	close(first.leave)
	_ = p.SetReadDeadline(time.Now().Add(patience))
	_, err = p.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF, "the connection has ended in good order")
}
