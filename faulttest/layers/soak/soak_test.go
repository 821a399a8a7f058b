package main

import (
	"bytes"
	"context"
	"flag"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex/faulttest/proxy"
	"go.atomizer.io/plex/faulttest/scaffold"
)

var (
	soakFor  = flag.Duration("soak.for", 2500*time.Millisecond, "how long TestSoakOfTheLayers takes")
	soakSeed = flag.Uint64("soak.seed", 0, "its seed; 0 draws one")
)

// A short soak of many rounds, so that each kind of round and of end has its turn.
func TestSoakOfTheLayers(t *testing.T) {
	o := scaffold.Options{
		Length: *soakFor, Seed: *soakSeed, Capacity: 6, Faults: 15, Each: 150 * time.Millisecond, Verbose: true,
		Program: program,
	}
	var out bytes.Buffer
	f, err := run(context.Background(), options{o.Drawn(), 60}, &out)
	require.NoError(t, err)
	f.Print(&out)
	require.False(t, f.Failed(), out.String())
	t.Log(out.String())
}

func TestTheSameSeedSetsUpTheSameRounds(t *testing.T) {
	for _, seed := range []uint64{1, 2} {
		a, b := still(t, seed), still(t, seed)
		ends := map[ending]int{}
		for n := range 100 {
			ra, rb := a.newRound(n), b.newRound(n)
			require.Equal(t, ra.setup, rb.setup)
			ends[ra.end]++
			for k := range ra.Minimum { // the first have no faults of the listener, for there is none
				require.Equal(t, ra.script(&side{}, 1)(k), rb.script(&side{}, 1)(k))
			}
		}
		require.Len(t, ends, int(endings), "some end is never drawn")
	}
}

// still is a soak that does not run.
func still(t *testing.T, seed uint64) *soak {
	o := scaffold.Options{Length: time.Second, Seed: seed, Capacity: 4, Faults: 15, Program: program}
	s, err := newSoak(options{o, 9}, io.Discard)
	require.NoError(t, err)
	return s
}

func TestAViolationTellsItsHistory(t *testing.T) {
	s := still(t, 7)
	s.sums.faults = map[proxy.Kind]uint64{proxy.Reset: 1234567}
	r := s.newRound(12)
	r.ids, r.end = 15, endClient
	r.fail(context.Canceled)
	f := s.Verdict(s.figures())
	require.True(t, f.Failed())
	var out strings.Builder
	f.Print(&out)
	for _, part := range []string{
		"go run ./layers/soak -seed 7 -capacity 4", "-callers 9", "context canceled", "round 12", "identifiers to 15",
		"1,234,567",
	} {
		require.Contains(t, out.String(), part)
	}
}
