package browsertest

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/plexdebug"
)

// TestPictures leaves the pictures of the documentation: two pools at work, of which one grows with
// its callers, loses connections, and has an outage behind it.
func TestPictures(t *testing.T) {
	if *screenshots == "" {
		t.Skip("no pictures are wanted, see -screenshots")
	}
	s := newService(t)
	var down atomic.Bool
	connect := plex.DialFunc(func(ctx context.Context) (net.Conn, error) {
		if down.Load() {
			return nil, errors.New("the service is restarting")
		}
		return (&net.Dialer{}).DialContext(ctx, "tcp", s.listener.Addr().String())
	})
	orders := s.pool(t, "orders", 6, plex.WithConnector(connect), plex.WithMaxCapacity(16),
		plex.WithAutoScaling(10*time.Millisecond), plex.WithIdleTimeout(30*time.Second))
	sessions := s.pool(t, "sessions", 4)
	address := mount(t, plexdebug.Page{Title: "checkout", Pools: []*plex.Multiplexer{orders, sessions}})
	b := newBrowser(t)
	b.size(desktop, 1100, "light")
	b.open(address)

	work(t, orders, 4, 30*time.Millisecond)
	work(t, orders, 1, 20*time.Second)
	work(t, sessions, 2, 50*time.Millisecond)
	if *history > 0 {
		time.Sleep(*history / 5)
		s.breakSome(2)
		time.Sleep(*history / 5)
		work(t, orders, 12, 20*time.Millisecond)
		time.Sleep(*history / 5)
		down.Store(true)
		s.breakSome(100)
		time.Sleep(4 * time.Second)
		down.Store(false)
		time.Sleep(*history / 5)
		s.breakSome(3)
		time.Sleep(*history / 5)
	}
	w, err := orders.Writer(t.Context(), patience)
	require.NoError(t, err)
	require.NoError(t, w.Kill())
	b.await(is(`text("#events").includes("killed")`))
	for _, scheme := range []string{"light", "dark"} {
		b.size(desktop, 1100, scheme)
		time.Sleep(2 * time.Second)
		b.picture("desktop-" + scheme)
		b.size(phone, 844, scheme)
		time.Sleep(2 * time.Second)
		b.picture("phone-" + scheme)
	}
}
