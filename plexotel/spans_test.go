package plexotel_test

import (
	"context"
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"go.atomizer.io/plex/plexotel"
	"go.atomizer.io/plex/request"
)

// traced makes a client whose spans are recorded.
func traced(t *testing.T, options ...plexotel.Option) (c *plexotel.Client[string, string], spans *tracetest.SpanRecorder, peer netip.AddrPort) {
	t.Helper()
	return tracedHung(t, nil, options...)
}

// tracedHung is traced with a function that is called when the server has got a request to hang.
func tracedHung(t *testing.T, hung func(), options ...plexotel.Option) (c *plexotel.Client[string, string], spans *tracetest.SpanRecorder, peer netip.AddrPort) {
	t.Helper()
	plain, address := newClient(t, hung)
	spans = tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	c, err := plexotel.Traced(plain, "orders", append(options, plexotel.WithTracerProvider(provider))...)
	require.NoError(t, err)
	return c, spans, netip.MustParseAddrPort(address)
}

// only returns the one span that has ended.
func only(t *testing.T, spans *tracetest.SpanRecorder) (trace.SpanContext, sdktrace.ReadOnlySpan, map[attribute.Key]any) {
	t.Helper()
	require.Len(t, spans.Started(), 1)
	require.Len(t, spans.Ended(), 1)
	span := spans.Ended()[0]
	require.Equal(t, trace.SpanKindClient, span.SpanKind())
	attributes := make(map[attribute.Key]any)
	for _, a := range span.Attributes() {
		attributes[a.Key] = a.Value.AsInterface()
	}
	return span.Parent(), span, attributes
}

func TestDoHasASpan(t *testing.T) {
	c, spans, _ := traced(t)
	outer := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	reply, err := c.Do(trace.ContextWithSpanContext(t.Context(), outer), "hello")
	require.NoError(t, err)
	require.Equal(t, "hello", reply)
	parent, span, attributes := only(t, spans)
	require.Equal(t, outer.SpanID(), parent.SpanID())
	require.Equal(t, "request orders", span.Name())
	require.Equal(t, codes.Unset, span.Status().Code)
	require.Equal(t, map[attribute.Key]any{"plex.pool.name": "orders"}, attributes)
}

func TestARequestCanBeDescribed(t *testing.T) {
	c, spans, _ := traced(t, plexotel.WithDBNames(), plexotel.WithAttributes(attribute.String("server.address", "db")),
		plexotel.WithRequest(func(text string) (string, []attribute.KeyValue) {
			return "ECHO", []attribute.KeyValue{attribute.Int("size", len(text))}
		}))
	_, err := c.Do(t.Context(), "hello")
	require.NoError(t, err)
	_, span, attributes := only(t, spans)
	require.Equal(t, "ECHO", span.Name())
	require.Equal(t, map[attribute.Key]any{
		"db.client.connection.pool.name": "orders", "server.address": "db", "size": int64(5),
	}, attributes)
}

func TestADescriptionMustFitTheClient(t *testing.T) {
	plain, _ := newClient(t, nil)
	_, err := plexotel.Traced(plain, "orders", plexotel.WithRequest(func(int) (string, []attribute.KeyValue) { return "", nil }))
	require.EqualError(t, err, "plexotel: Traced: WithRequest: the function is a func(int) (string, []attribute.KeyValue); "+
		"it must take a request of the client, a string")
	_, err = plexotel.Traced(plain, "orders", plexotel.WithRequest[int](nil))
	require.NoError(t, err)
}

// The server has got the request, and hangs up.
func TestTheSpanOfALostRequestSaysWhere(t *testing.T) {
	c, spans, peer := traced(t)
	_, err := c.Do(t.Context(), "die")
	require.Error(t, err)
	_, span, attributes := only(t, spans)
	require.Equal(t, sdktrace.Status{Code: codes.Error, Description: err.Error()}, span.Status())
	require.Equal(t, map[attribute.Key]any{
		"plex.pool.name": "orders", "error.type": "connection_failed", "plex.request.maybe_sent": true,
		"network.peer.address": peer.Addr().String(), "network.peer.port": int64(peer.Port()), "network.transport": "tcp",
	}, attributes)
}

// ctx reaches the client, with all that is in it. The server has got the request when ctx ends.
func TestTheSpanOfARequestWhoseContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c, spans, peer := tracedHung(t, cancel)
	_, err := c.Do(ctx, "hang")
	require.ErrorIs(t, err, context.Canceled)
	_, span, attributes := only(t, spans)
	require.Equal(t, sdktrace.Status{Code: codes.Error, Description: err.Error()}, span.Status())
	require.Equal(t, map[attribute.Key]any{
		"plex.pool.name": "orders", "error.type": "canceled", "plex.request.maybe_sent": true,
		"network.peer.address": peer.Addr().String(), "network.peer.port": int64(peer.Port()), "network.transport": "tcp",
	}, attributes)
}

func TestTheSpanOfARequestThatWasNotSent(t *testing.T) {
	for name, test := range map[string]struct {
		ctx   func(context.Context) context.Context
		close bool
		want  string
	}{
		"canceled": {func(ctx context.Context) context.Context {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return ctx
		}, false, "canceled"},
		"closed": {func(ctx context.Context) context.Context { return ctx }, true, "closed"},
	} {
		t.Run(name, func(t *testing.T) {
			c, spans, _ := traced(t)
			if test.close {
				require.NoError(t, c.Close())
			}
			_, err := c.Do(test.ctx(t.Context()), "hello")
			require.Error(t, err)
			_, _, attributes := only(t, spans)
			require.Equal(t, map[attribute.Key]any{
				"plex.pool.name": "orders", "error.type": test.want, "plex.request.maybe_sent": false,
			}, attributes)
		})
	}
}

func TestAStreamHasASpanForItsLoop(t *testing.T) {
	c, spans, _ := traced(t)
	stream := c.Stream(t.Context(), "count")
	require.Empty(t, spans.Started())
	var got []string
	for part, err := range stream {
		require.NoError(t, err)
		require.Len(t, spans.Started(), 1)
		require.Empty(t, spans.Ended())
		got = append(got, part)
	}
	require.Equal(t, []string{"one", "two", "three"}, got)
	_, span, attributes := only(t, spans)
	require.Equal(t, "stream orders", span.Name())
	require.Equal(t, codes.Unset, span.Status().Code)
	require.Equal(t, map[attribute.Key]any{"plex.pool.name": "orders", "plex.request.parts": int64(3)}, attributes)
}

func TestALoopThatIsLeftIsNoFailure(t *testing.T) {
	c, spans, _ := traced(t)
	for _, err := range c.Stream(t.Context(), "count") {
		require.NoError(t, err)
		break
	}
	_, span, attributes := only(t, spans)
	require.Equal(t, codes.Unset, span.Status().Code)
	require.Equal(t, map[attribute.Key]any{
		"plex.pool.name": "orders", "plex.request.parts": int64(1), "plex.request.left": true,
	}, attributes)
}

func TestALoopWhoseBodyPanicsEndsItsSpan(t *testing.T) {
	c, spans, _ := traced(t)
	require.Panics(t, func() {
		for range c.Stream(t.Context(), "count") {
			panic("body")
		}
	})
	_, _, attributes := only(t, spans)
	require.Equal(t, true, attributes["plex.request.left"])
}

func TestAStreamThatFails(t *testing.T) {
	c, spans, peer := traced(t)
	var failed error
	for _, err := range c.Stream(t.Context(), "die") {
		failed = err
		break // which is not to leave it early
	}
	require.Error(t, failed)
	_, span, attributes := only(t, spans)
	require.Equal(t, sdktrace.Status{Code: codes.Error, Description: failed.Error()}, span.Status())
	require.Equal(t, map[attribute.Key]any{
		"plex.pool.name": "orders", "error.type": "connection_failed", "plex.request.maybe_sent": true, "plex.request.parts": int64(0),
		"network.peer.address": peer.Addr().String(), "network.peer.port": int64(peer.Port()), "network.transport": "tcp",
	}, attributes)
}

// ending is a tracer whose spans come with a ctx that has ended.
type ending struct{ noop.TracerProvider }

func (ending) Tracer(string, ...trace.TracerOption) trace.Tracer { return endingTracer{} }

type endingTracer struct{ noop.Tracer }

func (endingTracer) Start(ctx context.Context, _ string, _ ...trace.SpanStartOption) (context.Context, trace.Span) {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	return ctx, noop.Span{}
}

// The client gets the ctx that the span is in.
func TestTheContextOfTheSpanGoesOn(t *testing.T) {
	plain, _ := newClient(t, nil)
	c, err := plexotel.Traced(plain, "orders", plexotel.WithTracerProvider(ending{}))
	require.NoError(t, err)
	_, err = c.Do(t.Context(), "hello")
	require.ErrorIs(t, err, context.Canceled)
	for _, err := range c.Stream(t.Context(), "count") {
		require.ErrorIs(t, err, context.Canceled)
	}
}

// A nil context is refused by the client, as without spans.
func TestANilContextIsRefused(t *testing.T) {
	c, spans, _ := traced(t)
	var none context.Context
	_, err := c.Do(none, "hello")
	require.ErrorContains(t, err, "nil context")
	for _, err := range c.Stream(none, "count") {
		require.ErrorContains(t, err, "nil context")
	}
	require.Empty(t, spans.Started())
}

func TestWhatIsNotTracedIsTheClients(t *testing.T) {
	c, _, _ := traced(t)
	_, err := c.Do(t.Context(), "hello")
	require.NoError(t, err)
	require.EqualValues(t, 1, c.Stats().Replies)
	require.NoError(t, c.Close())
	_, err = c.Do(t.Context(), "hello")
	require.ErrorIs(t, err, request.ErrClosed)
	require.ErrorIs(t, err, net.ErrClosed)
}
