package plexotel_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/message"
	"go.atomizer.io/plex/request"
)

// metrics collects what a program has measured.
type metrics struct {
	reader   *sdkmetric.ManualReader
	provider *sdkmetric.MeterProvider
}

func newMetrics() *metrics {
	reader := sdkmetric.NewManualReader()
	return &metrics{reader, sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))}
}

// collect returns all metrics by their names.
func (m *metrics) collect(t *testing.T) map[string]metricdata.Metrics {
	t.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(t, m.reader.Collect(t.Context(), &all))
	byName := make(map[string]metricdata.Metrics)
	for _, scope := range all.ScopeMetrics {
		require.Equal(t, "go.atomizer.io/plex/plexotel", scope.Scope.Name)
		for _, one := range scope.Metrics {
			require.NotContains(t, byName, one.Name)
			byName[one.Name] = one
		}
	}
	return byName
}

// figures returns the points of all metrics but histograms, as text: "name{key=value,...}".
func (m *metrics) figures(t *testing.T) map[string]float64 {
	t.Helper()
	all := make(map[string]float64)
	note := func(name string, attributes attribute.Set, value float64) {
		all[name+"{"+attributes.Encoded(attribute.DefaultEncoder())+"}"] = value
	}
	for name, one := range m.collect(t) {
		switch data := one.Data.(type) {
		case metricdata.Sum[int64]:
			for _, p := range data.DataPoints {
				note(name, p.Attributes, float64(p.Value))
			}
		case metricdata.Sum[float64]:
			for _, p := range data.DataPoints {
				note(name, p.Attributes, p.Value)
			}
		case metricdata.Gauge[float64]:
			for _, p := range data.DataPoints {
				note(name, p.Attributes, p.Value)
			}
		}
	}
	return all
}

// lines is a protocol of lines. A request is a number and a text. A line with the same number and a
// plus sign answers it in part, and one without the sign is the last.
type lines struct{}

func (lines) Append(dst []byte, id uint64, text string) ([]byte, error) {
	return fmt.Appendf(dst, "%d %s\n", id, text), nil
}

func (lines) Split(data []byte, atEOF bool) (int, []byte, error) { return message.Lines(data, atEOF) }

func (p lines) Parse(line []byte) (id uint64, text string, err error) {
	id, text, _, err = p.ParsePart(line)
	return id, text, err
}

func (lines) ParsePart(line []byte) (id uint64, text string, last bool, err error) {
	number, rest, _ := bytes.Cut(line, []byte(" "))
	part, more := bytes.CutPrefix(rest, []byte("+"))
	id, err = strconv.ParseUint(string(number), 10, 64)
	return id, string(part), !more, err
}

// service is a server on loopback that speaks lines. It answers "count" with three messages, hangs up
// at "die", never answers "hang" but calls hung if there is one, and echoes everything else.
func service(hung func()) (address string, stop func(), err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				for in := bufio.NewScanner(conn); in.Scan(); {
					number, text, _ := strings.Cut(in.Text(), " ")
					switch text {
					case "die":
						return
					case "hang":
						if hung != nil {
							hung()
						}
					case "count":
						fmt.Fprintf(conn, "%[1]s +one\n%[1]s +two\n%[1]s three\n", number)
					default:
						fmt.Fprintf(conn, "%s %s\n", number, text)
					}
				}
			})
		}
	})
	return listener.Addr().String(), func() { _ = listener.Close(); wg.Wait() }, nil
}

// newClient makes a client for such a server, over one connection.
func newClient(t *testing.T, hung func()) (c *request.Client[string, string], address string) {
	t.Helper()
	address, stop, err := service(hung)
	require.NoError(t, err)
	t.Cleanup(stop)
	mux, err := plex.New(context.Background(), plex.WithConnector(plex.Dial("tcp", address)), plex.WithMinConnections(1))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, mux.Close()) })
	c, err = request.New(mux, lines{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c, address
}
