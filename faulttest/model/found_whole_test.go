package model

// What the machine has found in whole connections, connections by name, and retirement with pins, each as a test of its
// own.

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
)

// scene is a pool of a few connections, without a connector.
type scene struct {
	t *testing.T
	n network
	m *plex.Multiplexer
}

func played(t *testing.T, conns int, play func(t *testing.T, s *scene), options ...plex.Option) {
	synctest.Test(t, func(t *testing.T) {
		s := &scene{t: t}
		m, err := plex.New(t.Context(), append(options, plex.WithMaxCapacity(10))...)
		require.NoError(t, err)
		s.m = m
		s.add(conns)
		play(t, s)
		require.NoError(t, m.Close())
	})
}

func (s *scene) add(conns int) {
	for range conns {
		_, err := s.m.Add(s.t.Context(), s.n.dial())
		require.NoError(s.t, err)
	}
}

func (s *scene) reader() plex.Reader {
	r, err := s.m.Reader(s.t.Context(), -1)
	require.NoError(s.t, err)
	return r
}

func (s *scene) writer() plex.Writer {
	w, err := s.m.Writer(s.t.Context(), -1)
	require.NoError(s.t, err)
	return w
}

// later runs f, which waits, and returns what becomes of it.
func later(f func() error) <-chan error {
	result := make(chan error, 1)
	go func() { result <- f() }()
	synctest.Wait()
	return result
}

// whole waits for a whole connection, and gives it back.
func (s *scene) whole(ctx context.Context, timeout time.Duration) <-chan error {
	return later(func() error {
		d, err := s.m.Duplex(ctx, timeout)
		if err == nil {
			_ = d.Close()
		}
		return err
	})
}

// told waits for a result, for a while.
func told(t *testing.T, result <-chan error, what string) error {
	time.Sleep(time.Minute)
	select {
	case err := <-result:
		return err
	default:
		t.Fatal(what)
		return nil
	}
}

// Whoever waits for the read half beside his write half is told when the reader has come to the peer's end, and gets another
// connection.
func TestADuplexIsToldThatItsConnectionHasEnded(t *testing.T) {
	played(t, 1, func(t *testing.T, s *scene) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		r := s.reader()
		result := s.whole(ctx, 0)
		s.add(1)
		s.n.conns[0].end()
		_, err := r.Read(make([]byte, 1))
		require.Error(t, err)
		require.NoError(t, r.Close())
		require.NoError(t, told(t, result, "a caller waits for a connection that has ended"))
	})
}

// So he is when somebody expects something of the connection, whatever it ends by.
func TestADuplexThatWaitsForAPinIsToldOfTheEnd(t *testing.T) {
	for what, end := range map[string]func(s *scene, name plex.Conn){
		"killed": func(_ *scene, name plex.Conn) { name.Kill() },
		"closed": func(s *scene, _ plex.Conn) { _ = s.m.Close() },
	} {
		t.Run(what, func(t *testing.T) {
			played(t, 1, func(t *testing.T, s *scene) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				w := s.writer()
				name := w.Conn()
				defer name.Pin()()
				require.NoError(t, w.Close())
				result := s.whole(ctx, 0)
				end(s, name)
				require.Error(t, told(t, result, "a caller waits for a connection that has ended"))
			})
		})
	}
}

// Whoever waits for the writer of a connection is told when that is retired between two leases.
func TestWhoWaitsForAWriterByNameIsToldThatItIsRetired(t *testing.T) {
	for what, reads := range map[string]bool{"idle": false, "while it is read": true} {
		t.Run(what, func(t *testing.T) {
			played(t, 1, func(t *testing.T, s *scene) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if reads {
					r := s.reader()
					defer func() { _ = r.Close() }()
				}
				w := s.writer()
				name := w.Conn()
				name.Retire()
				result := later(func() error {
					_, err := name.Writer(ctx, 0)
					return err
				})
				require.NoError(t, w.Close())
				require.ErrorIs(t, told(t, result, "a caller waits for a writer that is retired"), plex.ErrRetired)
			})
		})
	}
}

// A connection that leaves while it is pinned takes no new writers. One that has a lease goes on, though the pins go, and
// though the grace is over.
func TestAWriteLeaseIsNotCutShortWhenPinsGo(t *testing.T) {
	for what, unpins := range map[string]bool{"unpinned": true, "grace over": false} {
		t.Run(what, func(t *testing.T) {
			played(t, 1, func(t *testing.T, s *scene) {
				w := s.writer()
				unpin := w.Conn().Pin()
				defer unpin()
				w.Conn().Retire()
				time.Sleep(time.Second)
				if unpins {
					unpin()
				}
				time.Sleep(time.Minute)
				_, err := w.Write(s.next(1))
				require.NoError(t, err)
				require.NoError(t, w.Close())
			}, plex.WithRetireGrace(10*time.Second))
		})
	}
}

// next is what the first connection may be written first.
func (s *scene) next(n int) []byte { return (&conn{memConn: s.n.conns[0]}).next(0, n) }

// A caller who has waited for a write half waits for the read half beside it only for what is left of his timeout.
func TestTheTimeoutOfADuplexIsForBothHalves(t *testing.T) {
	played(t, 1, func(t *testing.T, s *scene) {
		r, w := s.reader(), s.writer()
		began := time.Now()
		result := s.whole(t.Context(), time.Second)
		time.Sleep(900 * time.Millisecond)
		require.NoError(t, w.Close())
		require.ErrorIs(t, <-result, plex.ErrTimeout)
		require.Equal(t, time.Second, time.Since(began))
		require.NoError(t, r.Close())
	})
}

// A pin keeps a connection that is to be retired for the grace at most, also if it came when the connection was leaving.
func TestAPinOfAConnectionThatIsLeavingKeepsItForTheGraceAtMost(t *testing.T) {
	played(t, 1, func(t *testing.T, s *scene) {
		r, w := s.reader(), s.writer()
		r.Conn().Retire()
		require.NoError(t, w.Close()) // which retires the writer
		synctest.Wait()
		defer r.Conn().Pin()()
		require.NoError(t, r.Close())
		time.Sleep(time.Minute)
		require.Equal(t, 1, s.n.conns[0].peek().closes, "a pin keeps a connection for ever")
	}, plex.WithRetireGrace(10*time.Second))
}

// A read half that a reader is about to get, who has waited for it, is not taken by a caller of Duplex. The reader would
// find himself behind all others.
func TestADuplexDoesNotTakeWhatAReaderIsAboutToGet(t *testing.T) {
	for range 1000 {
		played(t, 0, func(t *testing.T, s *scene) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			order := make(chan int, 2)
			for i := range 2 {
				later(func() error {
					_, err := s.m.Reader(ctx, 0)
					if err == nil {
						order <- i
					}
					return err
				})
			}
			later(func() error {
				_, err := s.m.Duplex(ctx, 0)
				return err
			})
			for len(order) == 0 {
				s.add(1) // its read half for a reader, its write half for the caller of Duplex
				synctest.Wait()
			}
			require.Equal(t, 0, <-order, "a reader was served before another who had come first")
		})
	}
}

// A connection whose last write was cut short goes back to nobody, not even its read half.
func TestTheReadHalfOfATornDuplexGoesToNobody(t *testing.T) {
	for range 1000 {
		played(t, 1, aReaderAndATornDuplex)
	}
}

func aReaderAndATornDuplex(t *testing.T, s *scene) {
	d, err := s.m.Duplex(t.Context(), -1)
	require.NoError(t, err)
	result := later(func() error {
		_, err := s.m.Reader(context.Background(), 0)
		return err
	})
	s.n.conns[0].allow(1)
	require.NoError(t, d.SetWriteDeadline(time.Now().Add(time.Second)))
	_, err = d.Write(s.next(5))
	require.Error(t, err)
	require.NoError(t, d.Close())
	require.ErrorIs(t, told(t, result, "a caller waits for nothing"), plex.ErrNoConnections)
}

// Detach ends the lease also when it fails, and the pool is told of the connection's end.
func TestTheLeaseEndsAlsoWhenDetachFails(t *testing.T) {
	played(t, 1, func(t *testing.T, s *scene) {
		d, err := s.m.Duplex(t.Context(), -1)
		require.NoError(t, err)
		s.n.conns[0].end()
		_, err = d.Read(make([]byte, 1))
		require.Error(t, err)
		_, err = d.Detach()
		require.ErrorIs(t, err, io.EOF)
		require.ErrorIs(t, d.Close(), plex.ErrLeaseClosed)
		require.Zero(t, s.m.Stats().LeasedReaders+s.m.Stats().LeasedWriters)
	})
}

// With ready readers plex itself reads from an idle connection of which no poller tells what arrives. It is idle all the
// same.
func TestADuplexThatWouldNotWaitGetsAConnectionThatPlexReads(t *testing.T) {
	played(t, 1, func(t *testing.T, s *scene) {
		_, err := s.m.ReadyReader(t.Context(), -1)
		require.ErrorIs(t, err, plex.ErrTimeout)
		synctest.Wait()
		d, err := s.m.Duplex(t.Context(), -1)
		require.NoError(t, err)
		require.NoError(t, d.Close())
	})
}

// A probe that gets no answer ends in time, and so does its connection. That is not the context of whoever asks for the
// connection later.
func TestWhatAProbeHasDiedOfIsNotTheCallersContext(t *testing.T) {
	played(t, 1, func(t *testing.T, s *scene) {
		w := s.writer()
		name := w.Conn()
		require.NoError(t, w.Close())
		time.Sleep(time.Minute)
		_, err := name.Writer(t.Context(), 0)
		require.ErrorIs(t, err, plex.ErrProbe)
		require.Zero(t, s.m.Stats().Canceled)
	}, plex.WithProbe(time.Second, time.Second, func(ctx context.Context, _ net.Conn) error {
		<-ctx.Done()
		return ctx.Err()
	}))
}
