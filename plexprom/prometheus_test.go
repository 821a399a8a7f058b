package plexprom_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
)

// A Prometheus that is installed on the machine scrapes a pool, and answers what the dashboard asks.
func TestPrometheus(t *testing.T) {
	path, err := exec.LookPath("prometheus")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%v; on Debian: apt-get install prometheus", err)
		}
		t.Skipf("%v; on Debian: apt-get install prometheus", err)
	}
	mux := newPool(t, plex.WithMinConnections(3), plex.WithMaxCapacity(5))
	metrics := httptest.NewServer(promhttp.HandlerFor(registryOf(t, mux), promhttp.HandlerOpts{}))
	defer metrics.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p := startPrometheus(ctx, t, path, metrics.Listener.Addr().String())

	p.await(`up == 1`)
	p.await(`plex_connections{pool="orders",state="open"} == 3`)
	p.await(`plex_connections_max{pool="orders"} == 5`)
	p.await(`sum(plex_halves{pool="orders",state="idle"}) == 6`)

	w, err := mux.Writer(ctx, 0)
	require.NoError(t, err)
	p.await(`plex_halves{pool="orders",half="write",state="leased"} == 1`)
	require.NoError(t, w.Kill())
	p.await(`plex_connections_lost_total{pool="orders"} == 1`)
	p.await(`plex_connections_healed_total{pool="orders"} == 1`)
	p.await(`plex_connect_duration_seconds_count{pool="orders"} == 4`)
	p.await(`plex_connect_duration_seconds_bucket{pool="orders",le="+Inf"} == 4`)

	for _, query := range readDashboard(t).queries() {
		p.await(query)
	}
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	alerts := regexp.MustCompile("(?m)^\\| `(.*?)` \\|").FindAllStringSubmatch(string(readme), -1)
	require.NotEmpty(t, alerts)
	for _, alert := range alerts {
		results, err := p.query(alert[1])
		require.NoError(t, err)
		require.Zero(t, results, "nothing is wrong, and this would raise an alert: %s", alert[1])
	}
}

// server is a Prometheus in a process of its own.
type server struct {
	t       *testing.T
	ctx     context.Context
	address string
}

// startPrometheus starts one that scrapes one address, and listens on loopback. It ends with the test.
func startPrometheus(ctx context.Context, t *testing.T, path, scraped string) server {
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `
global: {scrape_interval: 200ms, scrape_timeout: 200ms}
scrape_configs: [{job_name: plex, static_configs: [{targets: [%q]}]}]
`, scraped), 0o600))

	cmd := exec.CommandContext(ctx, path, "--config.file="+config, "--web.listen-address=127.0.0.1:0",
		"--storage.tsdb.path="+filepath.Join(dir, "data"))
	output, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())

	// It says itself which port it has got.
	var said strings.Builder
	address, ended := make(chan string, 1), make(chan struct{})
	go func() {
		defer close(ended)
		listening := regexp.MustCompile(`msg="Listening on".* address=(127\.0\.0\.1:\d+)`)
		for lines := bufio.NewScanner(output); lines.Scan(); {
			said.WriteString(lines.Text() + "\n")
			if match := listening.FindStringSubmatch(lines.Text()); match != nil {
				address <- match[1]
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // its data go, too
		<-ended
		_ = cmd.Wait() // that it was killed is no news
		if t.Failed() {
			t.Log(said.String())
		}
	})
	select {
	case a := <-address:
		return server{t, ctx, a}
	case <-ended:
		t.Fatal("Prometheus has ended")
	case <-ctx.Done():
		t.Fatal("Prometheus does not listen")
	}
	return server{}
}

// await asks until there is a result.
func (s server) await(query string) {
	s.t.Helper()
	ticks := time.NewTicker(50 * time.Millisecond)
	defer ticks.Stop()
	for {
		results, err := s.query(query)
		if err == nil && results > 0 {
			return
		}
		select {
		case <-ticks.C:
		case <-s.ctx.Done():
			s.t.Fatalf("no result in time: %s: %v", query, err)
		}
	}
}

// query says how many results there are.
func (s server) query(query string) (results int, err error) {
	address := url.URL{
		Scheme: "http", Host: s.address, Path: "/api/v1/query", RawQuery: url.Values{"query": {query}}.Encode(),
	}
	request, err := http.NewRequestWithContext(s.ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		return 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	var answer struct {
		Status, Error string
		Data          struct{ Result []json.RawMessage }
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return 0, fmt.Errorf("%s: %w", response.Status, err)
	}
	require.Equal(s.t, "success", answer.Status, "%s: %s", query, answer.Error)
	return len(answer.Data.Result), nil
}
