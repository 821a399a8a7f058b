package plex_test

import (
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex"
)

// diary is an observer that keeps what it is told.
type diary struct {
	mu     sync.Mutex
	events []plex.Event
}

func (d *diary) option() plex.Option { return plex.WithObserver(d.note) }

func (d *diary) note(e plex.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.events = append(d.events, e)
}

// taken returns the events since it was last called.
func (d *diary) taken() []plex.Event {
	synctest.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	events := d.events
	d.events = nil
	return events
}

// brief is what an event says, without the connection and the time.
func brief(events []plex.Event) (all []string) {
	for _, e := range events {
		s := string(e.Kind)
		if e.Why != "" {
			s += ": " + e.Why
		}
		if e.Attempts > 0 {
			s += fmt.Sprintf(", attempt %d", e.Attempts)
		}
		if e.Kind == plex.EventScaled {
			s += fmt.Sprintf(", %d to %d", e.From, e.To)
		}
		if e.Err != nil {
			s += ", " + e.Err.Error()
		}
		all = append(all, s)
	}
	return all
}

func TestTheObserverIsToldOfALife(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		var d diary
		s := newService(l)
		given, _ := l.Pair()
		m := l.mux(d.option(), plex.WithName("store"), plex.WithConnections(given), plex.WithConnector(s.connect),
			plex.WithMinConnections(2), plex.WithMaxCapacity(3), plex.WithAutoScaling(10*time.Millisecond), plex.WithIdleTimeout(time.Minute),
			plex.WithBackoff(func(int) time.Duration { return time.Second }))
		events := d.taken()
		require.Equal(t, []string{"connected: minimum, attempt 1", "connected: given"}, brief(events))
		require.Equal(t, given.RemoteAddr(), events[1].Addr)
		require.Equal(t, "store", events[0].Pool)
		require.Equal(t, time.Now(), events[0].Time)

		// It grows, and shrinks again.
		a, b := writerOf(t, m), writerOf(t, m)
		w := <-wantWriter(t.Context(), m, 0)
		require.NoError(t, w.err)
		require.Equal(t, []string{"connected: callers wait, attempt 1", "scaled: callers wait, 2 to 3"}, brief(d.taken()))
		requireClosed(t, a)
		requireClosed(t, b)
		requireClosed(t, w.w)
		time.Sleep(3 * time.Minute)
		require.Equal(t, []string{"retired: not needed", "scaled: not needed, 3 to 2"}, brief(d.taken()))

		// One is lost while the service is down.
		s.goDown()
		killAll(t, m, 1)
		time.Sleep(500 * time.Millisecond)
		events = d.taken()
		require.Equal(t, []string{
			"lost: killed, " + plex.ErrKilled.Error(),
			"connect failed: killed, attempt 1, " + errRefused.Error(),
			"backoff began, attempt 1, " + errRefused.Error(),
		}, brief(events))
		require.ErrorIs(t, events[1].Err, errRefused)
		require.Equal(t, time.Second, events[2].Took)
		require.NotZero(t, events[0].Conn)

		s.comeUp()
		time.Sleep(time.Minute)
		require.Equal(t, []string{"backoff ended", "connected: killed, attempt 2", "healed, attempt 2"}, brief(d.taken()))

		// One is asked to go.
		for c := range m.Conns() {
			c.Retire()
			break
		}
		synctest.Wait()
		time.Sleep(time.Second)
		require.Equal(t, []string{"connected: asked for, attempt 1", "retired: asked for"}, brief(d.taken()))
	})
}

func TestTheObserverIsToldOfLeaks(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		var d diary
		m, _, _ := l.single(d.option(), plex.WithLeakDetection(time.Second))
		w := writerOf(t, m)
		d.taken()
		time.Sleep(time.Minute)
		events := d.taken()
		require.Len(t, events, 1, "once")
		require.Equal(t, plex.EventLeak, events[0].Kind)
		require.Equal(t, "writer", events[0].Half)
		require.Equal(t, w.Conn(), events[0].Conn)
		require.Contains(t, events[0].Stack, "TestTheObserverIsToldOfLeaks")
		require.GreaterOrEqual(t, events[0].Took, time.Second)
		requireClosed(t, w)
	})
}

// The observer is the user's code: it may be slow, call the pool, panic, and end its goroutine.
func TestAnObserverHarmsNobody(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		s := newService(l)
		var m *plex.Multiplexer
		var told []plex.EventKind
		var mu sync.Mutex
		ready := make(chan struct{})
		m = l.mux(plex.WithConnector(s.connect), plex.WithMinConnections(1), plex.WithObserver(func(e plex.Event) {
			<-ready
			mu.Lock()
			told = append(told, e.Kind)
			n := len(told)
			mu.Unlock()
			_ = m.Stats()
			if w, err := m.Writer(t.Context(), -1); err == nil {
				assert.NoError(t, w.Close())
			}
			if n == 2 {
				panic("at the disco")
			}
			time.Sleep(time.Hour)
		}))
		close(ready)
		killAll(t, m, 1)
		requireClosed(t, got(t, wantWriter(t.Context(), m, 0)).w) // nobody waits for the observer
		time.Sleep(24 * time.Hour)
		mu.Lock()
		defer mu.Unlock()
		require.Equal(t, []plex.EventKind{plex.EventConnected, plex.EventLost, plex.EventConnected, plex.EventHealed}, told)
	})
}

func TestAnObserverThatIsTooSlowIsToldHowMuchItMissed(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		const most, more = 1 << 16, 100
		var d diary
		gate := make(chan struct{})
		m := l.mux(plex.WithMaxCapacity(1), plex.WithObserver(func(e plex.Event) { <-gate; d.note(e) }))
		for i := range (most + more) / 2 {
			c, _ := l.Pair()
			_, err := m.Add(t.Context(), c)
			require.NoError(t, err)
			if i == 0 {
				synctest.Wait() // the first is with the observer
			}
			killAll(t, m, 1)
			synctest.Wait()
		}
		close(gate)
		events := d.taken()
		missed := 0
		for _, e := range events {
			missed += int(e.Missed)
		}
		require.Equal(t, most+more, len(events)+missed)
		require.NotZero(t, missed)
	})
}

func TestObserversComeAndGo(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		var first, late, never diary
		s := newService(l)
		m := s.pool(1, first.option(), plex.WithName("store"))
		require.Equal(t, "store", m.Name())
		require.Len(t, first.taken(), 1)
		stop := m.Observe(late.note)
		stopNever := m.Observe(never.note)
		stopNever()
		m.Observe(nil)()

		killAll(t, m, 1)
		time.Sleep(time.Minute)
		events := first.taken()
		require.Len(t, events, 3)
		require.Equal(t, events, late.taken(), "what has been before, one has to have heard")
		require.Equal(t, "store", events[0].Pool)

		stop()
		stop()
		killAll(t, m, 1)
		time.Sleep(time.Minute)
		require.Len(t, first.taken(), 3, "stop concerns one observer")
		require.Empty(t, late.taken())
		require.Empty(t, never.taken())
	})
}

// One observer blocks. The other hears of everything, and what the first is still to be told when it
// is stopped is dropped.
func TestASlowObserverHoldsUpNoOther(t *testing.T) {
	bubble(t, func(t *testing.T, l *ledger) {
		var quick diary
		s := newService(l)
		m := s.pool(1)
		gate, told := make(chan struct{}), make(chan struct{}, 10)
		stop := m.Observe(func(plex.Event) { told <- struct{}{}; <-gate })
		m.Observe(quick.note)
		killAll(t, m, 1)
		time.Sleep(time.Minute)
		require.Equal(t, []string{"lost: killed, " + plex.ErrKilled.Error(), "connected: killed, attempt 1", "healed, attempt 1"}, brief(quick.taken()))
		require.Len(t, told, 1)
		stop()
		close(gate)
		synctest.Wait()
		require.Len(t, told, 1)
	})
}

// slowToSet is a transport in which a read deadline takes its time.
type slowToSet struct {
	net.Conn
	begins, leave chan struct{}
}

func (c *slowToSet) SetReadDeadline(t time.Time) error {
	if !t.IsZero() {
		close(c.begins)
		<-c.leave
	}
	return c.Conn.SetReadDeadline(t)
}

// A replacement can come before all is done that a loss takes, but it is not told before the loss.
func TestALossIsToldBeforeWhatHealsIt(t *testing.T) {
	var d diary
	l := newLedger(t)
	s := newService(l)
	nc, _ := l.Pair()
	slow := &slowToSet{nc, make(chan struct{}), make(chan struct{})}
	m := l.mux(d.option(), plex.WithConnections(slow), plex.WithConnector(s.connect), plex.WithMaxCapacity(2))
	r, w := readerOf(t, m), writerOf(t, m)
	set := later(func() error { return r.SetReadDeadline(time.Now().Add(time.Hour)) })
	<-slow.begins
	killed := later(w.Kill)
	told := func() []string {
		d.mu.Lock()
		defer d.mu.Unlock()
		return brief(d.events)
	}
	eventually(t, func() bool { return slices.Contains(told(), "healed, attempt 1") }, "it is healed")
	require.Equal(t, []string{
		"connected: given", "lost: killed, " + plex.ErrKilled.Error(), "connected: killed, attempt 1", "healed, attempt 1",
	}, told())
	close(slow.leave)
	<-set
	require.NoError(t, <-killed)
	_ = r.Close()
}
