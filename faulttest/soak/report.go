package main

// What the soak prints: a line each second, and the table at the end.

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"go.atomizer.io/plex/faulttest/check"
	"go.atomizer.io/plex/faulttest/proxy"
)

// connectionFaults are those that end a connection.
func (s *soak) connectionFaults() (n uint64) {
	counts := s.proxy.Counts()
	for _, k := range []proxy.Kind{proxy.Reset, proxy.FIN, proxy.HalfClose, proxy.AcceptClose, proxy.AcceptReset} {
		n += counts[k]
	}
	return n + s.sums.consumer[kill].Load()
}

// progress prints a line each second until ctx ends.
func (s *soak) progress(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var faults, verified, leases uint64
	last := s.start
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		took := now.Sub(last).Seconds()
		f, v, l := s.connectionFaults(), s.sums.verified.Load(), s.sums.leases.Load()
		s.mu.Lock()
		st := s.lastStats
		s.mu.Unlock()
		fmt.Fprintf(s.out, "%5.0fs  faults %s (%s/s)  verified %s (%s/s)  leases %s/s  open %d/%d, waiting %d  violations %d\n",
			now.Sub(s.start).Seconds(), grouped(f), grouped(uint64(float64(f-faults)/took)),
			size(v), size(uint64(float64(v-verified)/took)), grouped(uint64(float64(l-leases)/took)),
			st.Open, st.Capacity, st.Waiting, s.sums.violations.Load())
		faults, verified, leases, last = f, v, l, now
	}
}

// figures are those of a soak that is over.
type figures struct {
	o       options
	took    time.Duration
	rows    [][2]string
	stories []string
	faults  string // the latest
	bad     bool
	before  check.Process
}

func (f *figures) failed() bool { return f.bad }

func (f *figures) row(name, format string, args ...any) {
	f.rows = append(f.rows, [2]string{name, fmt.Sprintf(format, args...)})
}

// figures adds up, before the proxy is closed, which is no fault.
func (s *soak) figures(before check.Process) *figures {
	f := &figures{o: s.o, took: time.Since(s.start), before: before, faults: s.proxy.Tell(20)}
	seconds := f.took.Seconds()
	n := s.connectionFaults()
	f.row("machine", "%s", machine())
	f.row("seed", "%d", s.o.seed)
	f.row("duration", "%v", f.took.Round(time.Second))
	f.row("connection faults", "%s (%s a second)", grouped(n), grouped(uint64(float64(n)/seconds)))
	counts := s.proxy.Counts()
	for k := proxy.Reset; k <= proxy.Restart; k++ {
		f.row("  "+k.String(), "%s", grouped(counts[k]))
	}
	for k := connectorWell + 1; k < connectorFaults; k++ {
		f.row("  "+k.String(), "%s", grouped(s.sums.connector[k].Load()))
	}
	for k := range consumerFaults {
		f.row("  "+k.String(), "%s", grouped(s.sums.consumer[k].Load()))
	}
	f.row("pools", "%s", grouped(s.sums.pools.Load()))
	f.row("connections", "%s", grouped(s.sums.connections.Load()))
	f.row("leases", "%s (%s a second)", grouped(s.sums.leases.Load()), grouped(uint64(float64(s.sums.leases.Load())/seconds)))
	v := s.sums.verified.Load()
	f.row("bytes verified", "%s (%s a second)", size(v), size(uint64(float64(v)/seconds)))
	f.row("slowest acquire", "%v", time.Duration(s.sums.slowest.Load()).Round(time.Microsecond))
	s.book.mu.Lock()
	peak := s.book.peak
	s.book.mu.Unlock()
	f.row("capacity", "%d", s.o.capacity)
	f.row("  most connections at the server", "%d", s.proxy.Peak())
	f.row("  most open and being connected", "%d", peak)
	if p := s.proxy.Peak(); p > s.o.capacity {
		s.fail(nil, fmt.Errorf("capacity %d: %d connections at the server", s.o.capacity, p))
	}
	return f
}

// after adds what is known when all is over.
func (f *figures) after(s *soak) {
	now := check.Before()
	f.row("goroutines before and after", "%d, %d", f.before.Goroutines(), now.Goroutines())
	f.row("descriptors before and after", "%d, %d", f.before.Files(), now.Files())
	f.row("bytes lost", "%d", s.sums.lost.Load())
	f.row("bytes doubled", "%d", s.sums.doubled.Load())
	f.row("bytes misplaced", "%d", s.sums.misplaced.Load())
	f.row("bytes misdelivered", "%d", s.sums.misdelivered.Load())
	f.row("bytes corrupt", "%d", s.sums.corrupt.Load())
	f.row("violations of any kind", "%d", s.sums.violations.Load())
	f.bad = s.sums.violations.Load() > 0
	s.mu.Lock()
	defer s.mu.Unlock()
	f.stories = s.stories
}

func (f *figures) table(w io.Writer) {
	fmt.Fprintln(w)
	for _, r := range f.rows {
		fmt.Fprintf(w, "%-36s %s\n", r[0], r[1])
	}
	if !f.bad {
		return
	}
	fmt.Fprintf(w, "\nFAILED; the same faults again: go run ./soak -seed %d -capacity %d -faults %v -for %v\n",
		f.o.seed, f.o.capacity, f.o.faults, f.o.length)
	for _, story := range f.stories {
		fmt.Fprintf(w, "\n%s", story)
	}
	fmt.Fprintf(w, "\nthe latest faults:\n%s", f.faults)
}

const (
	markBegin = "<!-- soak -->"
	markEnd   = "<!-- /soak -->"
)

// writeMarkdown puts the table between the marks in a file.
func (f *figures) writeMarkdown(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	from, to := bytes.Index(text, []byte(markBegin)), bytes.Index(text, []byte(markEnd))
	if from < 0 || to < from {
		return fmt.Errorf("%s: there are no lines %s and %s", file, markBegin, markEnd)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n| | |\n| --- | --- |\n", markBegin)
	for _, r := range f.rows {
		name, indented := strings.CutPrefix(r[0], "  ")
		if indented {
			name = "– " + name
		}
		fmt.Fprintf(&b, "| %s | %s |\n", name, r[1])
	}
	b.WriteByte('\n')
	return os.WriteFile(file, append(append(bytes.Clone(text[:from]), b.String()...), text[to:]...), 0o644)
}

// machine says what the soak ran on.
func machine() string {
	name := runtime.GOARCH
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				name = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%d cores, %s, %s, %s", runtime.GOMAXPROCS(0), name, runtime.GOOS, runtime.Version())
}

// grouped is 1,234,567.
func grouped(n uint64) string {
	digits := strconv.FormatUint(n, 10)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// size is 1.2 GB.
func size(n uint64) string {
	f := float64(n)
	for _, unit := range []string{"B", "kB", "MB", "GB"} {
		if f < 1000 {
			return fmt.Sprintf("%.3g %s", f, unit)
		}
		f /= 1000
	}
	return fmt.Sprintf("%.3g TB", f)
}
