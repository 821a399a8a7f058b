package request_test

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex"
)

// A session whose Write was cut short by a ctx has ended. A later Do must not say that its own ctx,
// which never ends, has.
func TestASessionThatACtxHasEndedSaysSo(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world, conns []*fakeConn) {
		c := w.ordered()
		s := opened(t, c)
		conns[0].allow(2)
		ctx, cancel := context.WithCancel(t.Context())
		first := asks(ctx, s, "cut short")
		synctest.Wait()
		cancel()
		requireError(t, first, true, context.Canceled)
		_, err := s.Do(context.Background(), "later")
		require.Error(t, err)
		require.NotErrorIs(t, err, context.Canceled)
		require.ErrorContains(t, err, "earlier request of this session")
		require.ErrorIs(t, err, plex.ErrKilled)
	})
}
