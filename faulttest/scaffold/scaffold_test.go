package scaffold

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
)

func newRun(t *testing.T, out io.Writer) *Run {
	o := Options{Length: time.Minute, Seed: 7, Capacity: 3, Faults: 1, Program: "./soak"}
	r, err := New(o, out)
	require.NoError(t, err)
	return r
}

func TestTheFiguresOfASoakGoIntoAFile(t *testing.T) {
	f := &Figures{o: Options{Program: "./soak"}}
	f.Row("seed", "%d", 7)
	f.Count("  reset", 1234567)
	file := filepath.Join(t.TempDir(), "reliability.md")
	require.NoError(t, os.WriteFile(file, []byte("before\n<!-- soak -->\nold\n<!-- /soak -->\nafter\n"), 0o644))
	require.NoError(t, f.WriteMarkdown(file))
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	const want = "before\n<!-- soak -->\n\n| | |\n| --- | --- |\n| seed | 7 |\n| – reset | 1,234,567 |\n\n<!-- /soak -->\nafter\n"
	require.Equal(t, want, string(text))

	require.NoError(t, os.WriteFile(file, []byte("nothing"), 0o644))
	require.ErrorContains(t, f.WriteMarkdown(file), "<!-- soak -->")
}

// A violation ends the rounds, is told with its history, and fails the soak.
func TestAViolationEndsTheRounds(t *testing.T) {
	var out strings.Builder
	r := newRun(t, &out)
	r.Tell = func() string { return "how it stands" }
	rounds := 0
	require.NoError(t, r.Rounds(t.Context(), func() string { return "" }, func(context.Context, int) error {
		if rounds++; rounds == 3 {
			for range 2 * storiesKept {
				r.Fail(os.ErrInvalid, func() string { return "history\n" })
			}
		}
		return nil
	}))
	require.Equal(t, 3, rounds)
	f := r.Verdict(r.Figures(" -callers 5"))
	require.True(t, f.Failed())
	f.Print(&out)
	for _, part := range []string{
		"seed 7; capacity 3", "go run ./soak -seed 7 -capacity 3 -faults 1 -for 1m0s -callers 5", "invalid argument",
		"how it stands",
	} {
		require.Contains(t, out.String(), part)
	}
	require.Equal(t, storiesKept, strings.Count(out.String(), "history"))
}

func TestRoundsEndWithTheirError(t *testing.T) {
	r := newRun(t, io.Discard)
	gone := errors.New("no port left")
	err := r.Rounds(t.Context(), func() string { return "" }, func(context.Context, int) error { return gone })
	require.Equal(t, gone, err)
	require.False(t, r.Verdict(r.Figures("")).Failed(), "that is no violation")
}

func TestFlagsAreChecked(t *testing.T) {
	good := Options{Length: 1, Capacity: 1, Faults: 1}
	require.NoError(t, good.check())
	for _, o := range []Options{{Capacity: 1, Faults: 1}, {Length: 1, Faults: 1}, {Length: 1, Capacity: 1}} {
		require.Error(t, o.check())
	}
	require.NotZero(t, good.Drawn().Seed)
	good.Seed = 5
	require.Equal(t, good, good.Drawn())
}

func TestFiguresOfAPoolThatCannotBe(t *testing.T) {
	last := plex.Stats{Capacity: 4, Open: 3, Acquired: 10, Killed: 1}
	for want, change := range map[string]func(*plex.Stats){
		"":                      func(s *plex.Stats) { s.Acquired++ },
		"more than":             func(s *plex.Stats) { s.Connecting = 2 },
		"IdleReaders is below":  func(s *plex.Stats) { s.IdleReaders = -1 },
		"WaitingReady is below": func(s *plex.Stats) { s.WaitingReady = -1 },
		"Acquired went back":    func(s *plex.Stats) { s.Acquired = 9 },
		"Killed went back":      func(s *plex.Stats) { s.Killed = 0 },
	} {
		now := last
		change(&now)
		if err := sane(&last, &now); want == "" {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, want)
		}
	}
}

func TestNumbersForPeople(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		require.Equal(t, want, Grouped(n))
	}
	for n, want := range map[uint64]string{0: "0 B", 999: "999 B", 1200: "1.2 kB", 34e9: "34 GB", 5e13: "50 TB"} {
		require.Equal(t, want, Size(n))
	}
}
