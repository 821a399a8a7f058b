package plex

// Plex reading for itself.

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex/internal/fakenet"
)

// A half that is on its way to a waiter is not taken from it, or the waiter would find itself behind all others.
func TestWhatIsOnItsWayToAWaiterIsNotLookedAt(t *testing.T) {
	nc := faulty(fakenet.Returns(0, os.ErrDeadlineExceeded))
	m := muxOf(t, nc)
	require.NoError(t, m.decideReading(readsAny))
	c := m.roster.all()[0]
	m.readers.waiting.Add(1)
	c.glance()
	require.Zero(t, nc.Calls().Reads)
	m.readers.waiting.Add(-1)
	c.glance()
	require.Equal(t, 1, nc.Calls().Reads)
}

// Whatever plex reads for, the half must come back, or nobody could ever end it.
func TestTransportThatEndsPlexsOwnGoroutineLosesItsConnection(t *testing.T) {
	for name, look := range map[string]func(c *conn){
		"a glance":     func(c *conn) { c.glance() },
		"the remains":  func(c *conn) { c.inspect() },
		"a retirement": func(c *conn) { c.leave(whySurplus); c.w.retire(); c.endRetirement() },
	} {
		t.Run(name, func(t *testing.T) {
			m := muxOf(t, faulty(fakenet.Goexits()))
			c := m.roster.all()[0]
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				look(c)
				t.Error("it has returned")
			}()
			<-ended
			require.ErrorContains(t, c.failure(), "Goexit")
			require.True(t, c.r.word().over(), "%v", c.r.word())
			require.True(t, c.w.word().over(), "%v", c.w.word())
		})
	}
}
