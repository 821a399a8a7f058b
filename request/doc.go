// Package request asks a service over the connections of a [plex.Multiplexer] and finds each reply by its identifier.
//
// A [Client] takes requests from any number of goroutines. [Client.Do] gives the request an identifier, writes it over
// whichever connection is free, and returns the reply that carries the identifier, whichever connection brings it and
// in whatever order. A few connections so carry thousands of requests at once, and no caller waits for the reply of
// another. What requests and replies look like on the wire is said by a [Protocol], three short functions.
//
// # What a caller may rely on
//
//   - Every Do ends exactly once: with the reply, with an error, or with its context.
//   - No two requests in flight have the same identifier. A request that its context has ended keeps its identifier, if
//     there are few of them, until the late reply has come or the connection has ended; see [WithIDs].
//   - A request whose connection is lost fails at once, with the cause. Replies that have been read by then are
//     delivered, and so is every one that the peer has sent before a clean end. What has arrived and not been read is
//     lost when the connection fails or is killed.
//   - Nothing is ever sent twice. [Error] says of a request that failed whether the server may have got it; whether it
//     can be repeated is the caller's to know.
//   - A context bounds all of Do: the wait for an identifier, for a connection, the write and the wait for the reply.
//
// Replies to nobody, late ones and unknown ones, are counted ([Client.Stats]) and dropped. Messages that are no replies
// go to the function of [WithUnsolicited]. When the multiplexer heals or adds connections, the client uses and reads
// them as any other.
//
// # The client and the multiplexer
//
// The client reads all connections of the multiplexer, so nothing else may read from them: one Client, or one
// message.Receiver, for each Multiplexer. Others may write to them; what they send must not use the client's
// identifiers.
//
// To end cleanly, wait until all calls of Do have returned, close the client, and then the multiplexer. Where the
// multiplexer goes on with another client, see [Client.Close].
package request

import "errors"

// Protocol says what requests of type Q and replies of type R look like on the wire. Its methods are called by many
// goroutines at once.
type Protocol[Q, R any] interface {
	// Append appends to dst the whole frame of a request with this identifier, and returns the extended slice, like
	// the append functions of the standard library. It must keep neither dst nor the result. It is called by Do, in
	// the goroutine of its caller; an error of it is what Do returns, and nothing has been sent.
	Append(dst []byte, id uint64, request Q) ([]byte, error)

	// Split is a [bufio.SplitFunc] for what the server sends. An error of it, or a panic, kills the connection, and
	// the requests on it fail with that error. So does runtime.Goexit. It must not block.
	Split(data []byte, atEOF bool) (advance int, token []byte, err error)

	// Parse takes a message apart. The message belongs to it, so the reply may refer to its bytes. ErrNotReply says
	// that the message is whole and answers no request. Any other error, or a panic, says that the connection is out
	// of step: it is killed, and the requests on it fail with that error; a datagram is dropped. Not to return, by
	// runtime.Goexit, is the same. An error that the server reports for one request is a reply; make it part of R.
	// Parse must not block, as no reply is read meanwhile by its goroutine.
	Parse(message []byte) (id uint64, reply R, err error)
}

// ErrNotReply is returned by [Protocol.Parse] for a message that answers no request. It goes to the function of
// [WithUnsolicited], or is counted and dropped if there is none.
var ErrNotReply = errors.New("request: message is no reply")
