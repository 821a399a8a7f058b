package request

// Stats is a snapshot of a client. Gauges say what is; counters say what has happened since New,
// and only grow.
//
// Each call of Do, and each loop over a Stream, is counted in Requests, and in exactly one of
// Waiting, InFlight, Replies, Canceled and Failed.
type Stats struct {
	// Gauges.
	Waiting   int // requests that wait for an identifier, or because of WithInFlight
	InFlight  int // requests that have been encoded or have an identifier, and have not ended
	Abandoned int // requests given up that keep their identifier or place, because a reply may still come; and pings

	// Counters of requests.
	Requests uint64 // all
	Sent     uint64 // given to a connection to be written, whatever happened then
	Replies  uint64 // ended by a reply, or written if there is none (see Quiet)
	Canceled uint64 // ended by their context, or because the loop over their Stream was left
	Failed   uint64 // ended by any other error

	Writes  uint64 // each has carried one request or several
	Pings   uint64 // see WithHeartbeat
	Cancels uint64 // what was sent to cancel requests that were given up, see Canceler

	// Counters of messages, beside the replies.
	Parts       uint64 // messages to requests of Stream, without the last of each
	Late        uint64 // replies to requests that have ended; with few identifiers or ordered, given up
	Unknown     uint64 // replies to requests that nobody made
	Unsolicited uint64 // messages that are no replies
	Malformed   uint64 // messages that made no sense; each but a datagram has cost its connection

	Panicked uint64 // panics of the function of WithUnsolicited, of a ping, and of AppendCancel for a stream that is too slow

	LastMalformed error // what was wrong with the latest malformed message; nil if there was none
	LastPanic     error // the latest panic, a *PanicError with its stack; nil if there was none
}

func (t *table[R]) snapshot() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.stats
	s.InFlight = t.inFlightLocked()
	return s
}

// canceled counts a request whose context had ended before it was made.
func (t *table[R]) canceled() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stats.Requests++
	t.stats.Canceled++
}

// failed counts a request that could not be made.
func (t *table[R]) failed() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stats.Requests++
	t.stats.Failed++
}

// unsolicited counts a message that is no reply.
func (t *table[R]) unsolicited() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stats.Unsolicited++
}

// malformed counts a message that made no sense.
func (t *table[R]) malformed(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.malformedLocked(err)
}

func (t *table[R]) malformedLocked(err error) {
	t.stats.Malformed++
	t.stats.LastMalformed = err
}

// panicked counts a panic of the function of WithUnsolicited.
func (t *table[R]) panicked(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stats.Panicked++
	t.stats.LastPanic = err
}
