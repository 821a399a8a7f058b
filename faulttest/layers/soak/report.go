package main

// The account of a round, the line each second, and the table at the end.

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"strconv"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/check"
	"go.atomizer.io/plex/faulttest/layers"
	"go.atomizer.io/plex/faulttest/proxy"
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
		leased, waiting := st.LeasedReaders+st.LeasedWriters, st.Waiting+st.WaitingReady
		if st.Open+st.Connecting+st.IdleReaders+st.IdleWriters+leased+waiting > 0 {
			r.fail(r, fmt.Errorf("something is left in the closed pool: %+v", st))
		}
	}
	h := r.talking.heard
	if _, err := h.Compare(r.talking.talker, layers.Strict{}); err != nil {
		r.fail(r, err)
	}
	if err := h.Err(); err != nil {
		r.fail(r, err)
	}
	b := r.asking.book
	if err := b.Compare(r.asking.executor); err != nil {
		r.fail(r, err)
	}
	st := b.Client.Stats()
	left := st.Waiting + st.InFlight + st.Abandoned
	for _, layer := range []any{b.Client, r.talking.receiver} {
		n, what := 0, ""
		// Plex tells of ends in goroutines of its own.
		for end := time.Now().Add(time.Second); ; time.Sleep(time.Millisecond) {
			if n, what = layers.Left(layer); n == 0 || time.Now().After(end) {
				break
			}
		}
		if left += n; n > 0 {
			r.fail(r, fmt.Errorf("left in %T:%s", layer, what))
		}
	}
	s.pending += left
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

// progress prints a line each second.
func (s *soak) progress(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var last [3]uint64 // of the present round
	var of *round
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		s.mu.Lock()
		r := s.present
		if r == nil || r.asking.book == nil {
			s.mu.Unlock()
			continue
		}
		book := r.asking.book
		s.mu.Unlock()
		st := book.Client.Stats()
		now := [3]uint64{book.Count(layers.Replied), r.talking.heard.Messages.Load(), faultsOf(r)}
		if r != of {
			last, of = [3]uint64{}, r
		}
		fmt.Fprintf(s.out,
			"%5.0fs  round %d: replies %s (+%s), in flight %d, waiting %d, given up %d; "+
				"messages %s (+%s), cut %s; faults %s (+%s); violations %d\n",
			time.Since(s.start).Seconds(), r.number, grouped(now[0]), grouped(now[0]-last[0]), st.InFlight, st.Waiting,
			st.Abandoned, grouped(now[1]), grouped(now[1]-last[1]), grouped(r.talking.heard.Cut.Load()), grouped(now[2]),
			grouped(now[2]-last[2]), s.sums.violations.Load())
		last = now
	}
}

func faultsOf(r *round) (n uint64) {
	for _, p := range []*proxy.Proxy{r.talking.proxy, r.asking.proxy} {
		for _, c := range p.Counts() {
			n += c
		}
	}
	return n
}

// figures are those of a soak that is over.
type figures struct {
	o       options
	rows    [][2]string
	stories []string
	bad     bool
}

func (f *figures) row(name, format string, args ...any) {
	f.rows = append(f.rows, [2]string{name, fmt.Sprintf(format, args...)})
}

func (s *soak) figures(before check.Process) *figures {
	f := &figures{o: s.o, bad: s.sums.violations.Load() > 0, stories: s.stories}
	took, sums, now := time.Since(s.start), &s.sums, check.Before()
	rate := func(n uint64) string {
		return fmt.Sprintf("%s (%s a second)", grouped(n), grouped(uint64(float64(n)/took.Seconds())))
	}
	f.row("seed", "%d", s.o.seed)
	f.row("duration", "%v, %d rounds", took.Round(time.Second), sums.rounds)
	f.row("connections", "%s", grouped(sums.connections))
	var all uint64
	for _, n := range sums.faults {
		all += n
	}
	f.row("faults", "%s", rate(all))
	for k := proxy.Reset; k <= proxy.Restart; k++ {
		if n := sums.faults[k]; n > 0 {
			f.row("  "+k.String(), "%s", grouped(n))
		}
	}
	f.row("connections killed by consumers", "%s", grouped(sums.killed))
	f.row("connections expired, scaled up, down", "%s, %s, %s", grouped(sums.expired), grouped(sums.scaledUp),
		grouped(sums.scaledDown))
	f.row("requests", "%s", rate(sums.requests))
	for o := layers.Replied; o < layers.Outcomes; o++ {
		f.row("  "+o.String(), "%s", grouped(sums.outcomes[o]))
	}
	f.row("  executed by the server", "%s", grouped(sums.executed))
	f.row("replies late, unknown", "%s, %s", grouped(sums.late), grouped(sums.unknown))
	f.row("messages unsolicited, malformed", "%s, %s", grouped(sums.unsolicited), grouped(sums.malformed))
	f.row("messages received", "%s", rate(sums.messages))
	f.row("  bytes", "%s", rate(sums.bytes))
	f.row("  cut off", "%s", grouped(sums.cut))
	f.row("  loops left and begun anew", "%s", grouped(sums.lefts))
	f.row("  connections checked to the last byte", "%s", grouped(sums.strict))
	f.row("messages lost", "%d", sums.lost)
	f.row("messages doubled", "%d", sums.doubled)
	f.row("messages out of order", "%d", sums.disordered)
	f.row("messages and replies glued", "%d", sums.glued)
	f.row("replies mispaired", "%d", sums.mispaired)
	f.row("pending entries at the end", "%d", sums.pending)
	f.row("goroutines before and after", "%d, %d", before.Goroutines(), now.Goroutines())
	f.row("descriptors before and after", "%d, %d", before.Files(), now.Files())
	f.row("violations of any kind", "%d", sums.violations.Load())
	return f
}

func (f *figures) table(w io.Writer) {
	fmt.Fprintln(w)
	for _, r := range f.rows {
		fmt.Fprintf(w, "%-40s %s\n", r[0], r[1])
	}
	if !f.bad {
		return
	}
	fmt.Fprintf(w, "\nFAILED; the same again: go run ./layers/soak -seed %d -capacity %d -callers %d -faults %v -for %v\n",
		f.o.seed, f.o.capacity, f.o.callers, f.o.faults, f.o.length)
	for _, story := range f.stories {
		fmt.Fprintf(w, "\n%s", story)
	}
}

// grouped is 1,234,567.
func grouped(n uint64) string {
	digits := strconv.FormatUint(n, 10)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// certificates makes the two ends of TLS.
func certificates() (client, server *tls.Config, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(1000 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(crand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	server = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	return &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}, server, nil
}
