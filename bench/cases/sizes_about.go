package cases

// aboutSizes stands under GroupSizes.
const aboutSizes = `What is done to all connections of a pool at once, or to all callers who wait. The
connections are in memory, since 50,000 of them are more than the descriptors of most processes. The
column plex has the largest size: 50,000 connections, 100,000 callers. The other columns have
smaller ones, and below their figures stands how much more each connection or caller costs in the
largest. If that stays near 1, a pool that is ten times as large takes ten times as long for all of
it and no longer. All times are processor time, on all cores.`
