// Package plexdebug shows pools of package plex on a live page, as net/http/pprof shows a process.
// One line does it:
//
//	http.Handle("/debug/plex/", plexdebug.Handler(mux))
//
// The page has each pool's figures with small charts of the last five minutes, every connection
// with its address, its age, the state of each half and who has it since when, and the latest
// events as they come. A pool with [plex.WithLeakDetection] also tells since when a half is leased,
// and by whom, with the stack. One with [plex.WithName] is shown by its name.
//
// The page follows the pools while it is open. Without JavaScript it is a snapshot. It loads nothing
// from elsewhere, and it is made for desktops and phones, light and dark. Beside it is stats.json:
// what [plex.Multiplexer.Stats] says of all pools, with durations in nanoseconds. Both are there
// wherever the handler is mounted.
//
// # Who may see it
//
// Like pprof's, the page is for those who run the program: it shows addresses, errors, and names of
// functions. Mount it where only they come, or wrap the handler in one that asks who is there. It
// changes nothing, unless [Page.AllowActions] is set.
//
// # What it costs
//
// A handler listens to the pools' events from the moment that it is made, and keeps the latest 200.
// It takes a sample of each pool's Stats every second while a page is open, and for five minutes
// after the last look, so that the charts are there when somebody comes back. It has no goroutine
// of its own: between samples there is a timer, which ends five minutes after the last look.
// Otherwise it does nothing. The look at the connections is shared by all who watch a pool. Neither
// a look nor a sample takes more than a twentieth of one CPU: in a pool that is so large that they
// would, they come less often.
//
// A page shows 50 connections and 25 pools at a time. Up to 32 pages are live at once; more are
// snapshots. Nothing is queued for a browser: one that is slow gets the state of the moment when it
// is ready for it, and one that takes nothing for ten seconds is hung up on.
//
// The handler keeps listening for as long as the pools live. Make one for a program, not one for a
// request.
package plexdebug

import (
	"crypto/rand"
	"net/http"
	"path"

	"go.atomizer.io/plex"
)

// Handler returns the handler of a page that shows these pools and changes nothing. See [Page] for
// more.
func Handler(muxes ...*plex.Multiplexer) http.Handler { return Page{Pools: muxes}.Handler() }

// Page describes a page. Its fields are read once, by [Page.Handler].
type Page struct {
	// Pools are shown in this order; nil ones are left out.
	Pools []*plex.Multiplexer

	// Title is the page's title, "plex" by default: the name of the program, say.
	Title string

	// AllowActions shows buttons that renew a pool and retire a connection, see
	// [plex.Multiplexer.Renew] and [plex.Conn.Retire]. Both are graceful: no lease is cut short. A
	// click is a POST with a token that only the page has, and browsers cannot be made to send it
	// from another site. Who may open the page may press the buttons.
	AllowActions bool
}

// Handler returns the handler of the page. Any number of goroutines may use it.
func (p Page) Handler() http.Handler {
	h := &handler{title: p.Title}
	if h.title == "" {
		h.title = "plex"
	}
	if p.AllowActions {
		h.token = rand.Text()
	}
	for _, m := range p.Pools {
		if m == nil {
			continue
		}
		pool := newPool(m, len(h.pools))
		h.pools = append(h.pools, pool)
		m.Observe(func(e plex.Event) { h.events.add(pool.name, e) })
	}
	h.sampler.sample, h.sampler.rest = h.sample, h.rest
	return h
}

// handler serves one page. Its fields are constant, but for those whose types have a lock.
type handler struct {
	title   string
	token   string // that a POST must bring; "" if there are no actions
	origin  http.CrossOriginProtection
	pools   []*pool
	events  eventLog
	sampler sampler
	servers servers
}

// ServeHTTP looks at the end of the path and at the query only, so that it does not matter where
// the handler is mounted.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "same-origin")
	switch query := r.URL.Query(); {
	case r.Method == http.MethodPost:
		h.act(w, r)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		header.Set("Allow", "GET, HEAD, POST")
		http.Error(w, "only GET, HEAD and POST", http.StatusMethodNotAllowed)
	case path.Base(r.URL.Path) == "stats.json" || query.Has("stats.json"):
		h.serveStats(w)
	case query.Has("live") && r.Method == http.MethodGet:
		h.serveLive(w, r)
	default:
		h.servePage(w, r)
	}
}
