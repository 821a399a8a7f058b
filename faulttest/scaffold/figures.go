package scaffold

// The table at the end.

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.atomizer.io/plex/faulttest/check"
	"go.atomizer.io/plex/faulttest/proxy"
)

// Figures are those of a soak that is over, or nearly so.
type Figures struct {
	o       Options
	took    time.Duration
	rows    [][2]string
	again   string // the command that drives the same
	bad     bool
	stories []string
	state   string // of everything, when something was violated
}

// Figures begins the table. more are the soak's own flags, as on the command line.
func (r *Run) Figures(more string) *Figures {
	f := &Figures{o: r.Options, took: time.Since(r.Start), again: r.Again(more)}
	f.Row("machine", "%s", machine())
	f.Row("seed", "%d", r.Seed)
	f.Row("duration", "%v", f.took.Round(time.Second))
	return f
}

// Row adds a row. A name that begins with two spaces is a part of what is above it.
func (f *Figures) Row(name, format string, args ...any) {
	f.rows = append(f.rows, [2]string{name, fmt.Sprintf(format, args...)})
}

// Count adds a row with a number.
func (f *Figures) Count(name string, n uint64) { f.Row(name, "%s", Grouped(n)) }

// Rate adds a row with a number and how many that was a second.
func (f *Figures) Rate(name string, n uint64) {
	f.Row(name, "%s (%s a second)", Grouped(n), Grouped(f.perSecond(n)))
}

// Bytes is Rate for bytes.
func (f *Figures) Bytes(name string, n uint64) {
	f.Row(name, "%s (%s a second)", Size(n), Size(f.perSecond(n)))
}

func (f *Figures) perSecond(n uint64) uint64 { return uint64(float64(n) / f.took.Seconds()) }

// Faults adds a row for each fault of proxies.
func (f *Figures) Faults(counts map[proxy.Kind]uint64) {
	for k := proxy.Reset; k <= proxy.Restart; k++ {
		f.Count("  "+k.String(), counts[k])
	}
}

// Left waits until the process has what it had before the run, which is a violation if it does not come to be, and adds
// rows for that.
func (r *Run) Left(f *Figures) {
	if err := r.before.Back(3 * Starving); err != nil {
		r.Fail(err, nil)
	}
	now := check.Before()
	f.Row("goroutines before and after", "%d, %d", r.before.Goroutines(), now.Goroutines())
	f.Row("descriptors before and after", "%d, %d", r.before.Files(), now.Files())
}

// Verdict ends the table.
func (r *Run) Verdict(f *Figures) *Figures {
	n := r.violations.Load()
	f.Count("violations of any kind", n)
	if f.bad = n > 0; f.bad {
		f.state = r.Tell()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	f.stories = slices.Clone(r.stories)
	return f
}

// Failed reports whether anything was violated.
func (f *Figures) Failed() bool { return f.bad }

// Print prints the table and, if anything was violated, what is known about that.
func (f *Figures) Print(w io.Writer) {
	fmt.Fprintln(w)
	for _, r := range f.rows {
		fmt.Fprintf(w, "%-40s %s\n", r[0], r[1])
	}
	if !f.bad {
		return
	}
	fmt.Fprintf(w, "\nFAILED; the same faults again: %s\n", f.again)
	for _, story := range f.stories {
		fmt.Fprintf(w, "\n%s", story)
	}
	fmt.Fprintf(w, "\n%s", f.state)
}

// WriteMarkdown puts the table between the soak's marks in a file.
func (f *Figures) WriteMarkdown(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	begin, end := f.o.mark(""), f.o.mark("/")
	from, to := bytes.Index(text, []byte(begin)), bytes.Index(text, []byte(end))
	if from < 0 || to < from {
		return fmt.Errorf("%s: there are no lines %s and %s", file, begin, end)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n| | |\n| --- | --- |\n", begin)
	for _, r := range f.rows {
		name, indented := strings.CutPrefix(r[0], "  ")
		if indented {
			name = "– " + name
		}
		fmt.Fprintf(&b, "| %s | %s |\n", name, r[1])
	}
	b.WriteByte('\n')
	return os.WriteFile(file, slices.Concat(text[:from], []byte(b.String()), text[to:]), 0o644)
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

// Grouped is 1,234,567.
func Grouped(n uint64) string {
	digits := strconv.FormatUint(n, 10)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// Size is 1.2 GB.
func Size(n uint64) string {
	f := float64(n)
	for _, unit := range []string{"B", "kB", "MB", "GB"} {
		if f < 1000 {
			return fmt.Sprintf("%.3g %s", f, unit)
		}
		f /= 1000
	}
	return fmt.Sprintf("%.3g TB", f)
}
