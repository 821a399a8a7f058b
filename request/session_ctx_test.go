package request_test

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// A session whose Write was cut short by a ctx has ended. A later Do must not say that its own ctx, which never ends, has.
func TestASessionThatACtxHasEndedSaysSo(t *testing.T) {
	t.Skip("it fails: Do returns the error of the earlier ctx as if it were its own, and so a caller takes it for a timeout")
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
		require.ErrorContains(t, err, "session")
	})
}
