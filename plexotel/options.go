package plexotel

// Options, and what Register, Observer and Traced share: the names and the attributes.

import (
	"errors"
	"fmt"
	"runtime/debug"
	"slices"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

const (
	scope = "go.atomizer.io/plex/plexotel"

	plexPrefix = "plex.connection."
	dbPrefix   = "db.client.connection."

	plexPoolKey = attribute.Key("plex.pool.name")
	dbPoolKey   = attribute.Key("db.client.connection.pool.name")
)

// Option sets up [Register], [Observer] or [Traced]. An option that does not concern a function is
// ignored by it, so the same options can be given to all three.
type Option func(*config)

// config is what the options say.
type config struct {
	pool       string
	dbNames    bool
	attributes []attribute.KeyValue
	meters     metric.MeterProvider
	tracers    trace.TracerProvider
	describe   any // a func(Q) (string, []attribute.KeyValue); nil if there is none
}

// WithDBNames gives metrics that the semantic conventions for databases know the names that they
// have there, db.client.connection.count for example, and the pool the attribute
// db.client.connection.pool.name. It is for pools of connections to databases, whose dashboards
// expect these names.
func WithDBNames() Option {
	return func(c *config) { c.dbNames = true }
}

// WithAttributes adds attributes to all metrics and spans, such as server.address. They must be the
// same for as long as the pool lives, and few.
func WithAttributes(attributes ...attribute.KeyValue) Option {
	return func(c *config) { c.attributes = append(c.attributes, attributes...) }
}

// WithMeterProvider says where metrics go. The default is the global provider.
func WithMeterProvider(p metric.MeterProvider) Option {
	return func(c *config) { c.meters = p }
}

// WithTracerProvider says where spans go. The default is the global provider.
func WithTracerProvider(p trace.TracerProvider) Option {
	return func(c *config) { c.tracers = p }
}

// WithRequest has describe name the span of a request, and give attributes for it. It is called once
// for each request, before the span begins, in the goroutine of the caller. Names should be few, such
// as "GET" or "search": what differs with every request belongs into attributes. An empty name stands
// for the default. Q must be the type of the client's requests, else [Traced] fails.
func WithRequest[Q any](describe func(request Q) (name string, attributes []attribute.KeyValue)) Option {
	return func(c *config) {
		c.describe = describe
		if describe == nil {
			c.describe = nil
		}
	}
}

// configure applies the options. Its error joins all that is wrong. call is the function's name.
func configure(call, pool string, options []Option) (*config, error) {
	c := &config{pool: pool}
	var wrong []error
	if pool == "" {
		wrong = append(wrong, fmt.Errorf("plexotel: %s: the name of the pool is empty; give one, such as that of the service", call))
	}
	for i, option := range options {
		if option == nil {
			wrong = append(wrong, fmt.Errorf("plexotel: %s: option %d of %d is nil; leave it out or give an option", call, i+1, len(options)))
			continue
		}
		option(c)
	}
	if c.meters == nil {
		c.meters = otel.GetMeterProvider()
	}
	if c.tracers == nil {
		c.tracers = otel.GetTracerProvider()
	}
	return c, errors.Join(wrong...)
}

// meter returns the meter for all metrics.
func (c *config) meter() metric.Meter {
	return c.meters.Meter(scope, metric.WithInstrumentationVersion(version()))
}

// named returns the attributes that everything has, and more.
func (c *config) named(more ...attribute.KeyValue) []attribute.KeyValue {
	pool := plexPoolKey
	if c.dbNames {
		pool = dbPoolKey
	}
	return slices.Concat([]attribute.KeyValue{pool.String(c.pool)}, c.attributes, more)
}

// set is named as an option for a measurement.
func (c *config) set(more ...attribute.KeyValue) metric.MeasurementOption {
	return metric.WithAttributeSet(attribute.NewSet(c.named(more...)...))
}

// prefix begins the names that the semantic conventions know.
func (c *config) prefix() string {
	if c.dbNames {
		return dbPrefix
	}
	return plexPrefix
}

// version returns the version of this module in the program; empty if it is not known.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range info.Deps {
		if m.Path == scope {
			return m.Version
		}
	}
	return ""
}
