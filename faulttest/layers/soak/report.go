package main

// The account of a round, what is in the line of each second, and the table at the end.

import (
	"fmt"
	"time"

	"go.atomizer.io/plex/faulttest/layers"
	"go.atomizer.io/plex/faulttest/scaffold"
)

// account checks the books of a round that is over, and adds up.
func (r *round) account() {
	s := &r.soak.sums
	s.rounds++
	for _, on := range r.sides() {
		if on.proxy == nil {
			return // so it could not listen
		}
		s.connections += uint64(on.proxy.Accepted())
		for kind, n := range on.proxy.Counts() {
			s.faults[kind] += n
		}
	}
	if !r.opened() {
		return // the run has ended before the pools were open
	}
	for _, on := range r.sides() {
		st := on.mux.Stats()
		s.killed += st.Killed
		s.expired += st.Expired
		s.scaledUp += st.ScaledUp
		s.scaledDown += st.ScaledDown
		r.check("a pool", scaffold.Closed(on.mux, on.mux.Close()))
	}
	if r.asking.book == nil {
		return
	}
	r.accountRequests()
	if r.ordered {
		r.accountShipped()
	} else {
		r.accountHeard()
	}
}

// accountHeard is the part of those who talk.
func (r *round) accountHeard() {
	s, h := &r.soak.sums, r.talking.heard
	if _, err := h.Compare(r.talking.talker, layers.Strict{}); err != nil {
		r.fail(err)
	}
	if err := h.Err(); err != nil {
		r.fail(err)
	}
	s.pending += uint64(r.left(r.talking.receiver))
	s.messages, s.bytes = s.messages+h.Messages.Load(), s.bytes+h.Bytes.Load()
	s.cut, s.tooLong, s.split = s.cut+h.Cut.Load(), s.tooLong+h.TooLong.Load(), s.split+h.Split.Load()
	s.lost, s.doubled = s.lost+h.Lost.Load(), s.doubled+h.Doubled.Load()
	s.disordered, s.glued = s.disordered+h.Disordered.Load(), s.glued+h.Glued.Load()
	s.lefts += uint64(r.talking.left)
}

// accountShipped is the part of the Sender.
func (r *round) accountShipped() {
	s, t, b := &r.soak.sums, r.shipping.taker, r.shipping.book
	s.orderedRounds++
	if r.tap {
		s.tapped += b.Sender.Stats().Messages
	}
	if err := b.Compare(t, r.shipping.tap, &s.fates, &s.fatesAt); err != nil {
		r.fail(err)
	}
	s.senderWrites += b.Sender.Stats().Writes
	s.arrived += t.Messages()
	s.senderHalves += t.HalfTaken.Load()
	s.senderStalls += t.HalfStalled.Load()
}

// left waits until nothing is left in a layer that is about something that is over.
func (r *round) left(layer any) (n int) {
	what := ""
	// Plex tells of ends in goroutines of its own.
	for end := time.Now().Add(scaffold.Starving); ; time.Sleep(time.Millisecond) {
		if n, what = layers.Left(layer); n == 0 || time.Now().After(end) {
			break
		}
	}
	if n > 0 {
		r.fail(fmt.Errorf("left in %T:%s", layer, what))
	}
	return n
}

// accountRequests is the part of those who ask.
func (r *round) accountRequests() {
	s := &r.soak.sums
	b := r.asking.book
	if err := b.Compare(r.asking.executor); err != nil {
		r.fail(err)
	}
	st := b.Client.Stats()
	s.pending += uint64(st.Waiting + st.InFlight + st.Abandoned + r.left(b.Client))
	s.writes += st.Writes
	s.sent += st.Sent
	s.halves += r.asking.executor.HalfTaken.Load()
	s.stalls += r.asking.executor.HalfStalled.Load()
	s.sessions += r.asking.whole.Load()
	s.sessionsBroken += r.asking.broken.Load()
	b.AtPlaces(r.asking.executor, &s.outcomesAt)
	if r.ordered {
		s.ordered += b.Requests()
	}
	s.requests += b.Requests()
	s.executed += r.asking.executor.Executed()
	for o := range layers.Outcomes {
		s.outcomes[o] += b.Count(o)
	}
	s.late, s.unknown = s.late+st.Late, s.unknown+st.Unknown
	s.unsolicited, s.malformed = s.unsolicited+st.Unsolicited, s.malformed+st.Malformed
	s.glued += b.Calls.Glued.Load()
	s.mispaired += b.Mispaired.Load()
}

// told is what a line of progress counts, of the present round.
type told struct {
	of                        *round
	replies, messages, faults uint64
}

// progress says how far the present round is, and what has come of it since the last call.
func (s *soak) progress() string {
	r := s.now()
	if r == nil {
		return ""
	}
	book := r.asking.asked()
	if book == nil {
		return ""
	}
	st := book.Client.Stats()
	now := told{r, book.Count(layers.Replied), r.messages(), faultsOf(r)}
	before := s.before
	if before.of != r {
		before = told{}
	}
	s.before = now
	since := func(n, before uint64) string {
		return fmt.Sprintf("%s (+%s)", scaffold.Grouped(n), scaffold.Grouped(n-before))
	}
	return fmt.Sprintf("round %d: replies %s, in flight %d, waiting %d, given up %d; messages %s; faults %s",
		r.number, since(now.replies, before.replies), st.InFlight, st.Waiting, st.Abandoned,
		since(now.messages, before.messages), since(now.faults, before.faults))
}

// messages is how many have come so far.
func (r *round) messages() uint64 {
	if r.ordered {
		return r.shipping.taker.Messages()
	}
	return r.talking.heard.Messages.Load()
}

func faultsOf(r *round) (n uint64) {
	for _, on := range r.sides() {
		for _, c := range on.proxy.Counts() {
			n += c
		}
	}
	return n
}

func (s *soak) figures() *scaffold.Figures {
	f, sums := s.Figures(fmt.Sprintf(" -callers %d", s.callers)), &s.sums
	f.Count("rounds", sums.rounds)
	f.Count("  with replies in order and a Sender", sums.orderedRounds)
	f.Count("connections", sums.connections)
	var all uint64
	for _, n := range sums.faults {
		all += n
	}
	f.Rate("faults", all)
	f.Faults(sums.faults)
	f.Count("connections killed by consumers", sums.killed)
	f.Row("connections expired, scaled up, down", "%s, %s, %s", scaffold.Grouped(sums.expired),
		scaffold.Grouped(sums.scaledUp), scaffold.Grouped(sums.scaledDown))
	f.Rate("requests", sums.requests)
	for o := layers.Replied; o < layers.Outcomes; o++ {
		f.Count("  "+o.String(), sums.outcomes[o])
	}
	f.Count("  executed by the server", sums.executed)
	f.Count("  for replies in order", sums.ordered)
	f.Row("  requests, and writes of them", "%s, %s", scaffold.Grouped(sums.sent), scaffold.Grouped(sums.writes))
	f.Row("  half a batch taken: reset, stalled", "%s, %s", scaffold.Grouped(sums.halves), scaffold.Grouped(sums.stalls))
	for _, o := range []layers.Outcome{layers.Canceled, layers.Killed, layers.NotTaken, layers.Reset} {
		f.Row("  executed, and "+o.String(), "%s", places(sums.outcomesAt[o]))
	}
	f.Row("sessions given back, killed", "%s, %s", scaffold.Grouped(sums.sessions), scaffold.Grouped(sums.sessionsBroken))
	f.Row("replies late, unknown", "%s, %s", scaffold.Grouped(sums.late), scaffold.Grouped(sums.unknown))
	f.Row("messages unsolicited, malformed", "%s, %s", scaffold.Grouped(sums.unsolicited),
		scaffold.Grouped(sums.malformed))
	f.Rate("messages received", sums.messages)
	f.Bytes("  bytes", sums.bytes)
	f.Count("  cut off", sums.cut)
	f.Count("  loops left and begun anew", sums.lefts)
	f.Count("  connections checked to the last byte", sums.strict)
	var shipped uint64
	for _, n := range sums.fates {
		shipped += n
	}
	f.Rate("messages given to a Sender", shipped)
	for fate := layers.Queued; fate < layers.Fates; fate++ {
		f.Count("  "+fate.String(), sums.fates[fate])
	}
	f.Count("  written, and looked at", sums.tapped)
	f.Row("  arrived, and writes", "%s, %s", scaffold.Grouped(sums.arrived), scaffold.Grouped(sums.senderWrites))
	f.Row("  half a batch taken: reset, stalled", "%s, %s", scaffold.Grouped(sums.senderHalves),
		scaffold.Grouped(sums.senderStalls))
	f.Row("  arrived, and given up meanwhile", "%s", places(sums.fatesAt[layers.GivenUpLate]))
	f.Row("  in the calm, of which lost", "%s, %s", scaffold.Grouped(sums.shippedStrict), scaffold.Grouped(sums.shippedLost))
	f.Count("messages lost", sums.lost)
	f.Count("messages doubled", sums.doubled)
	f.Count("messages out of order", sums.disordered)
	f.Count("messages and replies glued", sums.glued)
	f.Count("replies mispaired", sums.mispaired)
	f.Count("pending entries at the end", sums.pending)
	return f
}

// places says how many there were at each place of a batch.
func places(n [layers.Places]uint64) string {
	return fmt.Sprintf("%s alone; first %s, middle %s, last %s of a batch", scaffold.Grouped(n[layers.Alone]),
		scaffold.Grouped(n[layers.First]), scaffold.Grouped(n[layers.Middle]), scaffold.Grouped(n[layers.Last]))
}
