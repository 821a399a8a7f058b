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
