package browsertest

import (
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/plexdebug"
)

func TestPictures(t *testing.T) {
	if *screenshots == "" {
		t.Skip("no pictures are wanted, see -screenshots")
	}
	b := newBrowser(t)
	s := newService(t)
	orders, store := s.pool(t, "orders", 12), s.pool(t, "sessions", 4)
	address := mount(t, plexdebug.Page{Title: "checkout", Pools: []*plex.Multiplexer{orders, store}, AllowActions: true})
	show(b, s, orders, address)
}

func TestOne(t *testing.T) {
	b := newBrowser(t)
	s := newService(t)
	mux := s.pool(t, "orders", 8)
	b.size(desktop, 1000, "light")
	b.open(mount(t, plexdebug.Page{Pools: []*plex.Multiplexer{mux}}))
	b.await(is(`text("#tile-open b") === "8"`))
	require.Equal(t, 8, eval[int](b, `document.querySelectorAll(".conns tbody tr").length`))
	b.picture("one")
	_ = chromedp.Title
}
