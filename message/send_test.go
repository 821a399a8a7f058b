package message_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
	"go.atomizer.io/plex/message"
)

// requireSendError checks an error of Send.
func requireSendError(t testing.TB, err error, maybeSent bool, is ...error) {
	t.Helper()
	var failed *message.SendError
	require.ErrorAs(t, err, &failed)
	require.Equal(t, maybeSent, failed.MaybeSent, "MaybeSent: %v", err)
	for _, target := range is {
		require.ErrorIs(t, err, target)
	}
	if maybeSent {
		require.ErrorContains(t, err, "at least in part")
	} else {
		require.ErrorContains(t, err, "not sent")
	}
}

func TestSendWritesAMessageWithOneWrite(t *testing.T) {
	bubble(t, 1, func(w *world, m *plex.Multiplexer) {
		c := w.peers[0]
		require.NoError(w, message.Send(w.Context(), m, 0, []byte("one\n")))
		require.NoError(w, message.Send(context.Background(), m, time.Second, []byte("two\n")))
		require.Equal(w, "one\ntwo\n", c.Unread())
		require.Equal(w, 2, c.Conn().Calls().Writes)
		require.Zero(w, m.Stats().LeasedWriters)
	})
}

func TestSendFromManyGoroutinesMixesNothing(t *testing.T) {
	bubble(t, 2, func(w *world, m *plex.Multiplexer) {
		const senders, each = 40, 25
		for _, c := range w.peers {
			c.Allow(7) // so that Writes block in the middle of a message
			go func() {
				for range 2000 {
					time.Sleep(time.Millisecond)
					c.Allow(11)
				}
			}()
		}
		var wg sync.WaitGroup
		for i := range senders {
			wg.Go(func() {
				for j := range each {
					p := fmt.Sprintf("%d.%d%s\n", i, j, strings.Repeat("-", (i+j)%17))
					require.NoError(w, message.Send(w.Context(), m, 0, []byte(p)))
				}
			})
		}
		wg.Wait()
		next := [senders]int{}
		lines := strings.SplitAfter(w.peers[0].Unread()+w.peers[1].Unread(), "\n")
		require.Len(w, lines, senders*each+1, "whole lines, and nothing behind the last")
		for _, line := range lines[:senders*each] {
			var i, j int
			_, err := fmt.Sscanf(line, "%d.%d", &i, &j)
			require.NoError(w, err)
			require.Equal(w, fmt.Sprintf("%d.%d%s\n", i, j, strings.Repeat("-", (i+j)%17)), line)
			next[i]++
		}
		for i, n := range next {
			require.Equal(w, each, n, "of sender %d", i)
		}
		time.Sleep(time.Minute) // until the peers have taken everything
	})
}

func TestSendSaysWhyThereIsNoWriter(t *testing.T) {
	bubble(t, 1, func(w *world, m *plex.Multiplexer) {
		var failed *plex.AcquireError
		ended, cancel := context.WithCancel(w.Context())
		cancel()
		err := message.Send(ended, m, 0, []byte("x"))
		requireSendError(w, err, false, context.Canceled)
		require.ErrorAs(w, err, &failed)

		wr, err := m.Writer(w.Context(), -1)
		require.NoError(w, err)
		requireSendError(w, message.Send(w.Context(), m, -1, []byte("x")), false, plex.ErrTimeout)
		began := time.Now()
		requireSendError(w, message.Send(w.Context(), m, time.Second, []byte("x")), false, plex.ErrTimeout)
		require.Equal(w, time.Second, time.Since(began))
		require.NoError(w, wr.Close())

		var none context.Context
		err = message.Send(none, m, 0, []byte("x"))
		requireSendError(w, err, false)
		require.ErrorContains(w, err, "nil context")
		err = message.Send(w.Context(), nil, 0, []byte("x"))
		requireSendError(w, err, false)
		require.ErrorContains(w, err, "plex.New")
		require.Empty(w, w.peers[0].Unread())

		require.NoError(w, m.Close())
		requireSendError(w, message.Send(w.Context(), m, 0, []byte("x")), false, plex.ErrClosed)
	})
}

// The peer has stopped reading, so the caller waits until ctx ends. If nothing but a close
// interrupts the Write, the connection is lost; otherwise that depends on how much the peer has
// taken.
func TestABlockedSendEndsWithItsContext(t *testing.T) {
	reason := errors.New("too late")
	for _, c := range []struct {
		name      string
		taken     int
		deadlines fakenet.Deadlines
		later     time.Duration // than ctx
		lost      bool
	}{
		{"nothing taken", 0, fakenet.DeadlinesKept, 0, false},
		{"part taken", 3, fakenet.DeadlinesKept, 0, true},
		{"nothing taken, deadlines refused", 0, fakenet.DeadlinesRefused, 100 * time.Millisecond, true},
		{"part taken, deadlines refused", 3, fakenet.DeadlinesRefused, 100 * time.Millisecond, true},
		{"nothing taken, deadlines ignored", 0, fakenet.DeadlinesIgnored, time.Second, true},
		{"part taken, deadlines ignored", 3, fakenet.DeadlinesIgnored, time.Second, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				conn, p := w.Pair()
				conn.TreatDeadlines(c.deadlines)
				m := w.mux(plex.WithConnections(conn))
				p.Allow(c.taken)
				began := time.Now()
				ctx, cancel := context.WithTimeoutCause(w.Context(), time.Minute, reason)
				defer cancel()
				err := message.Send(ctx, m, 0, []byte("message"))
				requireSendError(w, err, c.taken > 0, context.DeadlineExceeded, reason)
				require.Equal(w, time.Minute+c.later, time.Since(began))
				synctest.Wait()
				require.Equal(w, c.lost, closed(p))
				require.Equal(w, c.lost, m.Stats().Lost == 1)
				if !c.lost {
					p.Allow(-1)
					require.NoError(w, message.Send(w.Context(), m, 0, []byte("again")))
					require.Equal(w, "again", p.Unread())
				}
			})
		})
	}
}

// A ctx that ends when everything is written must not affect the next message.
func TestSendLeavesNoDeadline(t *testing.T) {
	bubble(t, 1, func(w *world, m *plex.Multiplexer) {
		for range 200 {
			ctx, cancel := context.WithCancel(w.Context())
			go cancel()
			err := message.Send(ctx, m, 0, []byte("x"))
			synctest.Wait()
			if err != nil {
				requireSendError(w, err, false, context.Canceled)
			}
			require.NoError(w, message.Send(w.Context(), m, 0, []byte("y")))
		}
		require.Zero(w, m.Stats().Lost)
	})
}

func TestSendReportsAConnectionThatHasFailed(t *testing.T) {
	bubble(t, 1, func(w *world, m *plex.Multiplexer) {
		w.peers[0].Break(syscall.ECONNRESET, true)
		requireSendError(w, message.Send(w.Context(), m, 0, []byte("x")), false, syscall.ECONNRESET)
		synctest.Wait()
		require.EqualValues(w, 1, m.Stats().Lost)
	})
}
