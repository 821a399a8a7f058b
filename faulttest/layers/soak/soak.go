package main

// The run: one round after the other, a line each second, and an end when the time is up or something was violated.

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex/faulttest/check"
	"go.atomizer.io/plex/faulttest/layers"
	"go.atomizer.io/plex/faulttest/proxy"
)

// starving bounds whatever has to happen at some time, whatever the load.
const starving = 20 * time.Second

type soak struct {
	o     options
	start time.Time
	out   io.Writer
	sums  sums

	clientTLS, serverTLS *tls.Config

	cancel context.CancelFunc // ends the run

	mu      sync.Mutex
	stories []string // the first violations, with their history
	present *round
}

// sums are the figures of the rounds that are over, and violations.
type sums struct {
	rounds, connections                          uint64
	requests, executed                           uint64
	outcomes                                     [layers.Outcomes]uint64
	late, unknown, unsolicited, malformed        uint64
	messages, bytes, cut, tooLong, split         uint64
	lost, doubled, disordered, glued             uint64
	mispaired                                    uint64
	strict                                       uint64 // connections of which everything had to come
	pending                                      int    // entries left
	faults                                       map[proxy.Kind]uint64
	killed, expired, scaledUp, scaledDown, lefts uint64

	violations atomic.Uint64
}

// run is a whole soak. The error is for what has nothing to do with the layers.
func run(parent context.Context, o options, out io.Writer) (*figures, error) {
	before := check.Before()
	s := &soak{o: o, start: time.Now(), out: &lockedWriter{w: out}}
	s.sums.faults = make(map[proxy.Kind]uint64)
	var err error
	if s.clientTLS, s.serverTLS, err = certificates(); err != nil {
		return nil, err
	}
	fmt.Fprintf(s.out, "seed %d; capacity %d, %d callers, %v, %s, %d cores\n",
		o.seed, o.capacity, o.callers, o.length, runtime.Version(), runtime.GOMAXPROCS(0))

	var ctx context.Context
	ctx, s.cancel = context.WithTimeout(parent, o.length)
	defer s.cancel()
	var beside sync.WaitGroup
	beside.Go(func() { s.progress(ctx) })
	for n := 0; ctx.Err() == nil; n++ {
		if err = s.round(ctx, n); err != nil {
			break
		}
	}
	s.cancel()
	beside.Wait()
	if err != nil {
		return nil, err
	}
	if err := before.Back(starving); err != nil {
		s.fail(nil, err)
	}
	return s.figures(before), nil
}

// lockedWriter lets several goroutines print whole lines.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (w *lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.w.Write(p)
}

// storiesKept is how many violations are told with their history.
const storiesKept = 3

// fail notes a violation, of the round if there is one, and ends the run.
func (s *soak) fail(r *round, err error) {
	s.sums.violations.Add(1)
	s.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.stories) >= storiesKept {
		return
	}
	story := fmt.Sprintf("after %v: %v\n", time.Since(s.start).Round(time.Millisecond), err)
	if r != nil {
		story += r.history()
	}
	s.stories = append(s.stories, story)
}

// stuck ends the process, for nothing else can be done about goroutines that hang.
func (s *soak) stuck(r *round, what string) {
	buf := make([]byte, 4<<20)
	buf = buf[:runtime.Stack(buf, true)]
	fmt.Fprintf(os.Stderr, "\nFAILED after %v: %s hangs\nseed %d\n%s\n%s\n\n%s\n",
		time.Since(s.start).Round(time.Millisecond), what, s.o.seed, strings.Join(s.stories, "\n"), r.history(), buf)
	os.Exit(1)
}

// patient waits for something that has to happen.
func (s *soak) patient(r *round, what string, wait func()) {
	t := time.AfterFunc(3*starving, func() { s.stuck(r, what) })
	defer t.Stop()
	wait()
}
