// Package plexotel gives the figures of a [plex.Multiplexer] to OpenTelemetry, and makes a span of
// each request of a [request.Client]. Two lines turn it on:
//
//	unregister, err := plexotel.Register(mux, "orders")        // metrics of the pool
//	client, err := plexotel.Traced(requests, "orders")         // a span for each Do and Stream
//
// It is a module of its own, so that package plex imports the standard library alone.
//
// # Metrics
//
// The first metrics have the shapes of the semantic conventions for connection pools. Their names
// begin with plex.connection, or with db.client.connection if [WithDBNames] is given. Each has the
// attribute plex.pool.name, with WithDBNames db.client.connection.pool.name.
//
//	count              by state, idle or used: connections open
//	max                most connections that may be open, the capacity
//	pending_requests   callers who wait for a reader or a writer
//	timeouts           acquires that failed by their timeout, see below
//	create_time        histogram: how long connects took, see Observer
//
// A connection is idle if its write half can be leased now, and used otherwise, so that the two add
// up to the connections that are open. plex leases the two halves separately, and the write half is
// what most callers want; many programs keep a read lease for as long as the connection lives, and
// to call all of those connections used would say nothing. half.count, below, has both halves.
//
// The conventions have no more than that for a pool like plex. It bounds idle connections by time
// and not by number, so there is no idle.max; idle.min and use_time are not known from outside.
//
// The others are plex's own. Their names begin with plex.connection also with WithDBNames:
//
//	half.count         by half, reader or writer, and by state: halves idle, and leased
//	connecting         connections on their way
//	backoff            seconds that are left of the pause before the next connect
//	acquires           by outcome: leased, timed_out, canceled, refused
//	connects           by outcome: connected, failed
//	losses             connections that failed or were killed
//	heals              lost connections replaced
//	retirements        healthy connections that plex has closed
//	suspected_leaks    leases that were held for longer than plex.WithLeakDetection allows
//	connect_time.sum   seconds that connects have taken, all added up
//	wait_time.sum      seconds that acquires have waited, all added up
//	wait_time.bucket   by le: acquires that have waited for less than so many seconds
//
// The attributes state, half and outcome have the prefix of their metric: plex.connection.state. The
// attribute le has none.
//
// An acquire that failed because its context ended, also by a deadline, is not among the timeouts
// but has the outcome canceled, as in [plex.Stats].
//
// # Durations
//
// The API of OpenTelemetry has no way to observe a histogram that somebody else has counted: it takes
// one duration after the other. (The SDK has producers, but each reader must be made with them, and
// views do not apply to them.) The pool tells of each connect, so create_time is a histogram as the
// conventions want it; that is what [Observer] is for. Of waits the pool tells no more than how many
// were how long, because there may be millions in a second. To make up durations that would fit the
// figures would be to invent them. So wait_time is there as what is known: the sum, and the counts
// below each bound, every one including those before it, as in a classic histogram of Prometheus.
// Both cover acquires that had to wait, whatever came of them. The mean wait is the rate of the sum
// by the rate of the bucket with le="+Inf". In PromQL histogram_quantile takes the buckets as they
// are, and gives the quantile of any interval:
//
//	histogram_quantile(0.99, sum by (le) (rate(plex_connection_wait_time_bucket_total[5m])))
//
// # Spans
//
// See [Client].
package plexotel
