package cases

// aboutSizes stands under GroupSizes.
const aboutSizes = `What is done to all connections of a pool at once, or to all callers who wait.
The connections are in memory, since 50,000 of them are more than the descriptors of most processes.
The column plex has the largest size: 50,000 connections (20,000 or 10,000 where each costs much),
or 100,000 callers. The other columns have smaller ones, and below their figures stands how much
more each connection or caller costs in the largest. If that stays near 1, a pool that is ten times
as large takes ten times as long for all of it and no longer. All times are processor time, on all
cores.

Most costs are constant. Those that grow a little touch memory that no longer fits into the caches:
5,000 connections take 5 MB, and 50,000 take 50 MB. Stats looks at both halves of each connection,
and Conns also takes the lock for each. In the profile of an expiry, 30 % of the time goes to trying
connections that cannot be spared yet: the supervisor tries up to 64 of those that are due, and one
of them can leave. Each try is a miss of the cache in a large pool. Less than a tenth goes to the
heap in which connections lie in the order of their expiry. Renew costs more in a small pool,
because it pauses after each connection and a pause costs the scheduler some time. In a large pool
the pauses are shorter.

Five costs grow with the pool and should not. Each connect that fails copies the list of all losses.
With leak detection, the supervisor looks at all connections each time that it wakes up. A Duplex of
a connection that is ready searches the queue for the entry of its read half. Where no connection
has an idle read half, a Duplex takes all idle write halves out of the queue and gives them back.
And the callers who wait for one connection by its name stand in a slice, which moves up for each
that is served.

The lock is measured in a build of its own, which costs others nothing. Its longest holds are those
in which a slice grows, such as the list of losses, and the one in which Renew looks which of its
connections have gone. What counts is the processor time of the thread that holds the lock. Each
step is done twice and the shorter time counts, because a virtual machine may lose its processor
meanwhile.`
