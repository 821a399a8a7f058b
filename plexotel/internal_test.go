package plexotel

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/request"
)

func TestErrorType(t *testing.T) {
	for want, err := range map[string]error{
		"canceled":          context.Canceled,
		"closed":            &plex.AcquireError{Err: plex.ErrClosed},
		"no_connection":     &plex.AcquireError{Err: context.DeadlineExceeded},
		"no_turn":           &request.WaitError{Err: context.DeadlineExceeded},
		"deadline_exceeded": context.DeadlineExceeded,
		"slow":              request.ErrSlow,
		"parts":             request.ErrParts,
		"_OTHER":            errors.New("cannot be encoded"),
	} {
		require.Equal(t, want, errorType(&request.Error{Err: err}), err)
	}
	require.Equal(t, "closed", errorType(&request.Error{Err: request.ErrClosed}))
	require.Equal(t, "canceled", errorType(&request.Error{Err: &plex.AcquireError{Err: context.Canceled}}))
}

func TestPeer(t *testing.T) {
	const address, port, transport = attribute.Key("network.peer.address"), attribute.Key("network.peer.port"), attribute.Key("network.transport")
	require.Nil(t, peer(nil))
	require.Equal(t, of(address.String("fe80::1%eth0"), port.Int(53), transport.String("udp")),
		peer(&net.UDPAddr{IP: net.ParseIP("fe80::1"), Port: 53, Zone: "eth0"}))
	require.Equal(t, of(address.String("192.0.2.1"), port.Int(53), transport.String("tcp")),
		peer(&net.TCPAddr{IP: net.ParseIP("192.0.2.1"), Port: 53}))
	require.Equal(t, of(address.String("/run/x"), transport.String("unix")), peer(&net.UnixAddr{Name: "/run/x", Net: "unix"}))
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	require.Equal(t, of(address.String("pipe")), peer(near.RemoteAddr()))
}
