package cases

// About has what a reader must know about the table under each heading.
var About = map[string]string{
	GroupAcquire: `Each goroutine takes a connection and gives it back at once, over and over. plex
leases a Writer, the other pools lend the connection. The bare channel is the limit: nothing hands a
value from one goroutine to another, first come first served, for less. net/http is missing, because
nobody can take a connection from its pool without making a request.

With one goroutine plex misses the target. The profile shows why: nearly all that plex adds to the
channel are two atomic operations on the word of the half, one when the lease begins and one when it
ends. They alone make about 1.34 of the channel. The first one could go only if the beginning of a
lease wrote nothing. Then the end of a connection, its expiry and a ready reader could not tell an
idle half from one that has just been taken, and would have to search the queue for it.

With several goroutines the word moves from core to core with every lease, as the channel does. That
is what plex adds there, and it keeps plex close to the target, on either side of it.`,

	GroupWait: `There are more goroutines than connections, and each goroutine holds its connection
for a while. A wait is the time between asking and having. The unevenness compares the goroutine
that was served most often with the one that was served least often: it is their difference, divided
by the mean. 0 is fair. Some pools let a running goroutine overtake those that sleep. Their median
wait may be short, but the goroutines that they leave asleep wait long. net/http is missing for the
same reason as above.`,

	GroupCancel: `What it costs when waiting callers give up, and what that costs the other callers.
net/http is missing for the same reason as above.`,

	GroupData: `One lease on one connection; the peer is in another process. The lease is compared
with the bare connection. The other pools lend the connection itself, so they have no lease that
data goes through. A lease adds two atomic operations to a small read or write, 10 ns together. It
also adds one more frame to return through, which the processor has not predicted after a system
call. That makes 15 to 40 ns in all, beside the 600 ns of the system call. At 64 B this is about the
target of 3 %, and more in some runs. Two changes made no difference when tried: calling the TCP
connection directly, and leaving out the protection from a transport that panics.`,

	GroupStream: `The channels of a lease, in chunks and byte by byte. A chunk belongs to its
receiver, so each chunk has memory of its own. A loop with one buffer needs none.

That is why RecvChunks misses its target. The profile shows that most of its time goes to the
garbage collector and to the kernel, which copies into memory that has just been allocated and is in
no cache. The limit for such a stream is a goroutine without plex that hands over each chunk in
memory of its own; it is measured beside the stream. Whoever wants the speed of one buffer uses
Read.

Byte by byte, nearly all of the time goes to the lock of the channel, which the sender and the
stream take in turns. Without its writes, Send reaches 0.95 of the bare channel. The rest goes to
the kernel and to the process at the other end, which share the two cores.`,

	GroupIdle: `What a pool of idle connections adds to a process, beyond the connections
themselves. net/http has two goroutines for each connection, one of which watches it. The other
pools do not watch their connections. With 1,000 connections, the fixed cost of a pool adds some
tens of bytes to each, and a hundred or more in some runs.`,

	GroupHeal: `The peer ends idle connections; a server goes away with all connections and comes
back; connections are reset at a steady rate under load. puddle, go-commons-pool and database/sql
look at a connection when they lend it, if at all, so they do not notice when an idle one dies.
net/http notices, and does not replace it.`,

	GroupScale: `Many callers come at once to a pool that has one connection. plex adds connections
only for callers that have waited for too long. The other pools connect at once for every caller
that finds no idle connection; they have no other way.`,

	GroupSizes: aboutSizes,

	GroupRequest: `Each goroutine sends a request and waits for the reply. With plex, one connection
carries many requests at the same time, and the number in a reply says which caller it is for, as
protocols with identifiers allow. The other pools lend a connection until the reply has come. That
is not the same work, and the difference is what multiplexing is for. net/http also has to write and
read HTTP.`,

	GroupMessage: `The two layers above leases. They are compared with what one would write without
plex, on connections that nobody heals: a loop for each connection, and a connection for each
caller.

The client by hand that package request is compared with gathers requests too, in 40 lines. It knows
no contexts, no lost connections, no bounds and no figures, and one goroutine for each connection
waits in Read. With few callers that makes the difference: in package request a few receivers serve
any number of connections, so each reply wakes the poller first and then a receiver. With receivers
that wait in Read, tried once, a lone caller reached 0.97 of the speed by hand.

The sender by hand writes while it holds its mutex. It forgets what it cannot write, and while the
peer is slow, nobody can queue. A message.Sender goes on accepting messages meanwhile, so its
goroutines and its Write compete for the processors and the mutex.`,

	GroupServices: `The clients of the examples for DNS, memcached and NATS, beside the clients that
everybody uses. The servers are in processes of their own. A client of miekg/dns or of gomemcache
waits for a reply before it sends the next request over a connection, so each of its callers needs a
connection. plex sends the requests of all callers over whichever of its eight connections is free.
Publish of nats.go puts the message into a buffer and returns. Publish of the example hands the
message to the operating system, or says that it could not.`,
}
