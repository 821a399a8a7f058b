package plex_test

// Ready readers and plain ones on the same connections.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
)

// flow is a connection whose peer sends the byte oracle, and what has been read of it.
type flow struct {
	p *peer

	// The peer sends with mu held, and a ready reader has it during its first Read: what is not there when that begins
	// does not come before it has returned.
	mu       sync.Mutex
	received atomic.Int64 // written by whoever has the lease
}

// took checks what a lease has read.
func (f *flow) took(p []byte) error {
	if err := checkOracle(p, f.p.number, f.received.Load()); err != nil {
		return err
	}
	f.received.Add(int64(len(p)))
	return nil
}

// Plain readers take away what ready readers have been called for, at any moment, and leave over what they do not read.
func TestReadyReadersAmongPlainOnesNeverBlockAndMissNothing(t *testing.T) {
	const (
		conns       = 6
		total       = 150_000 // bytes for each connection
		outstanding = 16 << 10
	)
	forEachSocket(t, func(t *testing.T, l *ledger, s *host) {
		var given []*flow
		flows := map[string]*flow{}
		opts := []plex.Option{plex.WithMaxCapacity(conns)}
		for range conns {
			f := &flow{p: s.open()}
			given = append(given, f)
			flows[f.p.client.LocalAddr().String()] = f
			opts = append(opts, plex.WithConnections(f.p.client))
		}
		m := l.mux(opts...)
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		late := time.AfterFunc(patience, func() {
			cancel(errors.New("not done in time"))
			s.drop((*peer).reset)
		})
		defer late.Stop()
		fail := func(err error) {
			cancel(err)
			s.drop((*peer).reset)
		}
		var all atomic.Int64
		seed := rand.Uint64()
		t.Log("seed", seed)
		var wg sync.WaitGroup
		for i, f := range given {
			rnd := rand.New(rand.NewPCG(seed, uint64(i)))
			wg.Go(func() {
				for sent := int64(0); sent < total && ctx.Err() == nil; {
					if f.received.Load() < sent-outstanding {
						time.Sleep(100 * time.Microsecond)
						continue
					}
					n := min(total-sent, 1+rnd.Int64N(3000))
					f.mu.Lock()
					err := writeOracle(f.p, f.p.number, sent, n, 16<<10)
					f.mu.Unlock()
					if err != nil {
						fail(fmt.Errorf("sending: %w", err))
						return
					}
					sent += n
					if rnd.IntN(3) == 0 {
						time.Sleep(time.Duration(rnd.Int64N(int64(time.Millisecond))))
					}
				}
			})
		}
		book := func(f *flow, p []byte) error {
			err := f.took(p)
			if all.Add(int64(len(p))) == conns*total {
				cancel(io.EOF)
			}
			return err
		}
		for i := range 3 {
			rnd := rand.New(rand.NewPCG(seed, uint64(100+i)))
			wg.Go(func() {
				b := make([]byte, 4000)
				for {
					r, err := m.ReadyReader(ctx, 0)
					if err != nil {
						return
					}
					f := flows[r.LocalAddr().String()]
					f.mu.Lock()
					if rnd.IntN(2) == 0 {
						_ = r.SetReadDeadline(time.Now().Add(patience / 2))
					}
					n, err := r.Read(b[:1+rnd.IntN(len(b))])
					f.mu.Unlock()
					if err != nil || n == 0 {
						fail(fmt.Errorf("the first Read: %d, %w", n, err))
						_ = r.Close()
						return
					}
					err = book(f, b[:n])
					if err == nil && rnd.IntN(4) == 0 { // some more, whatever there is, and some left over
						var ch <-chan []byte
						if ch, err = r.RecvChunks(t.Context(), 1+rnd.IntN(500)); err == nil {
							select {
							case p := <-ch:
								err = book(f, p)
							case <-time.After(100 * time.Microsecond):
							}
						}
					}
					if err := errors.Join(err, r.Close()); err != nil {
						fail(err)
						return
					}
				}
			})
		}
		for i := range 3 {
			rnd := rand.New(rand.NewPCG(seed, uint64(200+i)))
			wg.Go(func() {
				b := make([]byte, 4000)
				for all.Load() < conns*total/2 && ctx.Err() == nil {
					r, err := m.Reader(ctx, time.Duration(rnd.Int64N(3)-1)*time.Millisecond)
					if err != nil {
						continue
					}
					n := 0
					if rnd.IntN(3) > 0 {
						_ = r.SetReadDeadline(time.Now().Add(time.Duration(rnd.Int64N(int64(300 * time.Microsecond)))))
						n, err = r.Read(b[:1+rnd.IntN(len(b))])
					}
					if errors.Is(err, os.ErrDeadlineExceeded) {
						err = nil
					}
					if n > 0 {
						err = errors.Join(err, book(flows[r.LocalAddr().String()], b[:n]))
					}
					if err := errors.Join(err, r.Close()); err != nil {
						fail(err)
						return
					}
				}
			})
		}
		wg.Wait()
		for _, f := range given {
			t.Log(f.p.number, f.received.Load())
		}
		require.Equal(t, io.EOF, context.Cause(ctx))
		requireNothingReady(t, m)
		requireKept(t, m, conns)
	})
}
