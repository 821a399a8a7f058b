package request

// Options write into a config, and validate checks them together, so their order never matters.

import (
	"math"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/option"
	"go.atomizer.io/plex/message"
)

const (
	defaultReceivers    = 4
	defaultDepth        = 1024
	defaultWriteBuffer  = 64 << 10
	defaultWriteTimeout = 10 * time.Second

	// maxReceivers keeps a mistyped number from starting millions of goroutines.
	maxReceivers = 1 << 16

	maxWriteBuffer = 1 << 30

	defaultStreamBuffer = 16 << 20

	// fewIDs is the number of identifiers from which on one that was given up can be used again: by
	// the time that all others have been used, its late reply has come or never will.
	fewIDs = 1 << 32
)

// Option configures a Client in New or NewOrdered. The order of options never matters. If the same option is
// given twice, the later one counts.
type Option func(*config)

// config is what the options say.
type config struct {
	minID, maxID   uint64
	idsBy          string // the option that set them; "" if none did
	randomIDs      bool
	inFlight       option.Value[int]
	receivers      option.Value[int]
	maxSize        option.Value[int]
	acquireTimeout option.Value[time.Duration]
	writeBuffer    option.Value[int]
	writeTimeout   option.Value[time.Duration]
	depth          option.Value[int]
	streamBuffer   option.Value[int]
	stallTimeout   option.Value[time.Duration]
	idle, pong     option.Value[time.Duration] // of WithHeartbeat
	pulses         *pulses                     // nil if nobody needs them
	perConn        option.Value[int]
	unsolicited    func(message.Message)
	hookSet        bool
}

// WithIDs sets which identifiers the protocol has room for: 0 to max. The default is all of 64
// bits; DNS has 1<<16-1.
//
// If there are fewer than 1<<32, the identifier of a request that its context has ended is not used
// again before its late reply has come or its connection has ended. When no identifier is free, Do
// waits for one, first come, first served. Of more than 1<<16 identifiers an eighth is kept free,
// so that the next free one is found quickly. If many replies never come, as over datagrams or from
// a server that drops requests, use plex.WithMaxLifetime: connections then end from time to time,
// which frees their identifiers. See also [Canceler].
func WithIDs(max uint64) Option { return idRange("WithIDs", 0, max) }

// WithIDRange is [WithIDs] for identifiers from min to max: for protocols in which 0 means something
// else, and for several clients that share a service and must not use the same identifiers.
func WithIDRange(min, max uint64) Option { return idRange("WithIDRange", min, max) }

func idRange(name string, min, max uint64) Option {
	return func(c *config) { c.minID, c.maxID, c.idsBy = min, max, name }
}

// WithRandomIDs has each identifier drawn from all that are free, by crypto/rand, so that nobody can
// predict it: for protocols over UDP such as DNS, where somebody else may send a reply and guess.
// The more identifiers there are, see WithIDs, the harder that is. A late reply to one of 1<<32
// identifiers or more counts as Unknown.
func WithRandomIDs() Option {
	return func(c *config) { c.randomIDs = true }
}

// WithInFlight bounds the requests in flight. Further calls of Do wait, first come, first served,
// until one of the requests in flight ends or their own context does. Without this option only
// WithIDs sets a bound.
func WithInFlight(n int) Option {
	return func(c *config) { c.inFlight.Give(n) }
}

// WithDepth sets how many requests may be unanswered on one connection, for [NewOrdered]. The default
// is 1024. A connection that has so many gets no more; if all have, requests wait for a connection.
// With 1, a request is written when the connection's previous one has been answered.
func WithDepth(n int) Option {
	return func(c *config) { c.depth.Give(n) }
}

// WithInFlightPerConn sets how many requests may be unanswered on one connection, for [New]: as many
// as the server bears. A connection that has so many gets no more, and requests go over one that has
// room. If none has, they wait for a connection, see [WithAcquireTimeout]; the multiplexer sees that
// as demand and scales up. By default there is no bound.
//
// A request that was given up counts until its reply has come, because the server may still be at
// work on it. If there are more than 1<<16 identifiers, it counts until it is cancelled, see
// [Canceler]. Over datagrams it does not count, because its reply may be lost.
func WithInFlightPerConn(n int) Option {
	return func(c *config) { c.perConn.Give(n) }
}

// WithAcquireTimeout bounds how long a request waits for a connection to be written to. By default
// only its context does.
func WithAcquireTimeout(d time.Duration) Option {
	return func(c *config) { c.acquireTimeout.Give(d) }
}

// WithWriteBuffer sets how many bytes of requests that are made at the same time are gathered for
// one Write at most. The default is 64 KiB. With 0, each request is written by itself. Requests of
// more than 8 KiB always are, and so is each datagram.
func WithWriteBuffer(bytes int) Option {
	return func(c *config) { c.writeBuffer.Give(bytes) }
}

// WithWriteTimeout sets how long a peer may take to accept what is written. After that its
// connection is killed, and the requests on it fail with an error that matches
// [os.ErrDeadlineExceeded]. The default is 10 seconds. A peer that has stopped reading delays only
// the requests that were being written to it.
func WithWriteTimeout(d time.Duration) Option {
	return func(c *config) { c.writeTimeout.Give(d) }
}

// WithStallTimeout finds connections that hang: while there are requests in flight over a connection
// and nothing has come over it for d, not a byte, it is killed. Its requests fail with an error that
// matches [ErrStalled] and names the connection; other connections are not touched. It takes a
// quarter of d longer at most. By default nothing is done.
//
// Choose d longer than the server may need for the slowest request that may be alone on a connection.
// Requests that their contexts have ended count if nothing has come since, so contexts that end
// sooner do not hide a connection that hangs. A Write that lasts is for [WithWriteTimeout], and the
// requests of a [Session] are bounded by their contexts alone.
func WithStallTimeout(d time.Duration) Option {
	return func(c *config) { c.stallTimeout.Give(d) }
}

// WithHeartbeat finds connections that are dead without anybody having said so, also while no requests
// are made. A connection that has brought nothing for the time idle, not a byte, is sent the request
// that the protocol's Ping returns, see [Pinger]. If it brings nothing within the timeout either, it
// is killed, and the requests on it fail with an error that matches [ErrStalled]. Both take a
// quarter longer at most. A connection that brings anything is never pinged.
//
// With [NewOrdered] a connection is pinged only if no reply is owed on it: a ping would be answered
// behind that. WithStallTimeout is for requests. A connection that is being written to, one of a
// session, and one that has no room (see [WithInFlightPerConn]) are not pinged.
//
// Pings keep no connection from being retired, and do not count as requests.
func WithHeartbeat(idle, timeout time.Duration) Option {
	return func(c *config) {
		c.idle.Give(idle)
		c.pong.Give(timeout)
	}
}

// WithStreamBuffer sets how many bytes of messages one call of [Client.Stream] keeps that its loop has
// not taken yet. A stream whose loop is slower than the server by more than that fails with
// [ErrSlow]. The default is 16 MiB. Each part counts as 64 bytes more than its message has.
func WithStreamBuffer(bytes int) Option {
	return func(c *config) { c.streamBuffer.Give(bytes) }
}

// WithReceivers sets the number of goroutines that read replies, parse them and hand them to their
// callers. The default is 4. They serve any number of connections.
func WithReceivers(n int) Option {
	return func(c *config) { c.receivers.Give(n) }
}

// WithMaxSize bounds the size of a message from the server, in bytes. A connection that brings a
// longer one is killed. The default is that of package message, 1 MiB.
func WithMaxSize(bytes int) Option {
	return func(c *config) { c.maxSize.Give(bytes) }
}

// WithUnsolicited sets a function for messages that are no replies (see ErrNotReply). The function
// owns the messages. The receiving goroutines call it, so several calls may run at once. It must
// not block, because its goroutine reads no replies meanwhile; pass what takes longer to another
// goroutine or a channel. It must not call the client's Close, which waits for it. If it panics,
// only that message is lost; the panic is counted in Stats.
func WithUnsolicited(hook func(message.Message)) Option {
	return func(c *config) { c.unsolicited, c.hookSet = hook, true }
}

// configure applies the options and fills in the defaults. Its error joins everything that is
// wrong, so that one run is enough to find it all.
func configure(call string, options []Option) (*config, error) {
	c := &config{maxID: math.MaxUint64}
	c.receivers.Give(defaultReceivers)
	c.writeBuffer.Give(defaultWriteBuffer)
	c.writeTimeout.Give(defaultWriteTimeout)
	problems := option.Apply("request", "New", c, options)
	c.validate(problems)
	if call == "New" && c.depth.Given() {
		problems.Add("WithDepth", "it is for NewOrdered; use WithInFlightPerConn")
	}
	if call == "NewOrdered" {
		const none = "the requests have no identifiers; leave the option out, or use New"
		if c.idsBy != "" {
			problems.Add(c.idsBy, none)
		}
		if c.randomIDs {
			problems.Add("WithRandomIDs", none)
		}
		if c.perConn.Given() {
			problems.Add("WithInFlightPerConn", "it is for New; use WithDepth")
		}
		if c.streamBuffer.Given() {
			problems.Add("WithStreamBuffer", "it is for New; only a protocol with identifiers can have several messages to a request")
		}
		if !c.depth.Given() {
			c.depth.Give(defaultDepth)
		}
	}
	if !c.streamBuffer.Given() {
		c.streamBuffer.Give(defaultStreamBuffer)
	}
	if c.stallTimeout.Given() || c.idle.Given() {
		c.pulses = &pulses{of: make(map[plex.Conn]*pulse)}
	}
	return c, problems.Err()
}

// validate finds everything that is wrong with the values.
func (c *config) validate(problems *option.Problems) {
	wrong := problems.Add
	if n := c.inFlight; n.Given() && n.Get() < 1 {
		wrong("WithInFlight", "the bound is %d; it must be at least 1, or leave the option out for none", n.Get())
	}
	if c.minID > c.maxID {
		wrong(c.idsBy, "the range is from %d to %d; the first must not be above the last", c.minID, c.maxID)
	}
	if n := c.depth; n.Given() && n.Get() < 1 {
		wrong("WithDepth", "the depth is %d; it must be at least 1", n.Get())
	}
	if n := c.perConn; n.Given() && n.Get() < 1 {
		wrong("WithInFlightPerConn", "the bound is %d; it must be at least 1, or leave the option out for none", n.Get())
	}
	switch n := c.receivers.Get(); {
	case n < 1:
		wrong("WithReceivers", "the number is %d; it must be at least 1", n)
	case n > maxReceivers:
		wrong("WithReceivers", "the number is %d; it must be at most %d, and a few are enough", n, maxReceivers)
	}
	if n := c.maxSize; n.Given() && n.Get() < 1 {
		wrong("WithMaxSize", "the size is %d bytes; it must be at least 1", n.Get())
	}
	problems.Positive("WithAcquireTimeout", c.acquireTimeout)
	if n := c.writeBuffer.Get(); n < 0 || n > maxWriteBuffer {
		wrong("WithWriteBuffer", "the size is %d bytes; it must be from 0, which gathers nothing, to %d", n, maxWriteBuffer)
	}
	problems.Positive("WithWriteTimeout", c.writeTimeout)
	problems.Positive("WithStallTimeout", c.stallTimeout)
	if c.idle.Given() && (c.idle.Get() <= 0 || c.pong.Get() <= 0) {
		wrong("WithHeartbeat", "the times are %v and %v; both must be above zero", c.idle.Get(), c.pong.Get())
	}
	if n := c.streamBuffer; n.Given() && n.Get() < 1 {
		wrong("WithStreamBuffer", "the size is %d bytes; it must be at least 1", n.Get())
	}
	if c.hookSet && c.unsolicited == nil {
		wrong("WithUnsolicited", "the function is nil; leave the option out to have such messages dropped")
	}
}
