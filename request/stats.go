package request

// Stats is a snapshot of a client. Gauges say what is, counters what has been since New and only ever grow.
//
// Each call of Do is counted in Requests, and in exactly one of Waiting, InFlight, Replies, Canceled and Failed.
type Stats struct {
	// Gauges.
	Waiting   int // requests that wait for their turn: for an identifier, or because of WithInFlight
	InFlight  int // requests that have an identifier, and neither a reply nor an end
	Abandoned int // identifiers of requests given up, which are reserved because a reply can still come

	// Counters of requests.
	Requests uint64 // all
	Sent     uint64 // given to a connection to be written, whatever came of it
	Replies  uint64 // ended by a reply
	Canceled uint64 // ended by their context
	Failed   uint64 // ended by an error: no connection, not to be encoded, connection lost, client closed

	// Counters of messages, beside the replies.
	Late        uint64 // replies to requests that have ended; among few identifiers (see WithIDs), to ones given up
	Unknown     uint64 // replies to requests that nobody has made
	Unsolicited uint64 // messages that are no replies
	Malformed   uint64 // messages that made no sense; each has cost its connection, unless it was a datagram

	Panicked uint64 // panics of the function of WithUnsolicited

	LastMalformed error // what was wrong with the latest malformed message; nil if there was none
	LastPanic     error // the latest panic, a *PanicError with its stack; nil if there was none
}
