package layers_test

// Requests, and servers that answer in all the ways that servers have.

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/layers"
	"go.atomizer.io/plex/faulttest/proxy"
	"go.atomizer.io/plex/faulttest/scaffold"
	"go.atomizer.io/plex/message"
	"go.atomizer.io/plex/request"
)

// executor starts a server that answers.
func executor(t testing.TB, script func(k int) proxy.Script) (*layers.Executor, *proxy.Proxy) {
	t.Helper()
	e := &layers.Executor{}
	return e, serve(t, proxy.Config{Handler: func(c *proxy.Conn) { e.Serve(c) }, Script: script})
}

// Replies come in any order, after random times, cut to pieces and stalled: each reaches its own caller.
// Catches: replies handed out in the order of the requests; a reply cut in two that is parsed as it is.
func TestFaultRepliesOutOfOrder(t *testing.T) {
	for name, script := range map[string]func(k int) proxy.Script{
		"in one piece": nil,
		"byte by byte": func(int) proxy.Script {
			return proxy.Script{Steps: []proxy.Step{{Do: proxy.Slice, Size: 1}, {Do: proxy.Slice, Dir: proxy.Up, Size: 3}}}
		},
		"stalled": func(k int) (s proxy.Script) {
			for i := range uint64(50) {
				s.Steps = append(s.Steps, proxy.Step{Do: proxy.Stall, Dir: proxy.Dir(i % 2), After: 501 * i, For: time.Millisecond})
			}
			return s
		},
	} {
		t.Run(name, func(t *testing.T) {
			e, p := executor(t, script)
			a := ask(t, mux(t, p, 4), e, p)
			a.together(100, func(_ int, rng *rand.Rand) {
				for range 20 {
					q := layers.Ask{Size: rng.IntN(60), ReplySize: rng.IntN(60)}
					if rng.IntN(2) == 0 {
						q.Manner, q.Delay = layers.Later, time.Duration(rng.IntN(3000))*time.Microsecond
					}
					if _, err := a.Do(context.Background(), q); err != nil {
						t.Error(err)
					}
				}
			})
			require.EqualValues(t, 2000, a.Count(layers.Replied))
			a.over()
		})
	}
}

// Connections end by RST, FIN and half close at random bytes of either direction, under many callers: every call ends,
// with its own reply or with the cause, at once.
// Catches: a call that is forgotten; a reply that had arrived and is thrown away; a request sent again.
func TestFaultConnectionsEndUnderRequests(t *testing.T) {
	e, p := executor(t, proxy.Random(testSeed(t), proxy.Rates{
		AcceptClose: 0.02, AcceptReset: 0.02, Reset: 0.44, FIN: 0.32, HalfClose: 0.2, // each ends: one alone could bear all requests
		Stall: 0.2, Slice: 0.1, Bytes: 8 << 10, Longer: time.Millisecond,
	}))
	m := lazy(t, p, 8)
	a := ask(t, m, e, p)
	began := time.Now()
	each := func() bool { // few connections may do for all callers
		return a.Count(layers.Replied) > 0 && a.Count(layers.Reset) > 0 && a.Count(layers.Ended) > 0
	}
	a.together(60, func(_ int, rng *rand.Rand) {
		for !enough(began, 700*time.Millisecond, each) {
			q := layers.Ask{Size: rng.IntN(200), ReplySize: rng.IntN(200)}
			if rng.IntN(4) == 0 {
				q.Manner, q.Delay = layers.Later, time.Duration(rng.IntN(2000))*time.Microsecond
			}
			_, _ = a.Do(context.Background(), q) // the book has the outcome
		}
	})
	require.NotZero(t, a.Count(layers.Replied))
	require.NotZero(t, a.Count(layers.Reset))
	require.NotZero(t, a.Count(layers.Ended))
	require.Zero(t, a.Count(layers.Canceled))
	a.over()
}

// One request at a time, over connections that end after every byte of it, and after every byte of its reply: MaybeSent
// is true unless nothing of it was written, and what is whole at the server is executed once.
// Catches: MaybeSent false for a request that was written; a reply delivered although the last byte is missing.
func TestFaultEndAtEveryByteOfARequest(t *testing.T) {
	q := layers.Ask{Size: 5, ReplySize: 5}
	frame, err := (&layers.Calls{}).Append(nil, 0, q)
	require.NoError(t, err)
	const reply = 4 + 17 + 5 + 4
	for _, c := range []struct {
		kind proxy.Kind
		dir  proxy.Dir
		size int
	}{
		{proxy.Reset, proxy.Up, len(frame)},
		{proxy.FIN, proxy.Up, len(frame)},
		{proxy.HalfClose, proxy.Up, len(frame)},
		{proxy.Reset, proxy.Down, reply},
		{proxy.FIN, proxy.Down, reply},
		{proxy.HalfClose, proxy.Down, reply},
	} {
		t.Run(c.kind.String()+" "+c.dir.String(), func(t *testing.T) {
			e, p := executor(t, func(k int) (s proxy.Script) {
				if k > 0 && k <= c.size { // the byte in front of which it ends
					s.Steps = []proxy.Step{{Do: c.kind, Dir: c.dir, After: uint64(k)}}
				}
				return s
			})
			m := mux(t, p, 1)
			eventually(t, func() bool { return p.Accepted() == 1 }, "the first")
			p.ResetAll()
			a := ask(t, m, e, p)
			for k := 1; k <= c.size; k++ {
				eventually(t, func() bool { return p.Accepted() > k && m.Stats().Open == 1 }, "connection %d", k)
				before := e.Executed()
				o, err := a.Do(context.Background(), q)
				var failed *request.Error
				switch {
				case err == nil:
					require.Equal(t, c.size, k, "a reply on a connection that ends before the last byte")
				default:
					require.ErrorAs(t, err, &failed)
					require.True(t, failed.MaybeSent, "it was written: %v", err)
					require.Contains(t, []layers.Outcome{layers.Reset, layers.Ended}, o, "%v", err)
				}
				if c.dir == proxy.Down || k == c.size && c.kind == proxy.HalfClose {
					eventually(t, func() bool { return e.Executed() == before+1 }, "request %d is executed", k)
				}
				if k < c.size {
					eventually(t, func() bool { return p.Accepted() > k+1 }, "connection %d has ended, and is replaced", k)
				}
			}
			a.over()
		})
	}
}

// Connections are lost while requests are written to a peer that reads nothing: those requests fail with the cause, as
// maybe sent, and what others ask goes on over other connections.
// Catches: a Write that blocks its caller for ever; a request said not to have been sent of which half is on its way.
func TestFaultLostWhileWriting(t *testing.T) {
	for _, end := range []string{"reset", "ctx", "close of the client"} {
		t.Run(end, func(t *testing.T) {
			release := make(chan struct{})
			e := &layers.Executor{Deaf: func(k int) <-chan struct{} {
				if k == 0 {
					return release
				}
				return nil
			}}
			p := serve(t, proxy.Config{Handler: func(c *proxy.Conn) { e.Serve(c) }})
			m := mux(t, p, 2)
			a := ask(t, m, e, p)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			var wg sync.WaitGroup
			var outcome atomic.Int32
			var failed *request.Error
			big := func() {
				o, err := a.Do(ctx, layers.Ask{Size: 15 << 20}) // more than the kernel takes
				if err != nil && o != layers.NoConn {
					outcome.Store(int32(o))
					errors.As(err, &failed)
				}
			}
			eventually(t, func() bool { return p.Accepted() == 2 }, "both")
			// One of the two connections is deaf: a request is stuck in it when as many have been tried as there are.
			w, err := m.Writer(ctx, patience)
			require.NoError(t, err)
			other, err := m.Writer(ctx, patience)
			require.NoError(t, err)
			deaf := p.Conn(ctx, 0)
			if w.LocalAddr().String() != deaf.RemoteAddr().String() {
				w, other = other, w
			}
			require.NoError(t, w.Close())
			wg.Go(big)
			eventually(t, func() bool { return a.Client.Stats().Sent == 1 }, "it is being written")
			require.NoError(t, other.Close())
			for range 50 {
				a.must(t.Context(), layers.Ask{Size: 10, ReplySize: 10})
			}
			switch end {
			case "reset":
				deaf.Reset()
			case "ctx":
				cancel()
			default:
				require.NoError(t, a.Client.Close())
			}
			within("the request that is being written", wg.Wait)
			require.NotNil(t, failed)
			require.True(t, failed.MaybeSent, "%v", failed)
			switch o := layers.Outcome(outcome.Load()); end {
			case "reset":
				require.Equal(t, layers.Reset, o, "%v", failed)
			case "ctx":
				require.Equal(t, layers.Canceled, o, "%v", failed)
			default:
				require.Equal(t, layers.Shut, o, "%v", failed)
			}
			if end != "close of the client" {
				eventually(t, func() bool { return m.Stats().Lost == 1 && m.Stats().Open == 2 }, "it is lost, and replaced")
				for range 50 {
					a.must(t.Context(), layers.Ask{Size: 10, ReplySize: 10})
				}
			}
			close(release)
			a.over()
		})
	}
}

// Thousands ask at the same time, and the peer stops reading in the middle of a batch. Then the connection ends in each
// way, or half of the callers give up and the peer goes on: whoever is told that nothing was sent was not heard, nobody
// is heard twice, and those who give up cost nobody else anything.
// Catches: a wrong account of a Write that is cut short; a caller who gives up and whose bytes are sent, or cut in two;
// requests that are left in a batch that nobody writes.
func TestFaultStalledInTheMiddleOfABatch(t *testing.T) {
	const callers, size = 3000, 6000 // more than the kernel takes
	for _, end := range []string{"reset", "half taken, then a reset", "kill", "write timeout", "close of the client", "ctx"} {
		t.Run(end, func(t *testing.T) {
			release := make(chan struct{})
			e := &layers.Executor{Deaf: func(k int) <-chan struct{} {
				if k == 0 {
					return release
				}
				return nil
			}}
			script := func(k int) (s proxy.Script) {
				if k == 0 && end == "half taken, then a reset" {
					s.Steps = []proxy.Step{{Do: proxy.Reset, Dir: proxy.Up, After: 40*size + 1234}}
				}
				return s
			}
			p := serve(t, proxy.Config{Handler: func(c *proxy.Conn) { e.Serve(c) }, Script: script})
			m := mux(t, p, 1)
			w, err := m.Writer(t.Context(), patience)
			require.NoError(t, err)
			require.NoError(t, w.Close())
			var opts []request.Option
			if end == "write timeout" {
				opts = append(opts, request.WithWriteTimeout(100*time.Millisecond))
			}
			a := ask(t, m, e, p, opts...)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			var all sync.WaitGroup
			var told [2]atomic.Int64 // that nothing was sent, that something may have been
			for i := range callers {
				mine := context.Background()
				if i%2 == 0 {
					mine = ctx
				}
				all.Go(func() {
					_, err := a.Do(mine, layers.Ask{Size: size})
					var failed *request.Error
					if !errors.As(err, &failed) {
						return
					}
					if failed.MaybeSent {
						told[1].Add(1)
					} else {
						told[0].Add(1)
					}
				})
			}
			eventually(t, func() bool { return int64(a.Client.Stats().InFlight)+told[0].Load()+told[1].Load() == callers }, "all have asked")
			settled, writes := 0, uint64(0)
			eventually(t, func() bool { // that nothing is written any more, or that it is over
				now := a.Client.Stats().Writes
				if settled++; now != writes {
					settled, writes = 0, now
				}
				return settled > 20
			}, "the peer has stalled")
			switch end {
			case "reset":
				p.Conn(t.Context(), 0).Reset()
			case "half taken, then a reset":
				close(release)
			case "kill":
				w.Conn().Kill()
			case "close of the client":
				require.NoError(t, a.Client.Close())
			case "ctx":
				cancel()
				eventually(t, func() bool { return told[0].Load()+told[1].Load() == callers/2 }, "those who give up")
				require.Zero(t, m.Stats().Lost, "nobody's ctx costs a connection")
				close(release)
			}
			within("the callers", all.Wait)
			require.NotZero(t, told[1].Load())
			if end == "close of the client" {
				require.NotZero(t, told[0].Load(), "the kernel has taken all")
			}
			if end == "ctx" {
				require.NotZero(t, told[0].Load(), "the kernel has taken all")
				require.EqualValues(t, callers/2, a.Count(layers.Replied))
				require.Zero(t, m.Stats().Lost)
			}
			select {
			case <-release:
			default:
				close(release)
			}
			a.over()
		})
	}
}

// A server that never answers: the callers end with their ctx, and nothing of them stays, on a connection that lives.
// Catches: entries that stay for ever; a request in flight that keeps its place after its caller has gone.
func TestFaultServerThatNeverAnswers(t *testing.T) {
	e, p := executor(t, nil)
	a := ask(t, mux(t, p, 2), e, p)
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	const n = 1000
	for range n {
		all.Go(func() {
			if o, err := a.Do(ctx, layers.Ask{Manner: layers.Never}); o != layers.Canceled {
				t.Error(err)
			}
		})
	}
	eventually(t, func() bool { return e.Executed() == n }, "all are asked")
	require.Equal(t, n, a.Client.Stats().InFlight)
	cancel()
	within("calls whose ctx has ended", all.Wait)
	s := a.Client.Stats()
	require.Zero(t, [2]int{s.InFlight, s.Abandoned}, "identifiers are many, so none is kept")
	require.EqualValues(t, n, s.Canceled)
	a.must(t.Context(), layers.Ask{})
	a.over()
}

// Replies that come late, when their callers have gone, are counted and dropped, and nobody else gets them.
// Catches: a late reply given to the next that has the identifier; one that blocks the receiver.
func TestFaultLateReplies(t *testing.T) {
	for name, opts := range map[string][]request.Option{
		"many identifiers": nil,
		"few identifiers":  {request.WithIDs(63)},
	} {
		t.Run(name, func(t *testing.T) {
			e, p := executor(t, nil)
			a := ask(t, mux(t, p, 4), e, p, opts...)
			a.together(40, func(_ int, rng *rand.Rand) {
				both := func() bool { return a.Count(layers.Replied) > 0 && a.Count(layers.Canceled) > 0 }
				began := time.Now()
				for n := 0; n < 40 || !enough(began, 0, both); n++ {
					limit := time.Duration(rng.IntN(2000+50*n)) * time.Microsecond // a busy machine takes longer to reply
					ctx, cancel := context.WithTimeout(context.Background(), limit)
					q := layers.Ask{Manner: layers.Later, Delay: time.Duration(rng.IntN(2000)) * time.Microsecond, ReplySize: 20}
					_, _ = a.Do(ctx, q) // the book has the outcome
					cancel()
				}
			})
			require.NotZero(t, a.Count(layers.Replied))
			canceled := a.Count(layers.Canceled)
			require.NotZero(t, canceled)
			eventually(t, func() bool {
				now, _ := e.Pending()
				s := a.Client.Stats()
				return now == 0 && s.Abandoned == 0 && s.Late == e.Executed()-s.Replies
			}, "all replies have come, and those to nobody are counted; %+v", a.Client.Stats())
			require.Zero(t, a.Client.Stats().Unknown)
			a.must(t.Context(), layers.Ask{})
			a.over()
		})
	}
}

// Replies that come twice, replies to requests that nobody has made, and messages that are no replies.
// Catches: the second reply given to somebody; a count that is not kept; a hook that is not called.
func TestFaultRepliesTwiceUnknownAndUnsolicited(t *testing.T) {
	e, p := executor(t, nil)
	var events atomic.Uint64
	a := ask(t, mux(t, p, 4), e, p, request.WithUnsolicited(func(m message.Message) {
		if events.Add(1)%10 == 0 {
			panic("a hook that panics")
		}
	}))
	a.together(30, func(i int, _ *rand.Rand) {
		for n := range 30 {
			a.must(context.Background(), layers.Ask{
				Manner: []layers.Manner{layers.Twice, layers.BesideUnknown, layers.BesideEvent}[(i+n)%3], ReplySize: n,
			})
		}
	})
	eventually(t, func() bool {
		s := a.Client.Stats()
		return s.Late == 300 && s.Unknown == 300 && s.Unsolicited == 300 && events.Load() == 300 && s.Panicked == 30
	}, "all is counted")
	require.Zero(t, a.Client.Stats().Malformed)
	require.Zero(t, p.Counts()[proxy.Reset])
	a.over()
}

// Garbage kills the connection that brings it: the requests on it fail, with the cause, and those on others do not.
// Catches: replies read from behind garbage; requests on a connection that nobody listens to any more; a receiver that
// ends.
func TestFaultGarbageReplies(t *testing.T) {
	for _, manner := range []layers.Manner{layers.Malformed, layers.Oversized, layers.Unsplit} {
		t.Run(manner.String(), func(t *testing.T) {
			e, p := executor(t, nil)
			m := mux(t, p, 2)
			a := ask(t, m, e, p)
			const rounds = 20
			for i := range rounds {
				var all sync.WaitGroup
				var outOfStep, replied atomic.Int32
				for range 50 {
					all.Go(func() {
						switch o, err := a.Do(context.Background(), layers.Ask{Manner: layers.Later, Delay: 3 * time.Millisecond}); o {
						case layers.Replied:
							replied.Add(1)
						case layers.OutOfStep:
							outOfStep.Add(1)
						case layers.Killed:
							// It came to write when the connection had just been killed, and its requests had been
							// told why; the transport, which is closed behind that, may have taken it all the same.
							outOfStep.Add(1)
						default:
							t.Error(o, err)
						}
					})
				}
				eventually(t, func() bool { return a.Client.Stats().Sent+a.Client.Stats().Replies > uint64(51*i) }, "requests")
				o, err := a.Do(context.Background(), layers.Ask{Manner: manner, ReplySize: 10})
				require.Equal(t, layers.OutOfStep, o, "%v", err)
				var failed *request.Error
				require.ErrorAs(t, err, &failed)
				require.True(t, failed.MaybeSent)
				within("the others", all.Wait)
				require.EqualValues(t, 50, outOfStep.Load()+replied.Load())
			}
			eventually(t, func() bool { return m.Stats().Healed == rounds }, "each has cost one connection: %+v", m.Stats())
			require.EqualValues(t, rounds, m.Stats().Lost)
			require.GreaterOrEqual(t, a.Client.Stats().Malformed, uint64(rounds))
			require.NotZero(t, a.Count(layers.Replied))
			a.over()
		})
	}
}

// The server restarts with thousands in flight: all fail at once, as maybe sent, and the next ones are answered.
// Catches: callers that learn of the loss one by one, or not; a pool that does not recover under them.
func TestFaultRestartWithThousandsInFlight(t *testing.T) {
	for _, reset := range []bool{true, false} {
		t.Run(map[bool]string{true: "RST", false: "FIN"}[reset], func(t *testing.T) {
			e, p := executor(t, nil)
			a := ask(t, mux(t, p, 4), e, p)
			const n = 4000
			for round := range uint64(3) {
				var all sync.WaitGroup
				for range n {
					all.Go(func() { // no ctx ends these
						o, err := a.Do(context.Background(), layers.Ask{Manner: layers.Never, Size: 10})
						var failed *request.Error
						if !errors.As(err, &failed) || !failed.MaybeSent || o != layers.Reset && o != layers.Ended {
							t.Error(o, err)
						}
					})
				}
				eventually(t, func() bool { return e.Executed() == round*(n+100)+n }, "all are in flight")
				require.Equal(t, n, a.Client.Stats().InFlight)
				require.NoError(t, p.Restart(time.Millisecond, reset))
				within("requests whose connections are lost", all.Wait)
				require.Zero(t, a.Client.Stats().InFlight)
				a.together(10, func(int, *rand.Rand) {
					for range 10 {
						a.must(context.Background(), layers.Ask{})
					}
				})
			}
			a.over()
		})
	}
}

// Sixteen identifiers, and most of them given up: they are not used again before their reply has come or their
// connection has ended, and those who wait for one get it in the order in which they came.
// Catches: an identifier that is used while its late reply can still come; one that is never given back.
func TestFaultFewIdentifiers(t *testing.T) {
	e, p := executor(t, nil)
	m := mux(t, p, 2)
	a := ask(t, m, e, p, request.WithIDs(15))
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			if o, err := a.Do(ctx, layers.Ask{Manner: layers.Never}); o != layers.Canceled {
				t.Error(o, err)
			}
		})
	}
	eventually(t, func() bool { return e.Executed() == 16 }, "all identifiers are in use")
	cancel()
	within("the callers that give up", all.Wait)
	s := a.Client.Stats()
	require.Equal(t, [2]int{0, 16}, [2]int{s.InFlight, s.Abandoned})

	short, stop := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer stop()
	o, err := a.Do(short, layers.Ask{})
	require.Equal(t, layers.Unturned, o, "%v", err)
	var failed *request.Error
	require.ErrorAs(t, err, &failed)
	require.False(t, failed.MaybeSent)

	var waiting sync.WaitGroup
	for range 50 {
		waiting.Go(func() { a.must(context.Background(), layers.Ask{}) })
	}
	eventually(t, func() bool { return a.Client.Stats().Waiting == 50 }, "50 wait for an identifier")
	first, second := p.Conn(t.Context(), 0), p.Conn(t.Context(), 1)
	if first.Passed(proxy.Up) == 0 { // all requests are on the other
		first, second = second, first
	}
	first.Reset()
	within("those who waited", waiting.Wait)
	second.Reset()
	eventually(t, func() bool { return a.Client.Stats().Abandoned == 0 }, "all identifiers are back")

	// Under load, with late replies and connections that end.
	began := time.Now()
	late := func() bool { return a.Client.Stats().Late > 0 }
	a.together(40, func(i int, rng *rand.Rand) {
		for !enough(began, 300*time.Millisecond, late) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rng.IntN(3000))*time.Microsecond)
			q := layers.Ask{Manner: layers.Later, Delay: time.Duration(rng.IntN(3000)) * time.Microsecond, ReplySize: 8}
			switch r := rng.IntN(500); {
			case r == 0:
				q.Manner = layers.WithReset
			case r == 1:
				q.Manner = layers.WithFIN
			case r == 2:
				q.Manner = layers.Malformed
			case r < 10:
				q.Manner = layers.Never
			}
			_, _ = a.Do(ctx, q) // the book has the outcome
			cancel()
		}
	})
	require.NotZero(t, a.Client.Stats().Late)
	_, peak := e.Pending()
	require.LessOrEqual(t, peak, 32, "16 identifiers, and those of a connection that the server still holds for open")
	p.ResetAll()
	eventually(t, func() bool { return a.Client.Stats().Abandoned == 0 }, "all identifiers are back")
	a.together(16, func(int, *rand.Rand) {
		// A connection that was reset with no request on it may be noticed by the next one.
		for o := layers.Pending; o != layers.Replied; {
			o, _ = a.Do(context.Background(), layers.Ask{})
		}
	})
	a.over()
}

// A bound on requests in flight, with many more callers, of whom many give up: the server never has more, and nobody
// who stays is forgotten.
// Catches: a turn lost with a caller whose ctx ends as it is given; a bound that is exceeded.
func TestFaultBackPressure(t *testing.T) {
	const bound = 8
	e, p := executor(t, proxy.Random(testSeed(t), proxy.Rates{Reset: 0.5, FIN: 0.5, Bytes: 200 << 10}))
	a := ask(t, mux(t, p, 4), e, p, request.WithInFlight(bound))
	done := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if s := a.Client.Stats(); s.InFlight > bound {
				a.Wrong("%d in flight, where %d are allowed", s.InFlight, bound)
			}
			time.Sleep(50 * time.Microsecond)
		}
	})
	began := time.Now()
	both := func() bool { return a.Count(layers.Unturned) > 0 && a.Count(layers.Replied) > 0 }
	a.together(200, func(i int, rng *rand.Rand) {
		for !enough(began, 400*time.Millisecond, both) {
			ctx, cancel := context.WithCancel(context.Background())
			if i%2 == 0 {
				time.AfterFunc(time.Duration(rng.IntN(2000))*time.Microsecond, cancel)
			}
			q := layers.Ask{Manner: layers.Later, Delay: time.Duration(rng.IntN(500)) * time.Microsecond}
			_, _ = a.Do(ctx, q) // the book has the outcome
			cancel()
		}
	})
	close(done)
	watch.Wait()
	require.NotZero(t, a.Count(layers.Unturned), "nobody gave up in the queue")
	require.NotZero(t, a.Count(layers.Replied))
	a.together(bound, func(int, *rand.Rand) { // all turns are there
		_, _ = a.Do(context.Background(), layers.Ask{Manner: layers.Later, Delay: time.Millisecond})
	})
	a.over()
}

// The client, or the multiplexer, is closed with thousands in flight, waiting and being written: every Do ends at once,
// with an error that says so.
// Catches: a caller that hangs; a goroutine that stays; an entry that is left.
func TestFaultCloseUnderRequests(t *testing.T) {
	for _, what := range []string{"client", "multiplexer", "both", "shutdown"} {
		t.Run(what, func(t *testing.T) {
			for i := range 5 {
				e, p := executor(t, nil)
				m := mux(t, p, 4)
				var opts []request.Option
				if i%2 == 0 {
					opts = append(opts, request.WithInFlight(50))
				}
				a := ask(t, m, e, p, opts...)
				var all sync.WaitGroup
				for n := range 200 {
					all.Go(func() {
						for {
							q := layers.Ask{ReplySize: 20}
							if n%4 == 0 {
								q.Manner = layers.Never
							}
							switch o, err := a.Do(context.Background(), q); o {
							case layers.Replied:
							case layers.Shut:
								return
							default:
								t.Error(o, err)
								return
							}
						}
					})
				}
				eventually(t, func() bool { return a.Client.Stats().InFlight >= 50 }, "load")
				within("the end", func() {
					switch what {
					case "client":
						require.NoError(t, a.Client.Close())
					case "multiplexer":
						require.NoError(t, m.Close())
					case "shutdown":
						require.NoError(t, m.Shutdown(t.Context()))
					default:
						var both sync.WaitGroup
						both.Go(func() { _ = a.Client.Close() })
						both.Go(func() { _ = m.Close() })
						both.Wait()
					}
				})
				within("calls after the end", all.Wait)
				if what == "client" || what == "both" {
					_, err := a.Do(t.Context(), layers.Ask{})
					require.ErrorIs(t, err, net.ErrClosed)
				}
				a.over()
			}
		})
	}
}

// Connections are retired for their age, and added and closed again as callers come and go: no request fails, and
// each gets its reply, however long it takes.
// Catches: a connection retired under the requests on it; a reply dropped with it; a connection that is never retired.
func TestFaultRetiringUnderRequests(t *testing.T) {
	for name, opts := range map[string][]plex.Option{
		"age": {plex.WithMaxLifetime(15 * time.Millisecond)},
		"surplus": {
			plex.WithMinConnections(1), plex.WithAutoScaling(time.Millisecond),
			plex.WithIdleTimeout(5 * time.Millisecond),
		},
		"both": {
			plex.WithMinConnections(2), plex.WithAutoScaling(time.Millisecond), plex.WithIdleTimeout(5 * time.Millisecond),
			plex.WithMaxLifetime(20 * time.Millisecond),
		},
	} {
		t.Run(name, func(t *testing.T) {
			e, p := executor(t, nil)
			m := mux(t, p, 6, opts...)
			a := ask(t, m, e, p)
			began := time.Now()
			retired := func() bool { s := m.Stats(); return s.Expired > 0 || name == "surplus" }
			a.together(30, func(i int, rng *rand.Rand) {
				for !enough(began, 800*time.Millisecond, retired) {
					q := layers.Ask{Size: rng.IntN(50), ReplySize: rng.IntN(50)}
					switch {
					case i < 3: // longer than any connection lives
						q.Manner, q.Delay = layers.Later, 40*time.Millisecond
					case rng.IntN(3) == 0:
						q.Manner, q.Delay = layers.Later, time.Duration(rng.IntN(5000))*time.Microsecond
					}
					if _, err := a.Do(context.Background(), q); err != nil {
						t.Error(err)
						return
					}
					if rng.IntN(20) == 0 {
						time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond) // a load that comes and goes
					}
				}
			})
			s := m.Stats()
			require.Zero(t, s.Lost)
			if name != "surplus" {
				require.NotZero(t, s.Expired)
			}
			eventually(t, func() bool {
				now := m.Stats()
				return name == "age" || now.ScaledDown > s.ScaledDown || now.Open <= 2
			}, "what nobody needs is closed; %+v", s)
			a.over()
		})
	}
}

// Requests over TLS, whose connections end in all ways.
// Catches: replies that stay inside TLS until more comes; a caller left behind by an end that only TLS knows of.
func TestFaultRequestsOverTLS(t *testing.T) {
	client, server, err := scaffold.Certificates()
	require.NoError(t, err)
	e := &layers.Executor{TLS: server}
	random := proxy.Random(testSeed(t), proxy.Rates{Reset: 0.4, FIN: 0.3, HalfClose: 0.3, Slice: 0.2, Bytes: 40 << 10})
	p := serve(t, proxy.Config{Handler: func(c *proxy.Conn) { e.Serve(c) }, Script: random})
	m := muxOf(t, plex.WithMaxCapacity(4), plex.WithAutoScaling(time.Millisecond), plex.WithBackoff(quick),
		plex.WithConnector(plex.DialContext(&tls.Dialer{Config: client}, "tcp", p.Addr())))
	a := ask(t, m, e, p)
	began := time.Now()
	ended := func() bool {
		return a.Count(layers.Replied) > 100 && a.Count(layers.Reset)+a.Count(layers.Ended) > 0
	}
	a.together(30, func(_ int, rng *rand.Rand) {
		for !enough(began, 500*time.Millisecond, ended) {
			q := layers.Ask{Size: rng.IntN(3000), ReplySize: rng.IntN(3000)}
			if rng.IntN(4) == 0 {
				q.Manner, q.Delay = layers.Later, time.Duration(rng.IntN(2000))*time.Microsecond
			}
			_, _ = a.Do(context.Background(), q) // the book has the outcome
		}
	})
	require.Greater(t, a.Count(layers.Replied), uint64(100))
	require.NotZero(t, a.Count(layers.Reset)+a.Count(layers.Ended))
	a.over()
}

// The client is closed when half of a reply has come: nobody will ever make sense of what follows, so the connection
// must not be kept from being retired.
// Catches: a pin that outlives the client.
func TestFaultClientClosedWithinAReply(t *testing.T) {
	p := serve(t, proxy.Config{Handler: func(c *proxy.Conn) {
		if n, _ := c.Read(make([]byte, 100)); n > 0 {
			// A whole message that is no reply, and behind it the beginning of one.
			event := layers.AppendEvent(nil, 0, 0)
			_, _ = c.Write(append(event, 0, 0, 1, 0, 'R'))
		}
		<-c.Done()
	}})
	m := mux(t, p, 1, plex.WithMaxLifetime(300*time.Millisecond))
	e := &layers.Executor{}
	a := ask(t, m, e, p)
	var call sync.WaitGroup
	call.Go(func() {
		if o, err := a.Do(context.Background(), layers.Ask{}); o != layers.Shut {
			t.Error(o, err)
		}
	})
	eventually(t, func() bool { return a.Client.Stats().Unsolicited == 1 }, "what is in front of it has come")
	require.NoError(t, a.Client.Close())
	within("the call", call.Wait)
	eventually(t, func() bool { return p.Accepted() >= 3 && m.Stats().Open == 1 },
		"it is retired, and its replacement, too")
}
