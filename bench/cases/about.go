package cases

// About says, for each heading, what has to be known to read its table.
var About = map[string]string{
	GroupAcquire: `A connection is taken and given back at once, over and over. plex lends out a Writer, the others a connection.
The bare channel is the limit: handing something from one goroutine to another, first come first served, cannot be had
for less. net/http is missing because a connection cannot be taken from its pool without making a request.

With one goroutine the target is missed, and the profile says why: nearly all that plex adds to the channel are two
atomic operations on the half's word, one to begin the lease and one to end it, which makes about 1.34 the floor. The
first could go only if nothing were written when a lease begins; then the end of a connection, its expiry and a ready
reader could not tell an idle half from one that has just been taken, and would have to search the queue for it.

With several goroutines the half's word moves from core to core with every lease, as the channel does, and that is what
plex adds there: close to the target, on this side of it or on that.`,

	GroupWait: `More goroutines than connections, and each holds its connection for a while. A wait is from asking to having;
the unevenness is by how much the goroutine that was served most often was served more often than the one that was
served least, over the mean: 0 is fair. A pool that lets the goroutine that runs overtake those that sleep can show a
short median wait, with a long wait at the end of the distribution for those that it leaves asleep. net/http is missing
for the same reason as above.`,

	GroupCancel: `What it costs when those who wait give up, and what it costs the others. net/http is missing for the
same reason as above.`,

	GroupData: `One lease on one connection, and the peer in another process. The bare connection is what a lease is
compared with; no other pool has a lease that data goes through, as they hand out the connection itself. What a lease
adds to a small read or write are two atomic operations, 10 ns together, and one more frame to return through, which
after a system call the processor has not foreseen: 15 to 40 ns in all, beside the 600 ns of the system call. At 64 B
that is about the target of 3 %, and in some runs more. To call the TCP connection directly, or to do without the
protection from a transport that panics, made no difference when tried.`,

	GroupStream: `The channels of a lease, in chunks and byte by byte. A chunk belongs to its receiver, so each takes
memory of its own, which a loop with one buffer does not.

That is why RecvChunks misses its target: by the profile most of its time is the kernel's, copying into memory that has just been
allocated and is in no cache, and the garbage collector's. The limit of any such stream is what a goroutine without plex
reaches that hands over each chunk in memory of its own, which is measured beside it. Who wants the speed of one buffer
uses Read, which has it.

Byte by byte, nearly all of the time is the channel's own lock, which sender and stream take in turns. With its writes
left out, Send reaches 0.95 of the bare channel; what is below that is the kernel's work and that of the process at the
other end, which share the two cores.`,

	GroupIdle: `What is added to a process by a pool of connections that idle, over what the connections take themselves. The
transport of net/http has two goroutines for each, one of which watches it; the other pools do not watch
theirs. With 1,000 connections, what a pool costs once adds some tens of bytes to each, in some runs a hundred and more.`,

	GroupHeal: `Idle connections that the peer ends, a server that goes away with all connections and comes back, and
a steady rate of resets under load. puddle, go-commons-pool and database/sql look at a connection only when they lend it
out, if at all, so they do not see an idle one die; net/http sees it and does not replace it.`,

	GroupScale: `Many callers at once on a pool that has one connection. plex adds connections only for those who have
waited for longer than they should; the others connect at once for whoever finds none idle, and cannot do otherwise.`,

	GroupRequest: `Each goroutine sends a request and waits for its reply. Over plex many requests are on their way over one
connection, and a reply finds its caller by the number in it, as protocols with identifiers allow; over the other
pools a connection is lent out until the reply has come. That is not the same work: it is what the multiplexing is for.
net/http has to write and read HTTP, too.`,

	GroupMessage: `The two layers above leases. What they are compared with is what one would write without plex, on connections
that nobody heals: a loop for each connection, and a connection for each caller.

The client by hand that package request is compared with gathers requests, too, in 40 lines. It knows no contexts, no lost
connections, no bounds, no figures, and has a goroutine that waits in Read for each connection. With few callers that is
the difference: a few receivers serve any number of connections, so each reply wakes the poller first and then a
receiver. With receivers that wait in Read, tried once, a lone caller had 0.97 of the speed by hand.`,

	GroupServices: `The clients of the examples for DNS, memcached and NATS, beside those that everybody uses, against servers
in processes of their own. A client of miekg/dns or of gomemcache waits for a reply before it sends the next request over
a connection, so each of its callers needs a connection. plex sends the requests of all callers over whichever of its eight
connections is free. A Publish of nats.go puts the message into a buffer and returns; that of the example hands it to the
operating system, or says that it could not.`,
}
