// Package services has tests of the examples' clients for DNS, memcached, NATS and QUIC against servers that nobody here
// wrote, while connections break and servers go away and come back. The book of a load says of every request what became
// of it, so that no wrong answer, no lost request and no false promise of an error can hide. net/smtp is tested here, too.
package services
