package plexdebug_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
	"go.atomizer.io/plex/plexdebug"
)

// BenchmarkPage is a page of 50 connections of 10,000, with who has leased each, while the look at
// all of them is shared.
func BenchmarkPage(b *testing.B) {
	conns := make([]net.Conn, 10_000)
	for i := range conns {
		conns[i], _ = fakenet.Pair()
	}
	m, err := plex.New(b.Context(), plex.WithConnections(conns...), plex.WithLeakDetection(time.Hour))
	require.NoError(b, err)
	defer m.Close()
	for range 100 {
		_, err := m.Writer(b.Context(), 0)
		require.NoError(b, err)
	}
	h := plexdebug.Handler(m)
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	}
}
