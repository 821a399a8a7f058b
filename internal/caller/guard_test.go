package caller

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestGuardReturnsWhatTheFunctionReturns(t *testing.T) {
	for name, guard := range map[string]func(string, func() error) error{"Guard": Guard, "Apart": Apart} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, guard("f", func() error { return nil }))
			require.Equal(t, io.EOF, guard("f", func() error { return io.EOF }))
		})
	}
}

func TestGuardTurnsAPanicIntoAnErrorWithItsStack(t *testing.T) {
	for name, guard := range map[string]func(string, func() error) error{"Guard": Guard, "Apart": Apart} {
		t.Run(name, func(t *testing.T) {
			err := guard("the transport's Read", func() error { return crashesHere("on purpose") })
			require.ErrorContains(t, err, "plex: the transport's Read panicked: on purpose\n")
			require.ErrorContains(t, err, "crashesHere", "the stack")

			err = guard("f", func() error { return crashesHere(io.ErrNoProgress) })
			require.ErrorIs(t, err, io.ErrNoProgress)
			require.ErrorContains(t, err, "crashesHere")

			err = guard("f", func() error { return crashesHere(nil) })
			var nilPanic *runtime.PanicNilError
			require.ErrorAs(t, err, &nilPanic)
		})
	}
}

//go:noinline
func crashesHere(v any) error { panic(v) }

func TestApartTurnsGoexitIntoAnError(t *testing.T) {
	err := Apart("the connector", func() error {
		runtime.Goexit()
		return nil
	})
	require.EqualError(t, err, "plex: the connector has ended its goroutine by runtime.Goexit")
}

func TestCrash(t *testing.T) {
	cause := errors.New("cause")
	require.ErrorIs(t, Crash("f", cause), cause)
	require.ErrorContains(t, Crash("f", 5), "plex: f panicked: 5\n")
	require.ErrorContains(t, Crash("f", nil), "Goexit")
}

func TestACrashCanBeToldFromAnError(t *testing.T) {
	errOrdinary := errors.New("ordinary")
	require.False(t, IsCrash(Guard("f", func() error { return errOrdinary })))
	require.False(t, IsCrash(nil))
	for _, f := range []func() error{
		func() error { panic(errOrdinary) },
		func() error { panic("text") },
		func() error { runtime.Goexit(); return nil },
	} {
		require.True(t, IsCrash(fmt.Errorf("wrapped: %w", Apart("f", f))))
	}
	require.ErrorIs(t, Guard("f", func() error { panic(errOrdinary) }), errOrdinary)
}
