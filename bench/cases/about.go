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

	GroupDuplex: `The same as above for whole connections, which is what other pools lend. plex lends a
Duplex: both halves of one connection. The bare channel is the limit again. The channel pool puts a
wrapper around each connection that it lends, whose Close gives the connection back, as fatih/pool
does; unlike that, it waits when none is idle. Nothing is read or written, so these figures say nothing
about what comes after the acquire.`,

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

So a lone caller misses the target. By profile its request takes 1.8 times the processor time of one by
hand, although Write and Read take the same. Of what plex takes more, three tenths are the goroutine of
the poller (epoll_wait, and the hand-over to the queue of ready readers), a quarter is the runtime's
scheduler, which has one goroutine more to wake, and a quarter is the receiver (a good third of it is
epoll_ctl, which arms the connection again). The rest is in Do: the table of calls, the gathering and
the lease of a writer. Most of it is the way of the reply through two other goroutines: a lone caller
that leases a Duplex for each request and reads the reply itself, in a pool of the same kind, is about
as fast as one by hand.

The sender by hand writes while it holds its mutex. It forgets what it cannot write, and while the
peer is slow, nobody can queue. A message.Sender goes on accepting messages meanwhile, so its
goroutines and its Write compete for the processors and the mutex.`,

	GroupOpen: `Elsewhere a caller begins its next request when it has the reply to the last one, so a slow
moment makes all callers ask less, and few of them see it. Here requests are begun at a fixed rate
whatever becomes of those before, each in a goroutine of its own, and the time of a reply counts from
when the request was due. All subjects of a row have the same rate: half of what 128 callers in a closed
loop reach with the slowest of them, measured at the start of the row under the same conditions. So the
rate differs from row to row and from machine to machine; the figures show how soon replies come when
there is room, and not how many there can be. One goroutine begins all requests. It sleeps between
them, so some are late before any client has seen them, by what stands in the last line of each row.
That is part of the time of the reply.

In the rows with busy processors, a goroutine for each of them computes without end. The scheduler takes
a processor away from such a goroutine only after 10 ms, so each goroutine that a reply has to pass
through can cost as much.`,

	GroupProcs: `Two of the comparisons with other numbers of processors: GOMAXPROCS is set for each turn, and
the peer, a process of its own, keeps what the system gives it. So with as many as the machine has, both
compete. The ratios to the other subjects count here, not the figures from one row to the next.`,

	GroupRedis: `The client of examples/redis, on request.NewOrdered, beside the clients that everybody uses.
All subjects of a row ask one and the same redis-server, a process of its own on the same machine, for
values that are there. The replies come from the server and from no cache. What is not measured:
writes, large values, transactions, and a server on another machine. There a round trip takes longer,
and the work of the clients counts for less.

rueidis runs as its documentation has it, with automatic pipelining. It has 4 connections, as many as
plex; that is its own choice on machines with 4 processors or more. With many callers it is faster over
a single connection, because then its batches are larger and the server has fewer of them to read. So
that is shown too. plex forms its batches before it chooses a connection and gains little from having
only one.

A lone caller of rueidis or go-redis writes, and then reads the reply in the same goroutine. In plex the
reply passes through the poller and a receiver, two goroutines more, and that makes the difference.

go-redis lends a connection to a caller until the reply has come. Its pool has 64 connections, which is
more than it has by itself on a small machine; with 20 it was slower, and with 256 or 1,000 no faster.
Its AutoPipeline gathers too; its makers call it experimental. With 64 callers, go-redis reaches about
a third of what this server gives to the fastest client of the row, so on two processors none can be
five times as fast.`,

	GroupServices: `The clients of the examples for DNS, memcached and NATS, beside the clients that
everybody uses. The servers are in processes of their own. A client of miekg/dns or of gomemcache
waits for a reply before it sends the next request over a connection, so each of its callers needs a
connection. plex sends the requests of all callers over whichever of its eight connections is free.
Publish of nats.go puts the message into a buffer and returns. Publish of the example hands the
message to the operating system, or says that it could not. That is a Write for each message, unless
the caller hands over many at once, and a Write takes longer than everything else here: so plex is
behind nats.go there. Publish of nats.go with a Flush promises more, since the server has answered.

The servers are on the same machine, where they take a good part of the processors. A client that needs
less leaves more to them, and shows less of a difference than it would beside a server on another
machine. That is what the DNS rows miss their target by. By profile the process with plex's client takes
a fifth of the processors while they run. The server takes the rest: it parses each query, and writes
each reply, by itself.`,
}
