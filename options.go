package plex

// Options write into a config; one validate checks them together, so that their order never
// matters. Nothing here opens, closes or starts anything.

import (
	"context"
	"log/slog"
	"net"
	"reflect"
	"time"

	"go.atomizer.io/plex/internal/caller"
	"go.atomizer.io/plex/internal/option"
)

const (
	// maxCapacity keeps a mistyped capacity from being an out-of-memory: the queues of idle halves
	// are allocated for it at once.
	maxCapacity = 1 << 20

	defaultConnectTimeout = 10 * time.Second
	defaultIdleTimeout    = 5 * time.Minute
	defaultLinger         = time.Second
	defaultRetireGrace    = 30 * time.Second
)

// Option sets up a Multiplexer in New. The order of options never matters; of the same option given
// twice the later one counts, except WithConnections, which adds up.
type Option func(*config)

// config is what the options say. A field is meaningless unless the matching set flag is on, so
// that a bad value can be told from none.
type config struct {
	connections    []net.Conn
	connect        Connect
	capacity       option.Value[int]
	minimum        option.Value[int]
	autoScaling    option.Value[time.Duration]
	idleTimeout    option.Value[time.Duration]
	maxLifetime    option.Value[time.Duration]
	connectTimeout option.Value[time.Duration]
	leakThreshold  option.Value[time.Duration]
	linger         option.Value[time.Duration]
	retireGrace    option.Value[time.Duration]
	name           option.Value[string]
	probe          option.Value[probing]
	trace          option.Value[Trace]
	maxConnecting  option.Value[int]
	maxWaiting     option.Value[int]
	failFast       option.Value[int]
	quietIdle      bool
	resolver       option.Value[resolving]
	backoff        func(failures int) time.Duration
	logger         *slog.Logger
	observer       func(Event)

	connectSet, backoffSet, loggerSet, observerSet bool
}

// WithConnections gives the first connections. The multiplexer owns them once New has returned
// without an error. Their number is the capacity unless WithMaxCapacity says otherwise, and the
// minimum that scaling down keeps unless WithMinConnections says otherwise.
func WithConnections(connections ...net.Conn) Option {
	return func(c *config) { c.connections = append(c.connections, connections...) }
}

// WithMaxCapacity sets the capacity: the most connections that are open or being connected at one
// moment. The default is the number of connections given or the minimum, whichever is more, and at
// least 1. Above those that there are at the start, or one, a pool grows only with WithAutoScaling,
// or by Add.
func WithMaxCapacity(max int) Option {
	return func(c *config) { c.capacity.Give(max) }
}

// WithConnector says how to connect: for healing, for scaling, and for the minimum. Without one a
// lost connection is dropped and not replaced.
func WithConnector(connect Connect) Option {
	return func(c *config) { c.connect, c.connectSet = connect, true }
}

// WithAutoScaling adds a connection, up to the capacity, whenever a Reader or Writer has been
// waited for longer than timeout. It needs a connector and a capacity above the connections that
// there are at the start. Off by default.
func WithAutoScaling(timeout time.Duration) Option {
	return func(c *config) { c.autoScaling.Give(timeout) }
}

// WithMinConnections makes New open connections until there are n, or fail; later on n are kept,
// and scaling down never goes below. The default is the number of connections given. It needs a
// connector if n is above that.
func WithMinConnections(n int) Option {
	return func(c *config) { c.minimum.Give(n) }
}

// WithIdleTimeout closes surplus connections: those above the minimum that nobody has needed for d.
// The default is 5 minutes with auto-scaling, and no timeout without. Without auto-scaling surplus
// connections, such as Add brings, are closed all the same and do not come back; only a pool of
// which none is left connects again for whoever waits, if it has a connector.
func WithIdleTimeout(d time.Duration) Option {
	return func(c *config) { c.idleTimeout.Give(d) }
}

// WithMaxLifetime replaces a connection that is older than d, less a jitter of up to 10 %, between
// leases. Off by default. It needs a connector.
func WithMaxLifetime(d time.Duration) Option {
	return func(c *config) { c.maxLifetime.Give(d) }
}

// WithLinger bounds the end of a connection that plex closes in good order, for its age, as surplus
// or by Shutdown: for so long plex reads what the peer still sends, until the peer has taken
// everything that was written. The default is 1 second.
func WithLinger(d time.Duration) Option {
	return func(c *config) { c.linger.Give(d) }
}

// WithRetireGrace bounds how long a connection that is to be retired is kept because something is
// expected of it: a reply, or the rest of a message, see [Conn.Pin]. What is still in flight then
// fails with ErrRetired. The default is 30 seconds.
func WithRetireGrace(d time.Duration) Option {
	return func(c *config) { c.retireGrace.Give(d) }
}

// WithConnectTimeout bounds one call of the connector: its context ends after d. The default is 10
// seconds.
func WithConnectTimeout(d time.Duration) Option {
	return func(c *config) { c.connectTimeout.Give(d) }
}

// WithBackoff sets the pause before the next connect after so many failures in a row, counted from
// 1. A pause below zero counts as none. The default starts below 100 ms, goes on with 250 ms × 1.6
// each ± 20 %, and stops at 30 s.
func WithBackoff(backoff func(failures int) time.Duration) Option {
	return func(c *config) { c.backoff, c.backoffSet = backoff, true }
}

// WithProbe has a connection that nobody has used for about idle asked whether it lives: by a ping of
// the protocol, say. ask gets the connection for itself, with a deadline of timeout set, and reads
// what it has asked for and no more. An error, or no answer in time, loses the connection, with
// [ErrProbe] as its cause, and it is replaced. The probes of many connections are spread in time. A
// connection that something is expected of, or that has something to deliver, is not probed. While
// one is, it counts as leased, and whoever needs just that one waits for as long as the answer takes;
// no probe begins while a caller waits for a connection.
//
// On protocols whose servers send by themselves ask may read what was meant for others; ping with
// package request's WithHeartbeat there, or by [Conn.Writer]. Off by default.
func WithProbe(idle, timeout time.Duration, ask func(ctx context.Context, conn net.Conn) error) Option {
	return func(c *config) { c.probe.Give(probing{idle, timeout, ask}) }
}

// WithQuietIdle is for protocols in which only requests are answered, such as SMTP, HTTP/1.1 or
// Redis without subscriptions. Bytes that arrive while both halves of a connection are idle, or that
// are unread when a [Duplex] closes, are a reply that somebody has given up, and the next caller
// would take it for its own. So they lose the connection, with [ErrOutOfStep] as the cause.
//
// What is expected of a connection without a lease on it does not count, see [Conn.Pin]; package
// request pins by itself. A greeting that the server sends first is for the connector to read. Where
// the system does not tell what has arrived, and for connections without a socket, each end of a
// Duplex takes up to a millisecond to look. Off by default.
func WithQuietIdle() Option {
	return func(c *config) { c.quietIdle = true }
}

// WithMaxConnecting bounds how many connects are under way at once, for whatever reason, for a
// service that bears few logins at a time. Without it a service that is well gets four at a time to
// heal, and more the longer that goes well, and up to 32 for callers who wait. It needs a connector.
func WithMaxConnecting(n int) Option {
	return func(c *config) { c.maxConnecting.Give(n) }
}

// WithMaxWaiting bounds how many callers wait at once for read halves, and how many for write
// halves: one more fails at once, with [ErrTooManyWaiting], which is better than to queue for longer
// than anyone has patience. With 0 nobody waits. Those who wait for what arrives, in ReadyReader,
// and for one connection, in Conn.Writer, do not count. By default there is no bound.
func WithMaxWaiting(n int) Option {
	return func(c *config) { c.maxWaiting.Give(n) }
}

// WithFailFast has acquires fail at once, with [ErrUnavailable] and the cause, while no connection is
// open and at least so many connects in a row have failed; also those that wait already. They go on
// to count as demand, so the service is connected to as soon as the backoff allows, and the first
// connect that succeeds ends it. By default callers wait for as long as their timeout allows. It
// needs a connector.
func WithFailFast(failures int) Option {
	return func(c *config) { c.failFast.Give(failures) }
}

// WithName names the pool in logs, errors and events, for programs that have several.
func WithName(name string) Option {
	return func(c *config) { c.name.Give(name) }
}

// WithLeakDetection reports leases that are held for longer than threshold, with the stack that
// took them, to the logger, each when it is half as old again at the latest. It costs a clock
// reading and a stack for every lease. Off by default.
func WithLeakDetection(threshold time.Duration) Option {
	return func(c *config) { c.leakThreshold.Give(threshold) }
}

// WithLogger logs losses, heals, scaling and suspected leaks. By default nothing is logged.
func WithLogger(logger *slog.Logger) Option {
	return func(c *config) { c.logger, c.loggerSet = logger, true }
}

// WithObserver has observe called for each event of the pool, in order, one at a time, in a
// goroutine of plex's own and under no lock: it may take its time and call the multiplexer. Nothing
// is told of single leases; see WithTrace for those. [Multiplexer.Observe] is for those who come
// later. An observer that falls behind by 65,536 events misses some, see [Event]. Of one that
// panics, the event is lost that it was called for.
func WithObserver(observe func(Event)) Option {
	return func(c *config) { c.observer, c.observerSet = observe, true }
}

// WithTrace has functions called around leases, for tracing and for finding out who waits for what.
// Off by default.
func WithTrace(trace Trace) Option {
	return func(c *config) { c.trace.Give(trace) }
}

// configure applies the options and fills in the defaults. Its error joins all that is wrong, so
// that one run is enough to mend it.
func configure(opts []Option) (*config, error) {
	c := &config{}
	problems := option.Apply("plex", "New", c, opts)
	c.validate(problems)
	if err := problems.Err(); err != nil {
		return nil, err
	}

	given := len(c.connections)
	c.capacity.Give(c.capacity.Or(max(given, c.minimum.Or(0), 1)))
	c.minimum.Give(c.minimum.Or(given))
	c.connectTimeout.Give(c.connectTimeout.Or(defaultConnectTimeout))
	c.linger.Give(min(c.linger.Or(defaultLinger), maxWait))
	c.retireGrace.Give(min(c.retireGrace.Or(defaultRetireGrace), maxWait))
	if r := c.resolver.Get(); c.resolver.Given() {
		if r.every == 0 {
			r.every = defaultEvery
		}
		r.every = min(r.every, maxWait)
		c.resolver.Give(r)
	}
	if c.autoScaling.Given() && !c.idleTimeout.Given() {
		c.idleTimeout.Give(defaultIdleTimeout)
	}
	return c, nil
}

// validate finds all that is wrong with the values and their combination.
func (c *config) validate(problems *option.Problems) {
	wrong := problems.Add

	given := len(c.connections)
	seen := make(map[any]int, given)
	for i, nc := range c.connections {
		if caller.IsNil(nc) {
			wrong("WithConnections", "connection %d of %d is nil; give only open connections: %w", i+1, given, ErrNilConnection)
			continue
		}
		key, ok := identity(nc)
		if !ok {
			continue
		}
		if first, twice := seen[key]; twice {
			wrong("WithConnections", "connection %d of %d is the same as connection %d; give each one once: %w", i+1, given, first, ErrKnownConnection)
			continue
		}
		seen[key] = i + 1
	}

	capacity, goodCapacity := c.capacity.Or(max(given, c.minimum.Or(0), 1)), true
	if c.capacity.Given() {
		switch {
		case capacity < 1:
			wrong("WithMaxCapacity", "the capacity is %d; it must be at least 1", capacity)
			goodCapacity = false
		case capacity > maxCapacity:
			wrong("WithMaxCapacity", "the capacity is %d; it must be at most %d", capacity, maxCapacity)
		case capacity < given:
			wrong("WithMaxCapacity", "the capacity is %d, but WithConnections gives %d connections; it must be at least %d", capacity, given, given)
		}
	}

	if c.connectSet && c.connect == nil {
		wrong("WithConnector", "the connector is nil; give a Connect function, or Dial, DialContext or DialFunc, which return nil for a nil dialer")
	}
	needsConnector := func(option string) {
		if !c.connectSet {
			wrong(option, "there is no connector to connect with; add WithConnector")
		}
	}

	if c.minimum.Given() {
		minimum := c.minimum.Get()
		if minimum < 0 {
			wrong("WithMinConnections", "the minimum is %d; it must be at least 0", minimum)
		}
		if goodCapacity && minimum > capacity {
			wrong("WithMinConnections", "the minimum is %d, but the capacity is %d; raise WithMaxCapacity to at least %d", minimum, capacity, minimum)
		}
		if minimum > given {
			needsConnector("WithMinConnections")
		}
	}

	problems.Positive("WithAutoScaling", c.autoScaling)
	problems.Positive("WithIdleTimeout", c.idleTimeout)
	problems.Positive("WithMaxLifetime", c.maxLifetime)
	problems.Positive("WithConnectTimeout", c.connectTimeout)
	problems.Positive("WithLeakDetection", c.leakThreshold)
	problems.Positive("WithLinger", c.linger)
	problems.Positive("WithRetireGrace", c.retireGrace)
	if c.maxLifetime.Given() {
		needsConnector("WithMaxLifetime")
	}
	if p := c.probe.Get(); c.probe.Given() {
		switch {
		case p.ask == nil:
			wrong("WithProbe", "the function is nil; leave the option out, or give one that asks whether the connection lives")
		case p.idle <= 0:
			wrong("WithProbe", "the idle time is %v; it must be above zero", p.idle)
		case p.timeout <= 0:
			wrong("WithProbe", "the timeout is %v; it must be above zero", p.timeout)
		}
	}
	if r := c.resolver.Get(); c.resolver.Given() {
		needsConnector("WithResolver")
		switch {
		case r.ask == nil:
			wrong("WithResolver", "the resolver is nil; give Addresses, DNS, SRV or a function, or leave the option out")
		case r.every < 0:
			wrong("WithResolver", "the interval is %v; it must be above zero, or zero for %v", r.every, defaultEvery)
		}
	}
	problems.AtLeast("WithMaxConnecting", "bound", c.maxConnecting, 1)
	problems.AtLeast("WithMaxWaiting", "bound", c.maxWaiting, 0)
	problems.AtLeast("WithFailFast", "number of failures", c.failFast, 1)
	if c.maxConnecting.Given() {
		needsConnector("WithMaxConnecting")
	}
	if c.failFast.Given() {
		needsConnector("WithFailFast")
	}
	if c.name.Given() && c.name.Get() == "" {
		wrong("WithName", "the name is empty; give one or leave the option out")
	}
	if c.autoScaling.Given() {
		needsConnector("WithAutoScaling")
		if start := max(given, c.minimum.Or(0)); goodCapacity && capacity <= start {
			wrong("WithAutoScaling", "the capacity is %d and %d connections are there from the start, so there is no room to grow; raise WithMaxCapacity above %d", capacity, start, start)
		}
	}

	if c.backoffSet && c.backoff == nil {
		wrong("WithBackoff", "the function is nil; leave the option out for the default backoff")
	}
	if c.trace.Given() && !c.trace.Get().watches() {
		wrong("WithTrace", "the trace has no function; give it one, or leave the option out")
	}
	if c.observerSet && c.observer == nil {
		wrong("WithObserver", "the function is nil; leave the option out if nobody listens")
	}
	if c.loggerSet && c.logger == nil {
		wrong("WithLogger", "the logger is nil; leave the option out for silence")
	}
}

// identity returns nc as a map key. A connection of a type that cannot be compared has no identity
// that could be checked.
func identity(nc net.Conn) (any, bool) {
	if !reflect.ValueOf(nc).Comparable() {
		return nil, false
	}
	return nc, true
}
