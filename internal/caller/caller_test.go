package caller_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex/internal/caller"
)

func TestContextErrorTellsTheCauseWhereItSaysMore(t *testing.T) {
	why := errors.New("why")
	ended := func(cause error) context.Context {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		return ctx
	}
	err := caller.ContextError(ended(why))
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, why)
	require.EqualError(t, err, "context canceled: why")
	require.Equal(t, context.Canceled, caller.ContextError(ended(nil)), "the same twice says no more")

	late, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer cancel()
	require.Equal(t, context.DeadlineExceeded, caller.ContextError(late))
	require.NoError(t, caller.ContextError(t.Context()))
}

func TestIsNil(t *testing.T) {
	var conn net.Conn
	for _, v := range []any{
		nil, conn, (*net.TCPConn)(nil), net.Conn((*net.TCPConn)(nil)), map[int]int(nil), []byte(nil), (func())(nil), (chan int)(nil),
	} {
		require.True(t, caller.IsNil(v), "%T", v)
	}
	for _, v := range []any{0, "", struct{}{}, new(net.TCPConn), []byte{}, func() {}} {
		require.False(t, caller.IsNil(v), "%T", v)
	}
}
