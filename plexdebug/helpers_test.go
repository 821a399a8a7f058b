package plexdebug_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
)

// poolOf is a pool of n connections in memory that are replaced when they are lost.
func poolOf(t testing.TB, n int, options ...plex.Option) *plex.Multiplexer {
	t.Helper()
	var books fakenet.Books
	connect := plex.DialFunc(func(context.Context) (net.Conn, error) {
		c, _ := fakenet.Pair()
		books.Watch(c)
		return c, nil
	})
	m, err := plex.New(t.Context(), append([]plex.Option{
		plex.WithConnector(connect), plex.WithMinConnections(n), plex.WithMaxCapacity(n),
	}, options...)...)
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, m.Close())
		assert.Empty(t, books.Unbalanced())
	})
	return m
}

func killOne(t testing.TB, m *plex.Multiplexer) {
	t.Helper()
	w, err := m.Writer(t.Context(), time.Minute)
	require.NoError(t, err)
	require.NoError(t, w.Kill())
}

// get asks h for a target.
func get(t testing.TB, h http.Handler, target string) string {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, target, nil))
	require.Equal(t, http.StatusOK, w.Code, w.Body)
	return w.Body.String()
}

// post presses a button.
func post(h http.Handler, target string, form url.Values, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, target, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// between returns what stands between two strings, the first time.
func between(t testing.TB, s, from, to string) string {
	t.Helper()
	_, rest, ok := strings.Cut(s, from)
	require.True(t, ok, "no %q", from)
	found, _, ok := strings.Cut(rest, to)
	require.True(t, ok, "no %q", to)
	return found
}

// tab is a browser that has a live page open.
type tab struct {
	leave func()          // and wait until the handler has returned
	done  <-chan struct{} // closed when the handler has returned

	mu      sync.Mutex
	header  http.Header
	code    int
	got     bytes.Buffer
	writes  int
	gate    chan struct{} // writes wait for it; nil for a browser that is quick
	expires time.Time     // the deadline of writes
}

// open opens a live page. It has to be left.
func open(t testing.TB, h http.Handler, target string, gate chan struct{}) *tab {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	b := &tab{header: make(http.Header), gate: gate}
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.ServeHTTP(b, r)
	}()
	b.done = done
	b.leave = func() { cancel(); <-done }
	return b
}

func (b *tab) Header() http.Header { return b.header }

func (b *tab) WriteHeader(code int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.code = code
}

func (b *tab) Flush() {}

func (b *tab) SetReadDeadline(time.Time) error { return nil }

func (b *tab) SetWriteDeadline(t time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.expires = t
	return nil
}

func (b *tab) Write(p []byte) (int, error) {
	if b.gate != nil {
		b.mu.Lock()
		late := time.NewTimer(time.Until(b.expires))
		b.mu.Unlock()
		defer late.Stop()
		select {
		case <-b.gate:
		case <-late.C:
			return 0, errors.New("the deadline of the write is over")
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.writes++
	return b.got.Write(p)
}

// parts returns the parts that have come since it was last called, by name, each as it came last.
func (b *tab) parts(t testing.TB) map[string]string {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	parts := make(map[string]string)
	got := strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(b.got.String()) // each of which ends a line for a browser
	for message := range strings.SplitSeq(got, "\n\n") {
		var name string
		var data []string
		for line := range strings.Lines(message) {
			field, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
			require.True(t, ok || field == "data:", "%q", line)
			switch field {
			case "event":
				require.Empty(t, name)
				name = value
			case "data", "data:":
				data = append(data, value)
			default:
				t.Errorf("%q begins no field", line)
			}
		}
		if name != "" {
			parts[name] = strings.Join(data, "\n")
		}
	}
	b.got.Reset()
	return parts
}
