package plexdebug

// What a browser gets: the page, the same page as it changes, and the figures as JSON.

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"hash/maphash"
	"html/template"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"go.atomizer.io/plex"
)

var (
	//go:embed page.html
	pageHTML string
	//go:embed page.css
	pageCSS string
	//go:embed page.js
	pageJS string

	templates = template.Must(template.New("page.html").Parse(pageHTML))

	// policy lets the page load nothing, and run and look like nothing but what is embedded here.
	policy = "default-src 'none'; img-src data:; style-src " + sourceHash(pageCSS) + "; script-src " + sourceHash(pageJS) +
		"; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

func sourceHash(source string) string {
	sum := sha256.Sum256([]byte(source))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// screen is what a view shows now.
func (h *handler) screen(v view) *screen {
	now := time.Now()
	s := &screen{
		Title: h.title, Style: template.CSS(pageCSS), Script: template.JS(pageJS),
		Clock: now.Format("15:04:05"), Self: v.link(), Token: h.token,
		Overview: h.overview(v, now), Events: h.happened(),
	}
	if len(h.pools) > 0 {
		p := h.pools[v.pool]
		s.Pool, s.Conns = h.figures(p, now), h.connections(v, p, now)
	}
	return s
}

func (h *handler) servePage(w http.ResponseWriter, r *http.Request) {
	h.sampler.look()
	var page bytes.Buffer
	if err := templates.Execute(&page, h.screen(h.viewOf(r.URL.Query()))); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Security-Policy", policy)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(page.Bytes()) // whoever has gone does not need it
}

// poolStats is a pool in stats.json.
type poolStats struct {
	Name    string
	Address string // of the first connection
	plex.Stats
	LastConnectError string // in place of that of Stats
}

func (h *handler) serveStats(w http.ResponseWriter) {
	pools := make([]poolStats, 0, len(h.pools))
	for _, p := range h.pools {
		s := p.mux.Stats()
		pools = append(pools, poolStats{p.name, addrText(p.mux.Addr()), s, errText(s.LastConnectError)})
	}
	w.Header().Set("Content-Type", "application/json")
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	_ = out.Encode(map[string]any{"Time": time.Now(), "Pools": pools}) // as above
}

const (
	eventPause      = 100 * time.Millisecond // from one message about events to the next
	browserPatience = 10 * time.Second       // for a browser to take a message
)

// serveLive sends the parts of the page, and from then on those that have changed, as server-sent
// events. Nothing is queued: while the browser does not take what is sent, nothing else is made for
// it.
func (h *handler) serveLive(w http.ResponseWriter, r *http.Request) {
	release, ok := h.sampler.watch()
	if !ok {
		w.Header().Set("Retry-After", "10")
		http.Error(w, "too many pages are live", http.StatusServiceUnavailable)
		return
	}
	defer release()
	v := h.viewOf(r.URL.Query())
	s := &stream{w: w, control: http.NewResponseController(w), seed: maphash.MakeSeed(), sent: make(map[string]uint64)}
	_ = s.control.SetReadDeadline(time.Time{}) // where there are none, there is nothing to take away
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // says to proxies that this is to be passed on at once
	down := h.servers.down(r.Context())

	parts := allParts
	for {
		sampled, told := h.sampler.next(), h.events.next()
		if s.send(parts, h.screenFor(parts, v)) != nil {
			return // it has gone, or takes nothing
		}
		select {
		case <-sampled:
			parts = allParts
		case <-told:
			parts = eventParts
			if !sleep(r.Context(), eventPause) { // they come in bursts
				return
			}
		case <-down:
			return
		case <-r.Context().Done():
			return
		}
	}
}

// part is a template whose output is replaced as a whole; its name is also the id of its element.
type part struct {
	name string
	data func(*screen) any // nil if the page does not have it
}

var (
	eventParts = []part{{"events", func(s *screen) any { return s.Events }}}
	allParts   = append([]part{
		{"clock", func(s *screen) any { return s }},
		{"overview", func(s *screen) any { return s.Overview }},
		{"figures", func(s *screen) any { return s.Pool }},
		{"connections", func(s *screen) any { return s.Conns }},
	}, eventParts...)
)

// screenFor is screen, with no more than the parts need.
func (h *handler) screenFor(parts []part, v view) *screen {
	if len(parts) == len(eventParts) {
		return &screen{Events: h.happened()}
	}
	return h.screen(v)
}

// stream is one browser's.
type stream struct {
	w       io.Writer
	control *http.ResponseController
	seed    maphash.Seed
	sent    map[string]uint64 // hashes of the parts as the browser has them
}

// send sends those parts that have changed.
func (s *stream) send(parts []part, now *screen) error {
	var message bytes.Buffer
	for _, p := range parts {
		data := p.data(now)
		if isNil(data) {
			continue
		}
		var html strings.Builder
		if err := templates.ExecuteTemplate(&html, p.name, data); err != nil {
			return err
		}
		sum := maphash.String(s.seed, html.String())
		if s.sent[p.name] == sum {
			continue
		}
		s.sent[p.name] = sum
		message.WriteString("event: " + p.name + "\n")
		for line := range strings.Lines(lineEnds.Replace(html.String())) {
			message.WriteString("data: " + strings.TrimSuffix(line, "\n") + "\n")
		}
		message.WriteString("\n")
	}
	_ = s.control.SetWriteDeadline(time.Now().Add(browserPatience)) // without deadlines, the server's own apply
	if _, err := s.w.Write(message.Bytes()); err != nil {
		return err
	}
	return s.control.Flush()
}

// lineEnds are all that end a line for a browser: what stands in an address or an error must not
// begin a message.
var lineEnds = strings.NewReplacer("\r\n", "\n", "\r", "\n")

func isNil(data any) bool {
	switch data := data.(type) {
	case *overview:
		return data == nil
	case *figures:
		return data == nil
	case *connections:
		return data == nil
	}
	return false
}

// sleep reports false if ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// servers has live pages end when their server shuts down, for which it waits.
type servers struct {
	mu    sync.Mutex
	downs map[*http.Server]chan struct{}
}

// down is closed when the server of a request shuts down; nil if there is none.
func (s *servers) down(ctx context.Context) <-chan struct{} {
	server, ok := ctx.Value(http.ServerContextKey).(*http.Server)
	if !ok {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if ch, ok := s.downs[server]; ok {
		return ch
	}
	if s.downs == nil {
		s.downs = make(map[*http.Server]chan struct{})
	}
	ch := make(chan struct{})
	s.downs[server] = ch
	server.RegisterOnShutdown(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if _, ok := s.downs[server]; ok {
			close(ch)
			delete(s.downs, server)
		}
	})
	return ch
}
