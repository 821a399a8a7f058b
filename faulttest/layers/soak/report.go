package main

// The account of a round, what is in the line of each second, and the table at the end.

import (
	"fmt"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/layers"
	"go.atomizer.io/plex/faulttest/proxy"
	"go.atomizer.io/plex/faulttest/scaffold"
)

// account checks the books of a round that is over, and adds up.
func (r *round) account() {
	s := &r.soak.sums
	s.rounds++
	for _, p := range []*proxy.Proxy{r.talking.proxy, r.asking.proxy} {
		s.connections += uint64(p.Accepted())
		for kind, n := range p.Counts() {
			s.faults[kind] += n
		}
	}
	for _, m := range []*plex.Multiplexer{r.talking.mux, r.asking.mux} {
		if m == nil {
			return // the run has ended before the pools were open
		}
		st := m.Stats()
		s.killed += st.Killed
		s.expired += st.Expired
		s.scaledUp += st.ScaledUp
		s.scaledDown += st.ScaledDown
		r.check("a pool", scaffold.Closed(m, m.Close()))
	}
	h := r.talking.heard
	if _, err := h.Compare(r.talking.talker, layers.Strict{}); err != nil {
		r.fail(err)
	}
	if err := h.Err(); err != nil {
		r.fail(err)
	}
	b := r.asking.book
	if err := b.Compare(r.asking.executor); err != nil {
		r.fail(err)
	}
	st := b.Client.Stats()
	left := st.Waiting + st.InFlight + st.Abandoned
	for _, layer := range []any{b.Client, r.talking.receiver} {
		n, what := 0, ""
		// Plex tells of ends in goroutines of its own.
		for end := time.Now().Add(scaffold.Starving); ; time.Sleep(time.Millisecond) {
			if n, what = layers.Left(layer); n == 0 || time.Now().After(end) {
				break
			}
		}
		if left += n; n > 0 {
			r.fail(fmt.Errorf("left in %T:%s", layer, what))
		}
	}
	s.pending += uint64(left)
	s.requests += b.Requests()
	s.executed += r.asking.executor.Executed()
	for o := range layers.Outcomes {
		s.outcomes[o] += b.Count(o)
	}
	s.late, s.unknown = s.late+st.Late, s.unknown+st.Unknown
	s.unsolicited, s.malformed = s.unsolicited+st.Unsolicited, s.malformed+st.Malformed
	s.messages, s.bytes = s.messages+h.Messages.Load(), s.bytes+h.Bytes.Load()
	s.cut, s.tooLong, s.split = s.cut+h.Cut.Load(), s.tooLong+h.TooLong.Load(), s.split+h.Split.Load()
	s.lost, s.doubled = s.lost+h.Lost.Load(), s.doubled+h.Doubled.Load()
	s.disordered, s.glued = s.disordered+h.Disordered.Load(), s.glued+h.Glued.Load()+b.Calls.Glued.Load()
	s.mispaired += b.Mispaired.Load()
	s.lefts += uint64(r.talking.left)
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
	now := told{r, book.Count(layers.Replied), r.talking.heard.Messages.Load(), faultsOf(r)}
	before := s.before
	if before.of != r {
		before = told{}
	}
	s.before = now
	since := func(n, before uint64) string {
		return fmt.Sprintf("%s (+%s)", scaffold.Grouped(n), scaffold.Grouped(n-before))
	}
	return fmt.Sprintf("round %d: replies %s, in flight %d, waiting %d, given up %d; messages %s, cut %s; faults %s",
		r.number, since(now.replies, before.replies), st.InFlight, st.Waiting, st.Abandoned,
		since(now.messages, before.messages), scaffold.Grouped(r.talking.heard.Cut.Load()), since(now.faults, before.faults))
}

func faultsOf(r *round) (n uint64) {
	for _, p := range []*proxy.Proxy{r.talking.proxy, r.asking.proxy} {
		for _, c := range p.Counts() {
			n += c
		}
	}
	return n
}

func (s *soak) figures() *scaffold.Figures {
	f, sums := s.Figures(fmt.Sprintf(" -callers %d", s.callers)), &s.sums
	f.Count("rounds", sums.rounds)
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
	f.Row("replies late, unknown", "%s, %s", scaffold.Grouped(sums.late), scaffold.Grouped(sums.unknown))
	f.Row("messages unsolicited, malformed", "%s, %s", scaffold.Grouped(sums.unsolicited),
		scaffold.Grouped(sums.malformed))
	f.Rate("messages received", sums.messages)
	f.Bytes("  bytes", sums.bytes)
	f.Count("  cut off", sums.cut)
	f.Count("  loops left and begun anew", sums.lefts)
	f.Count("  connections checked to the last byte", sums.strict)
	f.Count("messages lost", sums.lost)
	f.Count("messages doubled", sums.doubled)
	f.Count("messages out of order", sums.disordered)
	f.Count("messages and replies glued", sums.glued)
	f.Count("replies mispaired", sums.mispaired)
	f.Count("pending entries at the end", sums.pending)
	return f
}
