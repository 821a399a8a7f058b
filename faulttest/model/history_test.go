package model

// Histories of many goroutines that lease at the same time, checked with porcupine: there has to be an order in which a
// sequential pool could have done the same, in which each operation takes place between its call and its return. In
// such an order a half is leased to one at a time, a caller that does not wait goes away empty only if nothing is idle,
// and a connection that was killed is not leased again.
//
// A call of Duplex is a wait for a half of each kind, and Conn.Writer one for just this half.
//
// What the model leaves open: a caller whose timeout passes may have been unlucky, and goes away empty whatever is idle
// by then. And a caller may have a half in its hands, and be about to lease it, when its connection is killed; then
// nobody has ever had the half, and still it was not idle (see hands). A caller of Duplex looks at write halves and lets
// go of them again, and a caller who wants just this writer may get what another has just been handed. So where there are
// such callers, whoever does not want to wait may go away empty.

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
)

// action is the input of an operation, on the halves of one kind.
type action struct {
	do     string // "try", "wait", "named", "close", "kill", "add", "hand"
	conn   int    // of all but try and wait
	beside bool   // others ask for whole connections, and for writers by name
}

// result is its output: for try and wait the connection, or why there was none.
type result struct {
	conn int
	err  error
}

// halves is the model's state: those that are idle, and those of connections that have not been killed.
type halves struct{ idle, alive uint64 }

var leasing = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{halves{}} },
	Step: func(state, input, output any) []any {
		s, in, out := state.(halves), input.(action), output.(result)
		bit := uint64(1) << in.conn
		switch in.do {
		case "kill":
			return []any{halves{s.idle &^ bit, s.alive &^ bit}}
		case "hand":
			return []any{s, halves{s.idle &^ bit, s.alive}}
		case "add":
			return []any{halves{s.idle | bit, s.alive | bit}}
		case "close":
			if s.idle&bit != 0 {
				return nil
			}
			return []any{halves{s.idle | bit&s.alive, s.alive}}
		}
		possible := true
		switch {
		case out.err == nil:
			bit = 1 << out.conn
			possible = (in.do != "named" || out.conn == in.conn) && s.idle&bit != 0
			s.idle &^= bit
		case errors.Is(out.err, plex.ErrNoConnections):
			possible = s.alive == 0
		case in.do == "named":
			possible = in.beside || s.idle&bit == 0
		case in.do == "try":
			possible = in.beside || s.idle == 0
		}
		if !possible {
			return nil
		}
		return []any{s}
	},
	DescribeOperation: func(input, output any) string {
		in, out := input.(action), output.(result)
		switch {
		case in.do != "try" && in.do != "wait" && in.do != "named":
			return fmt.Sprintf("%s %d", in.do, in.conn)
		case out.err != nil:
			return fmt.Sprintf("%s: %v", in.do, out.err)
		}
		return fmt.Sprintf("%s: %d", in.do, out.conn)
	},
	DescribeState: func(state any) string {
		s := state.(halves)
		return fmt.Sprintf("idle %b, alive %b", s.idle, s.alive)
	},
}).ToModel()

// hands adds to a history what may have happened unseen: a half came into the hands of a caller, who before it could
// lease it found that its connection had just been killed, and went on to look for another.
func hands(ops []porcupine.Operation) []porcupine.Operation {
	all := slices.Clone(ops)
	for _, kill := range ops {
		if kill.Input.(action).do != "kill" {
			continue
		}
		earliest := kill.Return
		for _, op := range ops {
			do := op.Input.(action).do
			if (do == "try" || do == "wait" || do == "named") && op.Call < kill.Return && op.Return > kill.Call {
				earliest = min(earliest, op.Call)
			}
		}
		if earliest < kill.Return {
			all = append(all, porcupine.Operation{
				ClientId: 1000 + len(all), Input: action{do: "hand", conn: kill.Input.(action).conn},
				Call: earliest, Output: result{}, Return: kill.Return,
			})
		}
	}
	return all
}

// recorder writes two histories, of the readers and of the writers.
type recorder struct {
	clock atomic.Int64
	mu    sync.Mutex
	ops   [2][]porcupine.Operation
	names []plex.Conn
}

// named remembers a connection for those who want its writer, and picks one.
func (r *recorder) named(rng *rand.Rand, name plex.Conn) plex.Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	if (name != plex.Conn{}) {
		r.names = append(r.names, name)
	}
	if len(r.names) == 0 {
		return plex.Conn{}
	}
	return r.names[rng.IntN(len(r.names))]
}

// note records an operation on halves of the kinds given.
func (r *recorder) note(client int, in action, do func() result, kinds ...int) result {
	call := r.clock.Add(1)
	out := do()
	end := r.clock.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, kind := range kinds {
		r.ops[kind] = append(r.ops[kind], porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: end})
	}
	return out
}

func TestHistoriesOfLeasesCouldHaveBeenSequential(t *testing.T) {
	rounds := 150
	if testing.Short() {
		rounds = 20
	}
	for round := range rounds {
		seed := rand.Uint64()
		r := play(t, seed, round%2 == 0)
		for kind, ops := range r.ops {
			verdict, info := porcupine.CheckOperationsVerbose(leasing, hands(ops), 10*time.Second)
			if verdict != porcupine.Illegal {
				continue // Unknown: it took too long to find an order
			}
			file := filepath.Join(os.TempDir(), fmt.Sprintf("plex-history-%d.html", seed))
			require.NoError(t, porcupine.VisualizePath(leasing, info, file))
			t.Fatalf("round %d, seed %d: the history of the %s has no sequential order; see %s",
				round, seed, [...]string{"readers", "writers"}[kind], file)
		}
	}
}

// play has a few goroutines lease, close, kill, add and look at the figures, and records what they saw.
// Mixed says that they ask for whole connections and for writers by name, too.
func play(t *testing.T, seed uint64, mixed bool) *recorder {
	const clients, steps = 8, 30
	var (
		r       recorder
		network network
		adds    atomic.Int64
		setup   = rand.New(rand.NewPCG(seed, 0))
		given   = 1 + setup.IntN(4)
	)
	ctx := context.Background()
	m, err := plex.New(ctx, plex.WithMaxCapacity(given))
	require.NoError(t, err)
	add := func(client int) {
		if adds.Add(1) > 60 {
			return // there are no more bits
		}
		nc := network.dial()
		// It is only in the history if it was taken. That is known afterwards, but what comes of it may be seen before.
		in := action{do: "add", conn: int(nc.id)}
		call := r.clock.Add(1)
		rest, _ := m.Add(ctx, nc)
		end := r.clock.Add(1)
		if len(rest) > 0 {
			_ = nc.Close()
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		for kind := range r.ops {
			r.ops[kind] = append(r.ops[kind], porcupine.Operation{ClientId: client, Input: in, Call: call, Output: result{}, Return: end})
		}
	}
	for range given {
		add(0)
	}

	var wg sync.WaitGroup
	for client := range clients {
		rng := rand.New(rand.NewPCG(seed, uint64(1+client)))
		wg.Go(func() {
			for range steps {
				in, timeout := action{do: "try"}, time.Duration(-1)
				if rng.IntN(2) == 0 {
					in.do, timeout = "wait", time.Duration(1+rng.IntN(200))*time.Microsecond
				}
				got, held := r.take(m, client, rng, in, timeout, mixed)
				if got.err != nil {
					if errors.Is(got.err, plex.ErrNoConnections) || rng.IntN(10) == 0 {
						add(client)
					}
					continue
				}
				r.named(rng, held.name)
				for range rng.IntN(3) {
					runtime.Gosched()
				}
				in, kinds := action{do: "close", conn: got.conn}, held.kinds
				end := held.Close
				if rng.IntN(12) == 0 {
					in.do, kinds, end = "kill", []int{0, 1}, held.Kill // it ends the lease and the other half
				}
				r.note(client, in, func() result { return result{err: end()} }, kinds...)
				if rng.IntN(20) == 0 {
					s := m.Stats()
					if s.Open > s.Capacity || s.LeasedReaders > clients || s.LeasedWriters > clients {
						t.Errorf("seed %d: %+v", seed, s)
					}
				}
			}
		})
	}
	wg.Wait()
	require.NoError(t, m.Close())
	for _, c := range network.conns {
		require.Equal(t, 1, c.peek().closes)
	}
	return &r
}

type handle interface {
	Close() error
	Kill() error
	RemoteAddr() net.Addr
}

// held is a lease.
type held struct {
	handle
	name  plex.Conn
	kinds []int
}

// take asks for something.
func (r *recorder) take(m *plex.Multiplexer, client int, rng *rand.Rand, in action, timeout time.Duration, mixed bool) (result, held) {
	ctx, h, kind := context.Background(), held{}, rng.IntN(2)
	if mixed {
		kind = rng.IntN(6)
	}
	in.beside = mixed
	name := r.named(rng, plex.Conn{})
	if kind == 5 && name == (plex.Conn{}) {
		kind = 1
	}
	lease := func() (err error) {
		switch kind {
		case 0, 2:
			l, e := m.Reader(ctx, timeout)
			h, err = held{l, l.Conn(), []int{0}}, e
		case 1, 3:
			l, e := m.Writer(ctx, timeout)
			h, err = held{l, l.Conn(), []int{1}}, e
		case 4:
			l, e := m.Duplex(ctx, timeout)
			h, err = held{l, l.Conn(), []int{0, 1}}, e
		default:
			l, e := name.Writer(ctx, timeout)
			h, err = held{l, l.Conn(), []int{1}}, e
		}
		return err
	}
	call := r.clock.Add(1)
	err := lease()
	end := r.clock.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	out := result{number(h.RemoteAddr()), err}
	switch {
	case kind == 4:
		if err != nil {
			return out, h // it needs more than there may have been
		}
		in.do = "wait"
	case kind == 5:
		if errors.Is(err, plex.ErrTimeout) && in.do != "try" || err != nil && !errors.Is(err, plex.ErrTimeout) {
			return out, h // it was unlucky, or the connection has ended
		}
		in.do, in.conn = "named", number(name.RemoteAddr())
	}
	kinds := h.kinds
	for _, kind := range kinds {
		r.ops[kind] = append(r.ops[kind], porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: end})
	}
	return out, h
}

// number is that of the connection with this address.
func number(addr net.Addr) (n int) {
	if addr != nil {
		_, _ = fmt.Sscanf(addr.String(), "peer-%d", &n)
	}
	return n
}

func TestTheModelOfHistoriesRefusesWhatMustNotBe(t *testing.T) {
	op := func(client int, call, end int64, in action, out result) porcupine.Operation {
		return porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: end}
	}
	add := op(0, 1, 2, action{do: "add", conn: 1}, result{})
	for name, history := range map[string][]porcupine.Operation{
		"leased twice": {
			add, op(1, 3, 6, action{do: "try"}, result{conn: 1}), op(2, 4, 5, action{do: "wait"}, result{conn: 1}),
		},
		"refused though idle": {add, op(1, 3, 4, action{do: "try"}, result{err: plex.ErrTimeout})},
		"leased when killed": {
			add, op(1, 3, 4, action{do: "try"}, result{conn: 1}), op(1, 5, 6, action{do: "kill", conn: 1}, result{}),
			op(2, 7, 8, action{do: "try"}, result{conn: 1}),
		},
		"put back twice": {
			add, op(1, 3, 4, action{do: "try"}, result{conn: 1}), op(1, 5, 6, action{do: "close", conn: 1}, result{}),
			op(1, 7, 8, action{do: "close", conn: 1}, result{}),
		},
		"another one's writer": {
			add, op(0, 3, 4, action{do: "add", conn: 2}, result{}), op(1, 5, 6, action{do: "named", conn: 1}, result{conn: 2}),
		},
		"refused by name though idle": {add, op(1, 3, 4, action{do: "named", conn: 1}, result{err: plex.ErrTimeout})},
		"hopeless too soon":           {add, op(1, 3, 4, action{do: "wait"}, result{err: plex.ErrNoConnections})},
	} {
		require.False(t, porcupine.CheckOperations(leasing, history), name)
	}
	require.True(t, porcupine.CheckOperations(leasing, []porcupine.Operation{
		add, op(1, 3, 6, action{do: "try"}, result{conn: 1}), op(2, 4, 5, action{do: "try"}, result{err: plex.ErrTimeout}),
		op(1, 7, 9, action{do: "close", conn: 1}, result{}), op(2, 8, 10, action{do: "wait"}, result{conn: 1}),
	}))
}

// Callers of Duplex, Reader and Writer and of writers by name, all of whom wait for as long as it takes, are all served.
func TestWhoeverWaitsForWholeConnectionsBlocksNobodyElse(t *testing.T) {
	for conns := 1; conns <= 3; conns++ {
		var network network
		m, err := plex.New(t.Context(), plex.WithMaxCapacity(conns))
		require.NoError(t, err)
		for range conns {
			_, err := m.Add(t.Context(), network.dial())
			require.NoError(t, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		end := func(l interface{ Close() error }, err error) {
			if err == nil {
				runtime.Gosched()
				err = l.Close()
			}
			if err != nil {
				t.Error(err)
			}
		}
		var wg sync.WaitGroup
		for i := range 12 {
			wg.Go(func() {
				for range 300 {
					switch i % 4 {
					case 0:
						d, err := m.Duplex(ctx, 0)
						end(d, err)
					case 1:
						r, err := m.Reader(ctx, 0)
						end(r, err)
					case 2:
						w, err := m.Writer(ctx, 0)
						end(w, err)
					default:
						for name := range m.Conns() {
							w, err := name.Writer(ctx, 0)
							end(w, err)
						}
					}
				}
			})
		}
		wg.Wait()
		require.NoError(t, m.Close())
	}
}
