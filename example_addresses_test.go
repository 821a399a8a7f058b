package plex_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
)

// Two servers share the connections evenly. Where the service has a name, the resolver is [DNS] or
// [SRV].
func ExampleWithResolver() {
	one, stopOne := exampleService(exampleEcho)
	defer stopOne()
	other, stopOther := exampleService(exampleEcho)
	defer stopOther()

	mux, err := plex.New(context.Background(),
		plex.WithResolver(plex.Addresses("tcp", one, other), 0),
		plex.WithConnector(plex.DialResolved(&net.Dialer{})),
		plex.WithMinConnections(2),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mux.Close()

	for _, a := range mux.Addresses() {
		fmt.Println(a.Open, a.Failures, a.Drained)
	}

	// Output:
	// 1 0 false
	// 1 0 false
}

// A connector that logs in asks Target where to.
func ExampleTarget() {
	address, stop := exampleService(func(conn net.Conn) {
		login := make([]byte, len("LOGIN orders\n"))
		_, err := io.ReadFull(conn, login)
		fmt.Printf("%q %v\n", login, err)
		_, _ = io.WriteString(conn, "OK\n")
		_, _ = io.Copy(io.Discard, conn) // until plex closes the connection
	})
	defer stop()

	var dialer net.Dialer
	connect := func(ctx context.Context, conn net.Conn) error {
		to, ok := plex.Target(conn)
		if !ok {
			return errors.New("there is no address; give the service's with WithResolver")
		}
		transport, err := dialer.DialContext(ctx, to.Network, to.Address)
		if err != nil {
			return err
		}
		if err := plex.Attach(conn, transport); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(conn, "LOGIN %s\n", to.Name); err != nil {
			return err
		}
		_, err = io.ReadFull(conn, make([]byte, len("OK\n")))
		return err
	}
	resolve := func(context.Context) ([]plex.Address, error) {
		return []plex.Address{{Network: "tcp", Address: address, Name: "orders"}}, nil
	}
	mux, err := plex.New(context.Background(),
		plex.WithResolver(resolve, 0),
		plex.WithConnector(connect),
		plex.WithMinConnections(1),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(mux.Addresses()[0].Name, mux.Close())

	// Output:
	// "LOGIN orders\n" <nil>
	// orders <nil>
}

// The guide's pool over a name, here that of this machine.
func TestTheGuidesPoolOverSeveralAddresses(t *testing.T) {
	address, stop := exampleService(exampleEcho)
	defer stop()
	mux, err := spread(t.Context(), address)
	require.NoError(t, err)
	require.Equal(t, 24, mux.Stats().Open)
	require.NoError(t, mux.Close())
}

// The guide's resolver for a primary: a fail-over in which nothing is lost, and then a Renew.
func TestTheGuidesFailOver(t *testing.T) {
	one, stopOne := exampleService(exampleEcho)
	defer stopOne()
	other, stopOther := exampleService(exampleEcho)
	defer stopOther()
	var now atomic.Pointer[string]
	now.Store(&one)
	errDown := errors.New("it is down")
	resolve := primary(func(_ context.Context, address string) (bool, error) {
		if p := now.Load(); p == nil {
			return false, errDown
		} else {
			return address == *p, nil
		}
	}, one, other)
	mux, err := plex.New(t.Context(), plex.WithConnector(plex.DialResolved(&net.Dialer{})), plex.WithMinConnections(2),
		plex.WithMaxCapacity(3), plex.WithResolver(resolve, time.Hour))
	require.NoError(t, err)
	defer mux.Close()
	require.Equal(t, one, mux.Addresses()[0].Address.Address)

	now.Store(&other)
	require.NoError(t, mux.Renew(t.Context()))
	w, err := mux.Writer(t.Context(), time.Minute)
	require.NoError(t, err)
	require.Equal(t, other, w.RemoteAddr().String())
	require.NoError(t, w.Close())

	now.Store(nil)
	_, err = resolve(t.Context())
	require.ErrorIs(t, err, errDown)
	require.ErrorContains(t, err, "no server takes writes")
}
