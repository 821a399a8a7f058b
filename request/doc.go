// Package request sends requests to a service over the connections of a [plex.Multiplexer] and
// matches each reply to its request: by an identifier ([New]), or by the order of the requests
// ([NewOrdered]).
//
// A [Client] takes requests from any number of goroutines. [Client.Do] gives the request an
// identifier, writes it over whichever connection is free, and returns the reply that carries the
// identifier, whichever connection brings it and in whatever order. So a few connections carry
// thousands of requests at once, and no caller waits for another's reply. A [Protocol], three short
// methods, defines what requests and replies look like on the wire.
//
//	client, err := request.New(mux, protocol{})
//	…
//	reply, err := client.Do(ctx, question) // in any number of goroutines
//
// # What a caller may rely on
//
//   - Every Do ends exactly once: with the reply, with an error, or with its context.
//   - No two requests in flight have the same identifier. If identifiers are few, the identifier of
//     a request that its context has ended is not used again until the late reply has come or the
//     connection has ended; see [WithIDs].
//   - A request whose connection is lost fails at once, with the cause. Replies that have been read
//     by then are delivered, and so are all replies that the peer sent before a clean EOF. What has
//     arrived but has not been read is lost when the connection fails or is killed.
//   - A request over a datagram connection fails at once when the peer refuses datagrams
//     (syscall.ECONNREFUSED), as do the others on that connection. The connection goes on.
//   - Nothing is ever sent twice. For a request that failed, [Error] says whether the server may
//     have got it, and over which connection; only the caller can know whether it may be repeated.
//   - A context bounds all of Do: the wait for an identifier and for a connection, and the wait for
//     the reply. It does not bound the Write, so that it never cuts what others have asked.
//   - A peer that stops reading delays only those requests that were being written to it, and is
//     given up after a while; see [WithWriteTimeout].
//   - A method of the Protocol that panics, calls runtime.Goexit, or returns nonsense costs its own
//     request or connection, and nothing else.
//
// Late and unknown replies are counted ([Client.Stats]) and dropped. Messages that are no replies
// go to the function of [WithUnsolicited]. Connections that the multiplexer heals or adds are used
// and read like any other.
//
// # Writing
//
// A lone caller writes at once, in its own goroutine. Requests that are made at the same time are
// gathered, and one Write carries many of them; see [WithWriteBuffer]. A request whose context ends
// before it is being written is taken out, and nothing of it is sent. Large requests are written by
// themselves, without being copied, and each datagram has one request.
//
// # Ordered replies
//
// For a protocol without identifiers, such as RESP or memcached's text, use [NewOrdered] with an
// [Ordered] protocol. A request whose context has ended keeps its place on its connection until its
// reply has come, which is dropped. So no reply is ever another request's. A reply that no request
// waits for costs the connection. [WithDepth] bounds how many requests may be unanswered on one
// connection. Requests that the server does not answer end when they are written; see [Quiet].
// [Client.Session] lends a connection to one caller, for transactions and for requests that block.
//
// # Connections that hang
//
// A peer can die without a word, or hang with its connections open. [WithStallTimeout] finds a
// connection that brings nothing although there are requests in flight over it. [WithHeartbeat] asks
// connections that have been idle for a while, for protocols with a method Ping ([Pinger]).
//
// # Several messages to one request
//
// A [Protocol] with a method ParsePart ([PartParser]) has requests that several messages answer.
// [Client.Stream] is a loop over them. A loop that is slow holds up nobody: the connection is read
// on, what the loop has not taken is kept up to a bound, see [WithStreamBuffer], and beyond it the
// stream fails. Do is for requests with one reply; if several messages come, it fails with
// [ErrParts].
//
// If the protocol has a method AppendCancel ([Canceler]), the server is told of requests that are
// given up, whether by their context or because a loop is left.
//
// # The client and the multiplexer
//
// The client reads all connections of the multiplexer, so nothing else may read from them: use one
// Client, or one message.Receiver, for each Multiplexer. Others may write to them, but must not use
// the client's identifiers.
//
// To shut down cleanly, wait until all calls of Do have returned, close the client, and then the
// multiplexer. If the multiplexer goes on with another client, see [Client.Close].
package request

import "errors"

// Protocol defines what requests of type Q and replies of type R look like on the wire. Many
// goroutines call its methods at once.
type Protocol[Q, R any] interface {
	// Append appends to dst the whole frame of a request with this identifier, and returns the
	// extended slice, like the append functions of the standard library. It must keep neither dst
	// nor the result, which may be written after Do has returned. Do calls it in the goroutine of its
	// caller. If it returns an error, Do returns the error, and nothing is sent.
	Append(dst []byte, id uint64, request Q) ([]byte, error)

	// Split is a [bufio.SplitFunc] for what the server sends; see also [Splitter]. If it returns an
	// error, panics, or calls runtime.Goexit, the connection is killed, and the requests on it fail
	// with that error. It must not block.
	Split(data []byte, atEOF bool) (advance int, token []byte, err error)

	// Parse takes a message apart. It owns the message, so the reply may refer to its bytes.
	// ErrNotReply says that the message is whole and answers no request. Any other error says that
	// the connection is out of step: it is killed, and the requests on it fail with that error. A
	// panic and runtime.Goexit have the same effect. Of a datagram connection only the datagram is
	// dropped. An error that the server reports for one request is a reply; make it part of R.
	// Parse must not block, because its goroutine reads no replies meanwhile.
	Parse(message []byte) (id uint64, reply R, err error)
}

// Borrower is an optional part of a Protocol, for replies that do not refer to the bytes of their
// message. It saves an allocation for each.
type Borrower[R any] interface {
	// ParseBorrowed is called instead of Parse. It must not keep the message, nor may the reply refer
	// to it: its memory is used again as soon as ParseBorrowed has returned.
	ParseBorrowed(message []byte) (id uint64, reply R, err error)
}

// ErrNotReply is returned by [Protocol.Parse] for a message that answers no request. The message
// goes to the function of [WithUnsolicited]; if there is none, it is counted and dropped.
var ErrNotReply = errors.New("request: message is no reply")
