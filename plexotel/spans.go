package plexotel

// Spans for the requests of a client.

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/request"
)

// Client is a [request.Client] that makes a span of each Do and of each loop over a Stream. All its
// other methods are those of the client within. Requests of a Session have no spans.
//
// A span has the kind client, and the attribute plex.pool.name, with [WithDBNames]
// db.client.connection.pool.name. Its name is "request" or "stream" and that of the pool, unless
// [WithRequest] gives one. It is a child of the span in ctx, and ctx goes on to the client with the
// span in it. That of a Stream lasts for as long as the loop, including what the loop's body does,
// and has the number of messages in plex.request.parts. If the loop was left before the last
// message, plex.request.left is true.
//
// The span of a request that failed has the status Error with the error's text, and:
//
//	error.type                a short word, see below
//	plex.request.maybe_sent   whether the server may have got the request
//	network.peer.address      of the connection that the request was given to, if to any;
//	network.peer.port         a request that succeeded does not know its connection
//	network.transport         tcp, udp or unix, if it is one of these
//
// error.type is canceled, closed (the client or the pool), no_connection, no_turn
// ([request.WithInFlight], [request.WithIDs]), deadline_exceeded (of ctx, while the request waited for
// its reply), slow ([request.ErrSlow]), parts ([request.ErrParts]), connection_failed, or _OTHER.
type Client[Q, R any] struct {
	*request.Client[Q, R]

	tracer     trace.Tracer
	pool       string
	describe   func(Q) (string, []attribute.KeyValue) // nil if there is none
	attributes []attribute.KeyValue
}

// Traced returns a client whose requests are traced, under the name of the pool. It makes its requests
// with c, which can still be used, and to close one is to close both.
func Traced[Q, R any](c *request.Client[Q, R], pool string, options ...Option) (*Client[Q, R], error) {
	const call = "Traced"
	cfg, err := configure(call, pool, options)
	if c == nil {
		err = errors.Join(errors.New("plexotel: "+call+": the client is nil; make one with request.New or request.NewOrdered"), err)
	}
	describe, ok := cfg.describe.(func(Q) (string, []attribute.KeyValue))
	if cfg.describe != nil && !ok {
		err = errors.Join(err, fmt.Errorf("plexotel: %s: WithRequest: the function is a %T; it must take a request of the client, a %s",
			call, cfg.describe, strings.TrimPrefix(fmt.Sprintf("%T", (*Q)(nil)), "*")))
	}
	if err != nil {
		return nil, err
	}
	return &Client[Q, R]{
		Client: c, pool: pool, describe: describe, attributes: cfg.named(),
		tracer: cfg.tracers.Tracer(scope, trace.WithInstrumentationVersion(version())),
	}, nil
}

// Do is [request.Client.Do] in a span.
func (c *Client[Q, R]) Do(ctx context.Context, request Q) (R, error) {
	if ctx == nil { // to be refused, and not to be made one
		return c.Client.Do(ctx, request)
	}
	ctx, span := c.start(ctx, "request", request)
	defer span.End()
	reply, err := c.Client.Do(ctx, request)
	fail(span, err)
	return reply, err
}

// Stream is [request.Client.Stream] in a span, which begins and ends with the loop.
func (c *Client[Q, R]) Stream(ctx context.Context, request Q) iter.Seq2[R, error] {
	if ctx == nil {
		return c.Client.Stream(ctx, request)
	}
	return func(yield func(R, error) bool) {
		ctx, span := c.start(ctx, "stream", request)
		parts, left := 0, true // also if the loop's body panics
		defer func() {
			span.SetAttributes(attribute.Int("plex.request.parts", parts))
			if left {
				span.SetAttributes(attribute.Bool("plex.request.left", true))
			}
			span.End()
		}()
		for part, err := range c.Client.Stream(ctx, request) {
			if err == nil {
				parts++
			} else {
				left = false
				fail(span, err)
			}
			if !yield(part, err) {
				return
			}
		}
		left = false
	}
}

// start begins the span of a request.
func (c *Client[Q, R]) start(ctx context.Context, what string, request Q) (context.Context, trace.Span) {
	options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(c.attributes...)}
	var name string
	if c.describe != nil {
		var attributes []attribute.KeyValue
		name, attributes = c.describe(request)
		options = append(options, trace.WithAttributes(attributes...))
	}
	if name == "" {
		name = what + " " + c.pool
	}
	return c.tracer.Start(ctx, name, options...)
}

// fail notes why a request failed, if it did.
func fail(span trace.Span, err error) {
	if err == nil || !span.IsRecording() {
		return
	}
	span.SetStatus(codes.Error, err.Error())
	var e *request.Error
	if !errors.As(err, &e) {
		e = &request.Error{Err: err, MaybeSent: true}
	}
	span.SetAttributes(attribute.String("error.type", errorType(e)), attribute.Bool("plex.request.maybe_sent", e.MaybeSent))
	span.SetAttributes(peer(e.Conn.RemoteAddr())...)
}

// errorType is a word for what went wrong. There are few of them, so that they can be counted.
func errorType(e *request.Error) string {
	var acquire *plex.AcquireError
	var wait *request.WaitError
	switch {
	case errors.Is(e, context.Canceled):
		return "canceled"
	case errors.Is(e, request.ErrClosed), errors.Is(e, plex.ErrClosed):
		return "closed"
	case errors.As(e, &acquire):
		return "no_connection"
	case errors.As(e, &wait):
		return "no_turn"
	case errors.Is(e, context.DeadlineExceeded):
		return "deadline_exceeded"
	case errors.Is(e, request.ErrSlow):
		return "slow"
	case errors.Is(e, request.ErrParts):
		return "parts"
	case e.Conn != (plex.Conn{}):
		return "connection_failed"
	}
	return "_OTHER"
}

// peer is the attributes for the remote address of a connection; nil if there is none.
func peer(addr net.Addr) []attribute.KeyValue {
	const (
		address   = attribute.Key("network.peer.address")
		port      = attribute.Key("network.peer.port")
		transport = attribute.Key("network.transport")
	)
	switch a := addr.(type) {
	case nil:
		return nil
	case *net.TCPAddr:
		return of(address.String(host(a.IP, a.Zone)), port.Int(a.Port), transport.String("tcp"))
	case *net.UDPAddr:
		return of(address.String(host(a.IP, a.Zone)), port.Int(a.Port), transport.String("udp"))
	case *net.UnixAddr:
		return of(address.String(a.Name), transport.String("unix"))
	}
	return of(address.String(addr.String()))
}

func host(ip net.IP, zone string) string { return (&net.IPAddr{IP: ip, Zone: zone}).String() }
