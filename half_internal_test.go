package plex

// A walk through all that can happen to a half, on a real half in a real queue.

import (
	"cmp"
	"container/list"
	"context"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex/internal/fakenet"
)

// walk is a multiplexer of one connection on which steps are made. Each step is the work of one
// goroutine up to the point where another may come in between.
type walk struct {
	m *Multiplexer
	c *conn
	h *half // the one that is walked

	peerEnded bool

	hand    *half // taken out of the queue, by a caller that has not looked at it yet
	id      word  // the lease, 0 if there is none
	holds   bool  // the walk, as plex, holds the half
	noticed bool  // somebody has noticed the peer's end and has not gone on
	sees    bool  // and the half has not been inspected
	ended   int   // how often the read half was over
	wrong   string
}

// steps are all steps by their names; each reports whether it could be made.
var steps = map[string]func(w *walk) bool{
	"a caller takes the entry out": func(w *walk) bool {
		if w.hand != nil || len(w.h.queue.idle) == 0 {
			return false
		}
		w.hand = <-w.h.queue.idle
		return true
	},
	"the caller leases": func(w *walk) bool {
		if w.hand == nil {
			return false
		}
		if id, ok := w.hand.lease(); ok {
			if w.id != 0 {
				w.wrong = "two leases"
			}
			w.id = id
		}
		w.hand = nil
		return true
	},
	"the lease ends": func(w *walk) bool {
		if w.id == 0 || !w.h.live(w.id) {
			return false
		}
		_ = w.h.close(w.id)
		w.id = 0
		w.triedIfDue()
		return true
	},
	"the lease begins to end": func(w *walk) bool { return w.id != 0 && w.h.beginEnd(w.id) },
	"the end of the lease goes on": func(w *walk) bool {
		if w.id == 0 || w.h.live(w.id) {
			return false
		}
		_ = w.h.end(w.id)
		w.id = 0
		w.triedIfDue()
		return true
	},
	"the lease is killed": func(w *walk) bool {
		if w.id == 0 || w.h.kill(w.id) != nil {
			return false
		}
		if !w.h.word().is(leaseLive) {
			w.id = 0
		}
		return true
	},
	"the lease leaves something over": func(w *walk) bool {
		return !w.h.writes() && len(w.h.back) == 0 && w.operate(func() { w.h.back = [][]byte{{1}}; w.h.noteLeft() })
	},
	"the lease reads what was left over": func(w *walk) bool {
		return !w.h.writes() && len(w.h.back) > 0 && w.operate(func() { _, _ = w.h.read(make([]byte, 1)) })
	},
	"the lease reads the end": func(w *walk) bool {
		return !w.h.writes() && len(w.h.back) == 0 && w.peerEnded && w.operate(func() { _, _ = w.h.read(make([]byte, 1)) })
	},
	"the peer ends": func(w *walk) bool {
		was := w.peerEnded
		w.peerEnded = true
		return !was
	},
	"the end is noticed": func(w *walk) bool {
		if w.noticed || !w.peerEnded {
			return false
		}
		w.noticed, w.sees = true, true
		w.c.peerNoticed()
		return true
	},
	"who noticed the end goes on": func(w *walk) bool {
		if !w.sees {
			return false
		}
		w.sees = false
		w.c.leave(whyLost)
		w.c.w.retire()
		w.c.inspect()
		return true
	},
	"something comes": func(w *walk) bool {
		before := w.h.word()
		w.arrives(before.tag())
		return w.h.word() != before
	},
	"something came before the last lease": func(w *walk) bool {
		before, attended := w.h.word(), len(w.c.parkWake)
		w.arrives(before.tag() - 1)
		if w.h.word() != before && !(w.c.attention == armed && before.is(dataLeft|connEnded)) {
			w.wrong = "an old event was taken for news"
		}
		return attended != len(w.c.parkWake) || w.h.word() != before
	},
	"it becomes due": func(w *walk) bool {
		w.m.mu.Lock()
		defer w.m.mu.Unlock()
		next, ok := w.c.life.turn(phaseOpen, whyExpired)
		if ok {
			w.c.life, w.c.dueAt = next, new(list.Element) // in no list of the supervisor's, so that only steps try it
			w.c.r.set(connDue)
			w.c.w.set(connDue)
		}
		return ok
	},
	"plex tries what is due": func(w *walk) bool {
		if !w.h.word().is(connDue) {
			return false
		}
		w.c.retireDue()
		return true
	},
	"plex holds it": func(w *walk) bool {
		if w.holds || !w.h.hold() {
			return false
		}
		w.holds = true
		return true
	},
	"the hold ends": func(w *walk) bool {
		return w.release(func() {
			if w.h.writes() {
				w.h.arrive(fromHold)
			} else {
				w.h.arrive(w.c.afterLook(fromHold))
			}
		})
	},
	"the hold ends when all is read": func(w *walk) bool {
		return !w.h.writes() && w.h.word().is(connEnded) && w.release(w.c.readRemains)
	},
	"the hold retires it": func(w *walk) bool { return w.release(func() { w.h.arrive(intoRetire) }) },
	"it is retired": func(w *walk) bool {
		before := w.h.word()
		w.h.retire()
		return w.h.word() != before
	},
	"useless entries are swept out": func(w *walk) bool {
		before := len(w.h.queue.idle)
		w.h.queue.sweep(1)
		return before != len(w.h.queue.idle)
	},
	"any reader is asked for":     func(w *walk) bool { return w.decide(readsAny) },
	"ready readers are asked for": func(w *walk) bool { return w.decide(readsReady) },
}

// arrives tells the read half that something has arrived, as the poller does if there is one.
func (w *walk) arrives(tag uint32) {
	switch {
	case w.h.writes():
	case w.c.attention == armed:
		w.c.arrived(tag)
	default:
		w.h.becomeReady(tag)
	}
}

// triedIfDue checks that the end of a lease has tried to retire a connection that is due.
func (w *walk) triedIfDue() {
	synctest.Wait()
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	idle := w.c.r.word().idle() && w.c.w.word().idle() && w.hand == nil
	if idle && w.c.life.due() && len(w.c.r.back) == 0 && !w.peerEnded && w.m.canSpareLocked(time.Now()) {
		w.wrong = "its connection is due, and the end of the lease has not tried to retire it"
	}
}

// operate does what an operation of the lease may lead to.
func (w *walk) operate(f func()) bool {
	if w.id == 0 || w.h.enter(w.id) != nil {
		return false
	}
	f()
	w.h.leave(w.id)
	return true
}

func (w *walk) release(f func()) bool {
	if !w.holds {
		return false
	}
	w.holds = false
	f()
	return true
}

func (w *walk) decide(mode int32) bool {
	return w.m.reading.Load() == readsUndecided && w.m.decideReading(mode) == nil
}

// place is all that tells one situation from another.
type place struct {
	word                               word // without the number of the lease
	entries                            int
	hand, lease, holds, attended       bool
	noticed, sees, ended, failed, left bool
	due                                bool
	mode                               int32
	stage                              stage
	phase                              phase
	over                               int
	stale, circulating                 int64
	listed, leased                     int
	wrong                              string
}

func (w *walk) place() place {
	synctest.Wait()
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	q := w.h.queue
	return place{
		word: w.h.word() & flagMask, entries: len(q.idle), hand: w.hand != nil, lease: w.id != 0, holds: w.holds,
		attended: len(w.c.parkWake) > 0, noticed: w.noticed, sees: w.sees, ended: w.peerEnded,
		due: w.c.life.due(), failed: w.c.failure() != nil, left: len(w.h.back) > 0, mode: w.m.reading.Load(),
		stage: stage(w.c.peer.stage.Load()), phase: w.c.life.phase, over: w.ended,
		stale: q.stale.Load(), circulating: q.circulating.Load(), listed: q.listed(), leased: q.leased(), wrong: w.wrong,
	}
}

// broken says which invariant does not hold in a place.
func (p place) broken(writes bool, how attention) string {
	entries := p.entries
	if p.hand {
		entries++
	}
	idle := !p.lease && !p.holds && !p.word.is(poolRetired)
	var stale, circulating int64
	if entries == 1 && !idle {
		stale = 1
	}
	if p.lease || entries == 1 && idle {
		circulating = 1
	}
	over := p.word.is(poolRetired) && !p.lease && !p.holds
	switch {
	case p.wrong != "":
		return p.wrong
	case entries > 1:
		return "it is in the queue twice"
	case p.word.is(poolListed) != (entries == 1):
		return "its word does not say whether it is listed"
	case p.word.is(leaseLive) != p.lease:
		return "its word does not say whether it is leased"
	case p.word.is(poolHeld) != p.holds:
		return "its word does not say whether it is held"
	case p.stale != stale || p.circulating != circulating:
		return "the queue's account is wrong"
	case !p.hand && (p.listed != int(circulating) && !p.lease || p.lease && (p.listed != 0 || p.leased != 1)):
		return "the queue's figures are wrong"
	case p.word.over() != over:
		return "its word does not say whether it is over"
	case !writes && (p.over == 1) != over || p.over > 1:
		return "it was not settled once when it was over"
	case p.word.is(dataLeft) != p.left && !over:
		return "its word does not say whether something is left over"
	case idle && (writes || p.mode == readsAny) && entries == 0:
		return "it is idle, and nobody will find it"
	case idle && p.mode == readsReady && p.word.is(dataLeft|connEnded) && entries == 0 && !p.sees:
		return "it has something that nobody will be told of"
	case idle && p.mode == readsReady && entries == 0 && !p.attended && !p.sees:
		return "it is idle, and nobody attends to it"
	case idle && !writes && p.word.is(connEnded) && !p.left && !p.sees && p.stage < peerRead:
		return "its connection has ended, and nobody has looked"
	case over && writes && p.stage >= peerRead && p.phase < phaseClosing:
		return "nobody needs the transport, and it is open"
	}
	return ""
}

// newWalk begins at the beginning and makes the steps of a path.
func newWalk(t *testing.T, writes bool, how attention, path []string) *walk {
	w := &walk{}
	nc, _ := fakenet.Pair()
	nc.OnRead(func([]byte, func([]byte) (int, error)) (int, error) { // it never blocks
		if w.peerEnded {
			return 0, io.EOF
		}
		return 0, os.ErrDeadlineExceeded
	})
	m, err := New(t.Context(), WithConnections(nc), WithConnector(DialFunc(func(ctx context.Context) (net.Conn, error) {
		<-ctx.Done() // with a connector there are no tokens in the queues
		return nil, ctx.Err()
	})))
	require.NoError(t, err)
	w.m, w.c = m, m.roster.all()[0]
	w.h = &w.c.r
	if writes {
		w.h = &w.c.w
	}
	w.c.attention = how                   // nothing can be armed without a socket, so an armed half is parked in the end
	w.c.parkWake = make(chan struct{}, 1) // nobody listens: it says that somebody attends
	w.c.ends = nil
	Conn{w.c}.AfterEnd(func(error) { w.ended++ })
	for _, name := range path {
		steps[name](w)
		synctest.Wait()
	}
	return w
}

// Every order of the steps leads from one of these places to another. So having been everywhere, and
// having made every step from there, is having tried all orders, of any length.
func walkEverywhere(t *testing.T, writes bool, how attention, atLeast int) {
	synctest.Test(t, func(t *testing.T) {
		names := slices.Sorted(maps.Keys(steps))
		start := newWalk(t, writes, how, nil)
		been := map[place][]string{start.place(): nil}
		require.Empty(t, start.place().broken(writes, how))
		_ = start.m.Close()
		news := slices.Collect(maps.Keys(been))
		for len(news) > 0 {
			from := news[0]
			news = news[1:]
			for _, name := range names {
				w := newWalk(t, writes, how, been[from])
				require.Equal(t, from, w.place(), "the same steps lead to the same place: %q", been[from])
				made := steps[name](w)
				to := w.place()
				_ = w.m.Close()
				if _, ok := been[to]; ok || !made && w.wrong == "" {
					continue
				}
				path := append(slices.Clone(been[from]), name)
				been[to] = path
				require.Empty(t, to.broken(writes, how), "after %q: %v, %+v", path, to.word, to)
				news = append(news, to)
			}
		}
		longest := slices.MaxFunc(slices.Collect(maps.Values(been)), func(a, b []string) int { return cmp.Compare(len(a), len(b)) })
		t.Logf("%d places, the farthest of them %d steps away", len(been), len(longest))
		require.Greater(t, len(been), atLeast)
	})
}

func TestReadHalfInEveryOrderOfWhatCanHappenToIt(t *testing.T) {
	for name, how := range map[string]attention{"parked": parked, "armed": armed, "blind": blind} {
		t.Run(name, func(t *testing.T) { walkEverywhere(t, false, how, 1000) })
	}
}

func TestWriteHalfInEveryOrderOfWhatCanHappenToIt(t *testing.T) { walkEverywhere(t, true, parked, 400) }
