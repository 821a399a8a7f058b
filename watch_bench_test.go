package plex_test

// How long it takes to notice that an idle connection is dead, and to have another in its place. Loopback, TCP. Both are
// counted from the peer's call of Close to the entry in the log; what heals has been admitted by then.

import (
	"context"
	"io"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
)

// event is an entry in the log about the connection with this number.
type event struct {
	number int
	at     time.Time
}

// stopwatch is a slog.Handler that tells when connections are lost and healed.
type stopwatch struct{ lost, healed chan event }

func (stopwatch) Enabled(context.Context, slog.Level) bool { return true }
func (w stopwatch) WithAttrs([]slog.Attr) slog.Handler     { return w }
func (w stopwatch) WithGroup(string) slog.Handler          { return w }

func (w stopwatch) Handle(_ context.Context, r slog.Record) error {
	e := event{at: time.Now()}
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "addr" {
			e.number, _ = strconv.Atoi(a.Value.String()) // labelled.RemoteAddr
		}
		return true
	})
	switch r.Message {
	case "plex: connection lost":
		w.lost <- e
	case "plex: connection healed":
		w.healed <- e
	}
	return nil
}

// labelled is a connection that the log can tell from the others.
type labelled struct {
	revealing
	addr fakenet.Addr
}

func (l *labelled) RemoteAddr() net.Addr { return l.addr }

// latencies are reported as percentiles.
type latencies []time.Duration

func (l latencies) report(b *testing.B, name string) {
	slices.Sort(l)
	b.ReportMetric(float64(l[len(l)/2].Nanoseconds())/1e3, name+"-p50-µs")
	b.ReportMetric(float64(l[len(l)*99/100].Nanoseconds())/1e3, name+"-p99-µs")
}

// mortal is a pool of n connections to a server that greets with a word.
type mortal struct {
	*plex.Multiplexer
	*host
	stopwatch
	n              int
	seen, replaced latencies
}

func newMortal(b *testing.B, n int) *mortal {
	l := newLedger(b)
	s := newHost(b, "tcp")
	s.prep = func(p *peer) { p.send(b, 0, 8) }
	s.wrap = func(nc net.Conn) net.Conn { // dial holds mu
		c := &labelled{addr: fakenet.Addr(strconv.Itoa(len(s.peers) - 1))}
		c.Conn = nc
		return c
	}
	w := stopwatch{lost: make(chan event, n), healed: make(chan event, n)}
	m := &mortal{Multiplexer: l.mustOpen(n, s.connect(), plex.WithLogger(slog.New(w))), host: s, stopwatch: w, n: n}
	m.prove(b, 0)
	return m
}

// prove reads the greeting from the connections with this number and above, as a consumer does. A service whose
// connections die before they have delivered anything is approached with more and more care, and that is not what is
// measured here.
func (m *mortal) prove(b *testing.B, from int) {
	peers := map[string]*peer{}
	for i := from; i < m.made(); i++ {
		p := m.at(i)
		peers[p.client.LocalAddr().String()] = p
	}
	readers := make([]plex.Reader, m.n)
	for i := range readers {
		var err error
		readers[i], err = m.Reader(b.Context(), patience)
		require.NoError(b, err)
	}
	word, proved := make([]byte, 8), 0
	for _, r := range readers {
		if p := peers[r.LocalAddr().String()]; p != nil {
			_, err := io.ReadFull(r, word)
			require.NoError(b, err)
			require.NoError(b, checkOracle(word, p.number, 0))
			proved++
		}
		require.NoError(b, r.Close())
	}
	require.Equal(b, len(peers), proved)
	require.Equal(b, m.n, m.Stats().Open)
}

// die has the connections from this number on end, and waits until all have been replaced.
func (m *mortal) die(first, n int, end func(*peer)) {
	died := make([]time.Time, n)
	for i := range died {
		p := m.at(first + i)
		died[i] = time.Now()
		end(p)
	}
	for range n {
		e := <-m.lost
		m.seen = append(m.seen, e.at.Sub(died[e.number-first]))
	}
	for range n {
		e := <-m.healed
		m.replaced = append(m.replaced, e.at.Sub(died[e.number-first]))
	}
}

func (m *mortal) report(b *testing.B) {
	m.seen.report(b, "seen")
	m.replaced.report(b, "replaced")
}

var deaths = []struct {
	name string
	end  func(*peer)
}{{"FIN", (*peer).fin}, {"RST", (*peer).reset}}

// BenchmarkIdleDeath has the peers of a pool end one connection after the other.
func BenchmarkIdleDeath(b *testing.B) {
	for _, death := range deaths {
		b.Run(death.name, func(b *testing.B) {
			m := newMortal(b, 8)
			oldest := 0
			for b.Loop() {
				m.die(oldest, 1, death.end)
				oldest++
				b.StopTimer()
				m.prove(b, m.made()-1)
				b.StartTimer()
			}
			m.report(b)
		})
	}
}

// BenchmarkIdleDeathOfAll has the peers of 4,000 connections end them all at once. An operation is from the first end to
// the last replacement.
func BenchmarkIdleDeathOfAll(b *testing.B) {
	const n = 4000
	for _, death := range deaths {
		b.Run(death.name, func(b *testing.B) {
			m := newMortal(b, n)
			oldest := 0
			for b.Loop() {
				m.die(oldest, n, death.end)
				oldest += n
				b.StopTimer()
				m.prove(b, oldest)
				b.StartTimer()
			}
			m.report(b)
		})
	}
}
