// Package faulttest holds the proof that plex survives faults; it is a module of its own so that users of plex inherit
// nothing of it.
//
// The tests of this folder are the table of faults, a test for every row, over real sockets and the proxy, and with the
// kernel's own means where those are called for (network namespaces, ss -K, limits). What they are made of:
//
//   - oracle: streams whose bytes say where they belong;
//   - proxy: a TCP proxy that does to connections what networks and servers do;
//   - check: what must always hold, as checks;
//   - scaffold: what the two soaks, ./soak and ./layers/soak, have in common.
//
// Everything random comes from one seed, which is printed when a test fails. To have the same again:
//
//	go test . -run TestFaultX -seed 123        (or PLEX_SEED=123 go test ./...)
package faulttest
