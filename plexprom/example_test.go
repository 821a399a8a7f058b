package plexprom_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/plexprom"
	"go.atomizer.io/plex/request"
)

func Example() {
	var mux *plex.Multiplexer // of plex.New

	prometheus.MustRegister(plexprom.NewCollector("orders", mux))
	http.Handle("/metrics", promhttp.Handler())
}

// A pool of two connections, as Prometheus sees it.
func ExampleNewCollector() {
	listener, err := net.Listen("tcp", "127.0.0.1:0") // in place of a service
	if err != nil {
		fmt.Println(err)
		return
	}
	defer listener.Close()

	mux, err := plex.New(context.Background(), plex.WithName("orders"),
		plex.WithConnector(plex.Dial("tcp", listener.Addr().String())), plex.WithMinConnections(2))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mux.Close()

	collector := plexprom.NewCollector("orders", mux)
	prometheus.MustRegister(collector)
	defer prometheus.Unregister(collector) // before the name is used again

	scrape := httptest.NewRecorder()
	promhttp.Handler().ServeHTTP(scrape, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for lines := bufio.NewScanner(scrape.Body); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "plex_connections{") || strings.HasPrefix(lines.Text(), "plex_halves{") {
			fmt.Println(lines.Text())
		}
	}

	// Output:
	// plex_connections{pool="orders",state="connecting"} 0
	// plex_connections{pool="orders",state="open"} 2
	// plex_halves{half="read",pool="orders",state="idle"} 2
	// plex_halves{half="read",pool="orders",state="leased"} 0
	// plex_halves{half="write",pool="orders",state="idle"} 2
	// plex_halves{half="write",pool="orders",state="leased"} 0
}

// A client of package request has figures of its own.
func ExampleNewClientCollector() {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	mux, err := plex.New(context.Background(), plex.WithConnections(ours))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mux.Close()
	client, err := request.New(mux, echoed{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	registry := prometheus.NewRegistry()
	registry.MustRegister(plexprom.NewClientCollector("orders", client))

	scrape := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(scrape, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for lines := bufio.NewScanner(scrape.Body); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "plex_requests{") {
			fmt.Println(lines.Text())
		}
	}

	// Output:
	// plex_requests{pool="orders",state="abandoned"} 0
	// plex_requests{pool="orders",state="in_flight"} 0
	// plex_requests{pool="orders",state="waiting"} 0
}

// echoed is the least that is a protocol.
type echoed struct{}

func (echoed) Append(dst []byte, id uint64, _ struct{}) ([]byte, error) {
	return append(dst, byte(id)), nil
}

func (echoed) Split(data []byte, atEOF bool) (int, []byte, error) {
	return bufio.ScanBytes(data, atEOF)
}

func (echoed) Parse(m []byte) (uint64, struct{}, error) { return uint64(m[0]), struct{}{}, nil }

// An error of Register names the pool.
func ExampleCollector_Register() {
	mux, err := plex.New(context.Background(), plex.WithMaxCapacity(1))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mux.Close()

	registry := prometheus.NewRegistry()
	fmt.Println(plexprom.NewCollector("orders", mux).Register(registry))
	fmt.Println(plexprom.NewCollector("", mux).Register(registry))

	// Output:
	// <nil>
	// plexprom: pool "": the pool has no name
}
