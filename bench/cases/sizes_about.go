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
and Conns also takes the lock for each. Renew costs more in a small pool, because it pauses after
each connection and a pause costs the scheduler some time. In a large pool the pauses are shorter.

One cost grows with the pool and should not: a Duplex of a connection that is ready searches the
queue for the entry of its read half.

The lock is measured in a build of its own, which costs others nothing. Its longest holds are those
in which the list of all connections grows. What counts is the processor time of the thread that
holds the lock. Each step is done twice and the shorter time counts, because a virtual machine may
lose its processor meanwhile.`
