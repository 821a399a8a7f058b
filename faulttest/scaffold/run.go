package scaffold

// A run: one round after the other until the time is up, a line each second, and what to do about a violation.

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex/faulttest/check"
)

// Starving is how long a pool may leave a patient caller without a lease. Faults are short, so nobody waits for long but
// for want of CPU. Whatever else has to happen at some time is given as long, or three times as long.
const Starving = 20 * time.Second

// storiesKept is how many violations are told with their history.
const storiesKept = 3

// Run is a soak that runs. Everything of it may be used by several goroutines.
type Run struct {
	Options
	Start                time.Time
	ClientTLS, ServerTLS *tls.Config
	// Tell tells the present state of everything, for the day on which something hangs. It is set before Rounds.
	Tell func() string

	before     check.Process
	violations atomic.Uint64

	mu      sync.Mutex
	out     io.Writer
	stories []string           // the first violations, with their history
	cancel  context.CancelFunc // ends the rounds
}

// New begins a run.
func New(o Options, out io.Writer) (*Run, error) {
	client, server, err := Certificates()
	if err != nil {
		return nil, err
	}
	return &Run{
		Options: o, Start: time.Now(), ClientTLS: client, ServerTLS: server, before: check.Before(), out: out,
		Tell: func() string { return "" }, cancel: func() {},
	}, nil
}

// Rand is the source of whatever salt stands for in round, connection or call n. It depends on the seed and on these.
func (r *Run) Rand(salt, n uint64) *rand.Rand {
	return rand.New(rand.NewPCG(r.Seed^salt, n))
}

// Println prints a line.
func (r *Run) Println(line ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintln(r.out, line...)
}

// Rounds calls round for 0, 1, 2 and so on until the time is up, something was violated, or round fails. Meanwhile it
// prints a line each second with what progress returns, if that is not empty.
func (r *Run) Rounds(parent context.Context, progress func() string, round func(ctx context.Context, n int) error) error {
	r.Println(fmt.Sprintf("seed %d; capacity %d, %v, %s, %d cores, GOGC %s",
		r.Seed, r.Capacity, r.Length, runtime.Version(), runtime.GOMAXPROCS(0), gogc()))
	ctx, cancel := context.WithTimeout(parent, r.Length)
	defer cancel()
	r.mu.Lock()
	r.cancel = cancel
	r.mu.Unlock()
	var beside sync.WaitGroup
	beside.Go(func() { r.progress(ctx, progress) })
	var err error
	for n := 0; err == nil && ctx.Err() == nil; n++ {
		err = round(ctx, n)
	}
	cancel()
	beside.Wait()
	return err
}

func gogc() string {
	if v := os.Getenv("GOGC"); v != "" {
		return v
	}
	return "100"
}

func (r *Run) progress(ctx context.Context, line func() string) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if s := line(); s != "" {
			r.Println(fmt.Sprintf("%5.0fs  %s; violations %d", time.Since(r.Start).Seconds(), s, r.violations.Load()))
		}
	}
}

// Fail notes a violation and ends the rounds. history, if it is not nil, is what led to it, in whole lines.
func (r *Run) Fail(err error, history func() string) {
	r.violations.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cancel()
	if len(r.stories) >= storiesKept {
		return
	}
	story := fmt.Sprintf("after %v: %v\n", time.Since(r.Start).Round(time.Millisecond), err)
	if history != nil {
		story += history()
	}
	r.stories = append(r.stories, story)
}

// Patient waits for something that has to happen, whatever the load.
func (r *Run) Patient(what string, wait func()) {
	t := time.AfterFunc(3*Starving, func() { r.Stuck(what + " hangs") })
	defer t.Stop()
	wait()
}

// Stuck ends the process, for nothing else can be done about goroutines that hang.
func (r *Run) Stuck(what string) {
	buf := make([]byte, 4<<20)
	buf = buf[:runtime.Stack(buf, true)]
	r.mu.Lock()
	stories := strings.Join(r.stories, "\n")
	r.mu.Unlock()
	fmt.Fprintf(os.Stderr, "\nFAILED after %v: %s\nseed %d\n%s\n%s\n\n%s\n",
		time.Since(r.Start).Round(time.Millisecond), what, r.Seed, stories, r.Tell(), buf)
	os.Exit(exitViolated)
}

// Footprint is how many goroutines and descriptors the process has.
type Footprint struct{ Goroutines, Files int }

// Present is the footprint at this moment.
func Present() Footprint { return Footprint{runtime.NumGoroutine(), openFiles()} }

// openFiles counts the process's descriptors, where the system tells.
func openFiles() int {
	dir, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(dir)
}

// Back waits until the process has no more than it had before, and returns an error if that takes too long.
func (before Footprint) Back() error {
	for end := time.Now().Add(Starving); ; time.Sleep(time.Millisecond) {
		now := Present()
		if now.Goroutines <= before.Goroutines && now.Files <= before.Files {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d goroutines and %d descriptors, and before it %d and %d",
				now.Goroutines, now.Files, before.Goroutines, before.Files)
		}
	}
}
