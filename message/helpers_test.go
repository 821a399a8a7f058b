package message_test

// Helpers: scripted connections, the balance at the end of a test, and loops in the background. All
// of it works inside and outside a testing/synctest bubble.

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
	"go.atomizer.io/plex/message"
)

// -------------------------------------------------------------------------------------------------
// The balance

// world is what a test uses: connections that must be balanced when the test ends, and their peers.
type world struct {
	testing.TB
	*fakenet.Books

	peers []*fakenet.Peer // of the connections that bubble has made
}

func newWorld(t testing.TB) *world { return &world{TB: t, Books: fakenet.NewBooks(t)} }

// bubble runs f in a synctest bubble, with n scripted connections and a multiplexer that has them.
func bubble(t *testing.T, n int, f func(w *world, m *plex.Multiplexer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		conns, peers := w.Pairs(n)
		w.peers = peers
		f(w, w.mux(plex.WithConnections(conns...)))
	})
}

// mux makes a multiplexer. It checks when the test ends that nobody has a lease or waits for one,
// and closes it.
func (w *world) mux(options ...plex.Option) *plex.Multiplexer {
	w.Helper()
	m, err := plex.New(context.Background(), options...)
	require.NoError(w, err)
	w.Cleanup(func() {
		s := m.Stats()
		if n := s.LeasedReaders + s.LeasedWriters + s.Waiting + s.WaitingReady; n != 0 {
			w.Errorf("balance: leases or waiters at the end: %+v", s)
		}
		if err := m.Close(); err != nil {
			w.Errorf("balance: %v", err)
		}
	})
	return m
}

// closed reports whether the peer's connection has been closed.
func closed(p *fakenet.Peer) bool { return p.Conn().Closes() > 0 }

// receiver makes a receiver, or fails the test.
func receiver(t testing.TB, m *plex.Multiplexer, split bufio.SplitFunc, options ...message.Option) *message.Receiver {
	t.Helper()
	r, err := message.New(m, split, options...)
	require.NoError(t, err)
	return r
}

// -------------------------------------------------------------------------------------------------
// Loops

// loop is a loop over the messages in the background, which records what it gets.
type loop struct {
	t      testing.TB
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	got    []string // messages, and errors as "cut(...)", "long", "split"
	conns  []plex.Conn
	errors []error // about single connections
	end    error   // the error of the last pair
}

// start starts a loop that runs until stop, or until the receiver ends it. body, if not nil, is
// called for each message.
func start(t testing.TB, r *message.Receiver, body func(m message.Message)) *loop {
	ctx, cancel := context.WithCancel(context.Background())
	l := &loop{t: t, cancel: cancel, done: make(chan struct{})}
	t.Cleanup(l.stop)
	go func() {
		defer close(l.done)
		for m, err := range r.All(ctx) {
			l.note(m, err)
			if err == nil && body != nil {
				body(m)
			}
		}
	}()
	return l
}

func (l *loop) note(m message.Message, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m.Conn == (plex.Conn{}) {
		l.end = err
		return
	}
	l.conns = append(l.conns, m.Conn)
	if err != nil {
		l.errors = append(l.errors, err)
	}
	l.got = append(l.got, word(m, err))
}

// word returns a message, or an error about a connection, as one word.
func word(m message.Message, err error) string {
	var (
		cut   *message.CutError
		long  *message.TooLongError
		split *message.SplitError
		about *message.DatagramError
	)
	switch {
	case err == nil:
		return string(m.Data)
	case errors.As(err, &cut):
		return fmt.Sprintf("cut(%s)", cut.Data)
	case errors.As(err, &long):
		return "long"
	case errors.As(err, &split):
		return "split"
	case errors.As(err, &about):
		return "refused"
	default:
		return "end"
	}
}

// stop ends the loop's ctx and waits until it is over.
func (l *loop) stop() {
	l.cancel()
	<-l.done
}

// words returns what has arrived so far.
func (l *loop) words() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string{}, l.got...)
}

// names returns the connections of what has arrived so far.
func (l *loop) names() []plex.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.conns)
}

// err returns the only error about a connection so far.
func (l *loop) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	require.Len(l.t, l.errors, 1)
	return l.errors[0]
}

// settle lets everything happen that can. It lets time pass too, for connections that plex only
// looks at now and then.
func settle() {
	time.Sleep(100 * time.Millisecond)
	synctest.Wait()
}

// take ranges until it has n words, and then leaves the loop. It fails the test after a minute.
func take(t testing.TB, r *message.Receiver, n int) (words []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for m, err := range r.All(ctx) {
		if words = append(words, word(m, err)); len(words) == n {
			break
		}
	}
	require.Len(t, words, n)
	return words
}
