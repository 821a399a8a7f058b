package plexotel_test

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/plexotel"
	"go.atomizer.io/plex/request"
)

// A client whose pool is observed and whose requests are traced. A program that has set the global
// providers needs no options.
func Example() {
	address, stop, err := service(nil)
	if err != nil {
		panic(err)
	}
	defer stop()
	reader, spans := sdkmetric.NewManualReader(), tracetest.NewSpanRecorder()
	options := []plexotel.Option{
		plexotel.WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))),
		plexotel.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))),
		plexotel.WithRequest(func(text string) (string, []attribute.KeyValue) {
			return "ECHO", []attribute.KeyValue{attribute.Int("size", len(text))}
		}),
	}

	// The pool. The observer is for the histogram of connects alone.
	ctx := context.Background()
	observe, err := plexotel.Observer("echo", options...)
	if err != nil {
		panic(err)
	}
	mux, err := plex.New(ctx, plex.WithConnector(plex.Dial("tcp", address)), plex.WithMinConnections(2), plex.WithObserver(observe))
	if err != nil {
		panic(err)
	}
	defer mux.Close()
	unregister, err := plexotel.Register(mux, "echo", options...)
	if err != nil {
		panic(err)
	}
	defer unregister()

	// The client.
	requests, err := request.New(mux, lines{})
	if err != nil {
		panic(err)
	}
	defer requests.Close()
	client, err := plexotel.Traced(requests, "echo", options...)
	if err != nil {
		panic(err)
	}
	reply, err := client.Do(ctx, "hello")
	fmt.Println(reply, err)

	span := spans.Ended()[0]
	fmt.Println(span.SpanKind(), span.Name(), span.Attributes()[0].Value.AsString(), span.Attributes()[1].Value.AsInt64())
	var collected metricdata.ResourceMetrics
	if err := reader.Collect(ctx, &collected); err != nil {
		panic(err)
	}
	for _, m := range collected.ScopeMetrics[0].Metrics {
		if m.Name == "plex.connection.max" {
			fmt.Println(m.Name, m.Data.(metricdata.Sum[int64]).DataPoints[0].Value, m.Unit)
		}
	}
	// Output:
	// hello <nil>
	// client ECHO echo 5
	// plex.connection.max 2 {connection}
}

// Metrics of the pool alone. A program that has set the global provider needs no option.
func ExampleRegister() {
	address, stop, err := service(nil)
	if err != nil {
		panic(err)
	}
	defer stop()
	mux, err := plex.New(context.Background(), plex.WithConnector(plex.Dial("tcp", address)), plex.WithMinConnections(3))
	if err != nil {
		panic(err)
	}
	defer mux.Close()

	reader := sdkmetric.NewManualReader()
	unregister, err := plexotel.Register(mux, "orders",
		plexotel.WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))))
	if err != nil {
		panic(err)
	}
	defer unregister() // before the multiplexer is closed

	var collected metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &collected); err != nil {
		panic(err)
	}
	for _, m := range collected.ScopeMetrics[0].Metrics {
		if m.Name == "plex.connection.count" {
			for _, point := range m.Data.(metricdata.Sum[int64]).DataPoints {
				state, _ := point.Attributes.Value("plex.connection.state")
				fmt.Println(m.Name, state.AsString(), point.Value)
			}
		}
	}

	// Unordered output:
	// plex.connection.count idle 3
	// plex.connection.count used 0
}
