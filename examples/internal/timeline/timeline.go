// Package timeline shows what happens over time as a table in the terminal: one row every so often, and between the
// rows what the program did. It writes whole lines and nothing else, so that the output reads the same in a file.
package timeline

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Timeline is a table that is being written.
type Timeline struct {
	start  time.Time
	ticker *time.Ticker
	stop   chan struct{}
	done   sync.WaitGroup

	mu  sync.Mutex // one line at a time
	out io.Writer
}

// Start writes the header, and from then on a row at every interval, until Stop.
func Start(out io.Writer, every time.Duration, header string, row func() string) *Timeline {
	t := &Timeline{start: time.Now(), ticker: time.NewTicker(every), stop: make(chan struct{}), out: out}
	t.line("   time  " + header)
	t.done.Go(func() {
		for {
			select {
			case <-t.ticker.C:
				t.line(fmt.Sprintf("%6.2fs  %s", time.Since(t.start).Seconds(), row()))
			case <-t.stop:
				return
			}
		}
	})
	return t
}

// Note writes a line of its own.
func (t *Timeline) Note(format string, args ...any) {
	t.line(fmt.Sprintf("         > "+format, args...))
}

// Stop ends the table.
func (t *Timeline) Stop() {
	t.ticker.Stop()
	close(t.stop)
	t.done.Wait()
}

func (t *Timeline) line(s string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintln(t.out, s)
}

// Bar draws a bar of width cells: as many full ones as it is told, then half-full ones, and the rest is empty.
func Bar(width, full, half int) string {
	full = min(full, width)
	half = min(half, width-full)
	return strings.Repeat("█", full) + strings.Repeat("▒", half) + strings.Repeat("·", width-full-half)
}

// Wrap breaks a text into lines of up to width characters, and begins each with the prefix.
func Wrap(text, prefix string, width int) string {
	var b strings.Builder
	column := width // as if a line were full
	for word := range strings.FieldsSeq(text) {
		if column+1+len(word) > width {
			if b.Len() > 0 {
				b.WriteString("\n")
			}
			b.WriteString(prefix + word)
			column = len(prefix) + len(word)
			continue
		}
		b.WriteString(" " + word)
		column += 1 + len(word)
	}
	return b.String()
}

// Count writes a number with commas between the thousands.
func Count[T int | int64 | uint64](n T) string {
	s := strconv.FormatInt(int64(n), 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// NonZero is Count, in which zeros do not stand out.
func NonZero[T int | int64 | uint64](n T) string {
	if n == 0 {
		return "."
	}
	return Count(n)
}
