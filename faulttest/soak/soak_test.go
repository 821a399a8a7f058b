package main

import (
	"bytes"
	"context"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex/faulttest/check"
)

var (
	soakFor  = flag.Duration("soak.for", 2*time.Second, "how long TestSoak takes")
	soakSeed = flag.Uint64("soak.seed", 0, "its seed; 0 draws one")
)

// A short soak of many pools, so that each kind of pool and of end has its turn.
func TestSoak(t *testing.T) {
	o := options{length: *soakFor, seed: *soakSeed, capacity: 6, faults: 10, each: 200 * time.Millisecond, verbose: true}
	if o.seed == 0 {
		o.seed = rand.Uint64()
	}
	var out bytes.Buffer
	f, err := run(context.Background(), o, &out)
	require.NoError(t, err)
	f.table(&out)
	require.False(t, f.failed(), out.String())
	t.Log(out.String())
}

func TestTheSameSeedDrivesTheSameFaults(t *testing.T) {
	for _, seed := range []uint64{1, 2} {
		a, b := &soak{o: options{seed: seed, faults: 10, capacity: 4}}, &soak{o: options{seed: seed, faults: 10, capacity: 4}}
		a.mercy.Store(true) // no faults of the listener, for there is none
		b.mercy.Store(true)
		for n := range 200 {
			require.Equal(t, a.drawSetup(n), b.drawSetup(n))
		}
		a.mercy.Store(false)
		b.mercy.Store(false)
		drawn := make(map[connectorFault]int)
		for n := range uint64(20000) {
			f := a.drawConnectorFault(n)
			drawn[f]++
			require.Equal(t, f, b.drawConnectorFault(n))
		}
		require.Len(t, drawn, int(connectorFaults), "some fault is never drawn")
	}
}

func TestTheFiguresOfASoakGoIntoAFile(t *testing.T) {
	f := &figures{}
	f.row("seed", "%d", 7)
	f.row("  reset", "%s", grouped(1234567))
	file := filepath.Join(t.TempDir(), "reliability.md")
	require.NoError(t, os.WriteFile(file, []byte("before\n<!-- soak -->\nold\n<!-- /soak -->\nafter\n"), 0o644))
	require.NoError(t, f.writeMarkdown(file))
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "before\n<!-- soak -->\n\n| | |\n| --- | --- |\n| seed | 7 |\n| – reset | 1,234,567 |\n\n<!-- /soak -->\nafter\n", string(text))

	require.NoError(t, os.WriteFile(file, []byte("nothing"), 0o644))
	require.ErrorContains(t, f.writeMarkdown(file), "<!-- soak -->")
}

func TestAFailureTellsItsHistory(t *testing.T) {
	s := &soak{o: options{seed: 7, capacity: 3, faults: 1, length: time.Second}, start: time.Now()}
	s.book = newBook(s)
	_, s.cancel = context.WithCancel(context.Background())
	l := &link{number: 5}
	l.addr = linkAddr{fakeAddr("here"), l}
	for range 2 * trailLength {
		l.log.note("read", 10, nil)
	}
	s.fail(l, os.ErrInvalid)
	f := &figures{o: s.o, before: check.Process{}, faults: "the last fault\n"}
	f.after(s)
	require.True(t, f.failed())
	var out strings.Builder
	f.table(&out)
	for _, part := range []string{"-seed 7 -capacity 3", "connection 5 (here): invalid argument", "(40 steps before these)", "read 10 bytes", "the last fault"} {
		require.Contains(t, out.String(), part)
	}
}

type fakeAddr string

func (fakeAddr) Network() string  { return "fake" }
func (a fakeAddr) String() string { return string(a) }
