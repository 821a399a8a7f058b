package plex

// What cannot be seen from outside of how two queues share the read halves: the accounts, and what happens when the
// goroutines that see to a half come in an unusual order.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// noSocket is a descriptor that is closed already, so that nothing is armed.
type noSocket struct{ syscall.RawConn }

func (noSocket) Control(func(uintptr)) error { return net.ErrClosed }

// walk is a multiplexer of one connection on which steps are made, each of which is the work of one goroutine up to the
// point where another may come in between.
type walk struct {
	m    *Multiplexer
	c    *conn
	peer net.Conn

	plain, ready *half    // taken out of a queue, by a caller that has not looked at it yet
	leases       []uint64 // live
	holds        bool     // plex holds the half
}

// steps are all steps by their names; each reports whether it could be made.
var steps = map[string]func(w *walk) bool{
	"a plain reader takes an entry out": func(w *walk) bool { return w.take(&w.plain, &w.m.readers) },
	"a ready reader takes an entry out": func(w *walk) bool { return w.take(&w.ready, &w.m.ready) },
	"the plain reader leases":           func(w *walk) bool { return w.lease(&w.plain, &w.m.readers) },
	"the ready reader leases":           func(w *walk) bool { return w.lease(&w.ready, &w.m.ready) },
	"a lease ends": func(w *walk) bool {
		if len(w.leases) == 0 {
			return false
		}
		_ = w.c.r.close(w.leases[0])
		w.leases = w.leases[1:]
		return true
	},
	"the lease leaves something over": func(w *walk) bool {
		return w.consume(len(w.c.r.back) == 0, func(h *half) { h.back = [][]byte{{1}} })
	},
	"the lease reads what was left over": func(w *walk) bool {
		return w.consume(len(w.c.r.back) > 0, func(h *half) { h.back = nil })
	},
	"the lease finds the end": func(w *walk) bool {
		return w.consume(!w.c.r.ended, func(h *half) {
			h.ended = true
			h.state.Or(ending)
			h.conn.w.retire()
		})
	},
	"something comes": func(w *walk) bool {
		word := w.c.r.state.Load()
		w.c.r.becomeReady(uint32(word / leaseOne))
		return word != w.c.r.state.Load()
	},
	"something came before the last lease": func(w *walk) bool {
		word := w.c.r.state.Load()
		w.c.r.becomeReady(uint32(word/leaseOne - 1))
		if word != w.c.r.state.Load() {
			panic("it is taken for news")
		}
		return false // it changes nothing
	},
	"plex holds it": func(w *walk) bool {
		if w.holds || !w.c.r.hold() {
			return false
		}
		w.holds = true
		return true
	},
	"the hold ends":                    func(w *walk) bool { return w.letGo(false) },
	"the hold ends, and it is retired": func(w *walk) bool { return w.letGo(true) },
	"it is retired": func(w *walk) bool {
		if w.c.r.state.Load()&gone != 0 {
			return false
		}
		w.c.r.retire()
		return true
	},
	"entries that are of no use are swept out": func(w *walk) bool {
		before := len(w.m.readers.idle) + len(w.m.ready.idle)
		w.m.readers.sweep(1)
		w.m.ready.sweep(1)
		return before != len(w.m.readers.idle)+len(w.m.ready.idle)
	},
}

func (w *walk) take(hand **half, q *queue) bool {
	if *hand != nil || len(q.idle) == 0 {
		return false
	}
	*hand = <-q.idle
	return true
}

func (w *walk) lease(hand **half, q *queue) bool {
	if *hand == nil {
		return false
	}
	if id, ok := q.lease(*hand, false); ok {
		w.leases = append(w.leases, id)
	}
	*hand = nil
	return true
}

// consume does what a consumer with a lease may lead to.
func (w *walk) consume(may bool, do func(h *half)) bool {
	if len(w.leases) == 0 || !may {
		return false
	}
	do(&w.c.r)
	w.c.r.noteBacklog()
	return true
}

func (w *walk) letGo(retire bool) bool {
	if !w.holds {
		return false
	}
	w.holds = false
	w.c.r.endHold(retire)
	return true
}

// place is all that tells one situation from another.
type place struct {
	word                 uint64 // without the number of the lease
	plain, ready         int    // entries in the queues
	plainHand, readyHand bool
	leases               int
	holds, settled       bool
	stale                int64
}

func (w *walk) place() place {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	return place{
		w.c.r.state.Load() & flags, len(w.m.readers.idle), len(w.m.ready.idle), w.plain != nil, w.ready != nil,
		len(w.leases), w.holds, w.c.r.settled, w.m.readers.stale.Load(),
	}
}

// wrong says what the accounts of a place have wrong.
func (p place) wrong() error {
	entries, readyEntries := p.plain, p.ready
	if p.plainHand {
		entries++
	}
	if p.readyHand {
		readyEntries++
	}
	is := func(flag uint64) bool { return p.word&flag == flag }
	useless := 0 // entries of plain readers that nobody can lease by
	if entries == 1 && (p.settled || is(lent)) {
		useless = 1
	}
	switch {
	case entries > 1 || readyEntries > 1:
		return errors.New("it is in a queue twice")
	case p.leases > 1:
		return errors.New("it has two leases")
	case p.leases == 1 != is(leased):
		return errors.New("its word does not say whether it is leased")
	case p.holds && !is(held):
		return errors.New("its word does not say that it is held")
	case is(queued) != (readyEntries == 1) && !is(gone): // else it has been swept out
		return errors.New("its word does not say whether it is in the ready queue")
	case p.settled != (is(gone) && p.leases == 0 && !p.holds):
		return errors.New("it is settled, and not over, or the other way round")
	case int(p.stale) != useless:
		return fmt.Errorf("of the readers' entries %d are of no use", useless)
	case !is(gone) && p.leases == 0 && !p.holds && entries == 0:
		return errors.New("it is idle, and no plain reader will find it")
	case p.word&(backlog|ending) != 0 && !is(gone) && p.leases == 0 && !p.holds && readyEntries == 0:
		return errors.New("it has something that nobody will tell of, and no ready reader will find it")
	case is(held) && !is(leased) && !p.holds || is(dropped) && !is(held):
		return errors.New("flags are left over")
	}
	return nil
}

// newWalk begins at the beginning and makes the steps.
func newWalk(t *testing.T, path []string) *walk {
	client, server := net.Pipe()
	m, err := New(t.Context(), WithConnections(client), WithConnector(func(ctx context.Context, _ net.Conn) error {
		<-ctx.Done() // that there is one keeps tokens out of the queues
		return ctx.Err()
	}))
	require.NoError(t, err)
	w := &walk{m: m, peer: server}
	for c := range m.conns {
		w.c = c
	}
	w.c.attention, w.c.socket, w.c.watcher = armed, noSocket{}, &watcher{}
	require.NoError(t, m.startAttending())
	for _, name := range path {
		steps[name](w)
	}
	return w
}

func (w *walk) end() { _, _ = w.m.Close(), w.peer.Close() }

// Every order of the steps leads from one of these places to another, so to have been everywhere and made every step
// from there is to have tried all orders, of any length.
func TestTheAccountsHoldInEveryOrderOfWhatCanHappenToAReadHalf(t *testing.T) {
	names := slices.Sorted(maps.Keys(steps))
	start := newWalk(t, nil)
	been := map[place][]string{start.place(): nil}
	start.end()
	news := slices.Collect(maps.Keys(been))
	for len(news) > 0 {
		from := news[0]
		news = news[1:]
		for _, name := range names {
			w := newWalk(t, been[from])
			require.Equal(t, from, w.place(), "the same steps lead to the same place: %q", been[from])
			made := steps[name](w)
			to := w.place()
			w.end()
			if _, ok := been[to]; ok || !made {
				continue
			}
			path := append(slices.Clone(been[from]), name)
			been[to] = path
			if err := to.wrong(); err != nil {
				require.FailNow(t, err.Error(), "after %q: %+v", path, to)
			}
			news = append(news, to)
		}
	}
	longest := slices.MaxFunc(slices.Collect(maps.Values(been)), func(a, b []string) int { return cmp.Compare(len(a), len(b)) })
	t.Logf("%d places, the farthest of them %d steps away", len(been), len(longest))
	require.Greater(t, len(been), 50)
}

// From the beginning of the end on, also before it has come to what was idle and ready.
func TestNobodyIsGivenAReadyReaderOnceTheEndHasBegun(t *testing.T) {
	w := newWalk(t, []string{"something comes"})
	defer w.end()
	before := w.place()
	require.Equal(t, 1, before.ready)
	w.m.mu.Lock()
	settle := w.m.refuseLocked()
	w.m.mu.Unlock()
	_, err := w.m.ReadyReader(t.Context(), -1)
	require.ErrorIs(t, err, ErrClosed)
	require.Zero(t, w.place().leases)
	for _, f := range settle {
		f()
	}
}
