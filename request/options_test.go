package request_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/request"
)

func TestNewRefusesWhatCannotWork(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	mux, err := plex.New(t.Context(), plex.WithConnections(ours))
	require.NoError(t, err)
	defer mux.Close()

	var nilProtocol *wireProtocol

	for _, test := range []struct {
		name     string
		mux      *plex.Multiplexer
		protocol request.Protocol[string, []byte]
		option   request.Option
		want     string
	}{
		{"no multiplexer", nil, wireProtocol{}, request.WithReceivers(1), "request: New: the multiplexer is nil; make one with plex.New"},
		{"no protocol", mux, nil, request.WithReceivers(1), "request: New: the protocol is nil; give one that is not"},
		{"a nil protocol", mux, nilProtocol, request.WithReceivers(1), "request: New: the protocol is nil; give one that is not"},
		{"a nil option", mux, wireProtocol{}, nil, "request: New: option 1 of 1 is nil; leave it out or give an option"},
		{"no requests in flight", mux, wireProtocol{}, request.WithInFlight(0), "request: WithInFlight: the bound is 0; it must be at least 1, or leave the option out for none"},
		{"no range", mux, wireProtocol{}, request.WithIDRange(2, 1), "request: WithIDRange: the range is from 2 to 1; the first must not be above the last"},
		{"no room on a connection", mux, wireProtocol{}, request.WithInFlightPerConn(0), "request: WithInFlightPerConn: the bound is 0; it must be at least 1, or leave the option out for none"},
		{"no stall timeout", mux, wireProtocol{}, request.WithStallTimeout(-1), "request: WithStallTimeout: the duration is -1ns; it must be above zero"},
		{"no stream buffer", mux, wireProtocol{}, request.WithStreamBuffer(0), "request: WithStreamBuffer: the size is 0 bytes; it must be at least 1"},
		{"no receivers", mux, wireProtocol{}, request.WithReceivers(0), "request: WithReceivers: the number is 0; it must be at least 1"},
		{"too many receivers", mux, wireProtocol{}, request.WithReceivers(1 << 20), "request: WithReceivers: the number is 1048576; it must be at most 65536, and a few are enough"},
		{"no size", mux, wireProtocol{}, request.WithMaxSize(0), "request: WithMaxSize: the size is 0 bytes; it must be at least 1"},
		{"no time", mux, wireProtocol{}, request.WithAcquireTimeout(0), "request: WithAcquireTimeout: the duration is 0s; it must be above zero"},
		{"a write buffer below nothing", mux, wireProtocol{}, request.WithWriteBuffer(-1), "request: WithWriteBuffer: the size is -1 bytes; it must be from 0, which gathers nothing, to 1073741824"},
		{"a write buffer that is too large", mux, wireProtocol{}, request.WithWriteBuffer(1<<30 + 1), "request: WithWriteBuffer: the size is 1073741825 bytes; it must be from 0, which gathers nothing, to 1073741824"},
		{"no time to write", mux, wireProtocol{}, request.WithWriteTimeout(0), "request: WithWriteTimeout: the duration is 0s; it must be above zero"},
		{"no hook", mux, wireProtocol{}, request.WithUnsolicited(nil), "request: WithUnsolicited: the function is nil; leave the option out to have such messages dropped"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := request.New(test.mux, test.protocol, test.option)
			require.EqualError(t, err, test.want)
			require.Nil(t, c)
		})
	}

	_, err = request.New[string, []byte](nil, nil, request.WithInFlight(-1), request.WithMaxSize(-1))
	require.EqualError(t, err, "request: New: the multiplexer is nil; make one with plex.New\n"+
		"request: New: the protocol is nil; give one that is not\n"+
		"request: WithInFlight: the bound is -1; it must be at least 1, or leave the option out for none\n"+
		"request: WithMaxSize: the size is -1 bytes; it must be at least 1", "all that is wrong at once")
}

func TestNewRefusesAMultiplexerThatIsClosed(t *testing.T) {
	mux, err := plex.New(t.Context())
	require.NoError(t, err)
	require.NoError(t, mux.Close())
	_, err = request.New(mux, wireProtocol{})
	require.ErrorIs(t, err, plex.ErrClosed)
	require.ErrorContains(t, err, "request: New: ")
}

func TestErrorsSayWhetherTheRequestMayHaveBeenSent(t *testing.T) {
	err := error(&request.Error{Err: request.ErrClosed})
	require.EqualError(t, err, "request: not sent: client closed")
	require.ErrorIs(t, err, net.ErrClosed)

	err = &request.Error{MaybeSent: true, Err: context.DeadlineExceeded}
	require.EqualError(t, err, "request: may have been sent, no reply: context deadline exceeded")

	var timeout net.Error
	require.ErrorAs(t, err, &timeout)
	require.True(t, timeout.Timeout())

	err = &request.PanicError{Call: "Parse", Value: io.EOF, Stack: []byte("stack")}
	require.EqualError(t, err, "request: Parse panicked: EOF\nstack")
	require.ErrorIs(t, err, io.EOF)
	require.NoError(t, errors.Unwrap(&request.PanicError{Value: "text"}))
}
