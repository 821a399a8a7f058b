// Package streams tests pools whose connections are streams of sessions, those of github.com/hashicorp/yamux and of
// github.com/xtaci/smux: transports without a kernel, with timeouts of their own. It is a module of its own, so that
// nobody else depends on these libraries.
package streams
