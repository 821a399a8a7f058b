package main

import (
	"bytes"
	"context"
	"flag"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex/faulttest/check"
	"go.atomizer.io/plex/faulttest/proxy"
)

var (
	soakFor  = flag.Duration("soak.for", 2500*time.Millisecond, "how long TestSoakOfTheLayers takes")
	soakSeed = flag.Uint64("soak.seed", 0, "its seed; 0 draws one")
)

// A short soak of many rounds, so that each kind of round and of end has its turn.
func TestSoakOfTheLayers(t *testing.T) {
	o := options{
		length: *soakFor, seed: *soakSeed, capacity: 6, callers: 60, faults: 15, each: 150 * time.Millisecond, verbose: true,
	}
	if o.seed == 0 {
		o.seed = rand.Uint64()
	}
	var out bytes.Buffer
	f, err := run(context.Background(), o, &out)
	require.NoError(t, err)
	f.table(&out)
	require.False(t, f.bad, out.String())
	t.Log(out.String())
}

func TestTheSameSeedSetsUpTheSameRounds(t *testing.T) {
	for _, seed := range []uint64{1, 2} {
		a, b := &soak{o: options{seed: seed, capacity: 4, callers: 9, faults: 15}}, &soak{o: options{
			seed:     seed,
			capacity: 4, callers: 9, faults: 15,
		}}
		ends := map[ending]int{}
		for n := range 100 {
			p := a.draw(n)
			require.Equal(t, p, b.draw(n))
			ends[p.end]++
			ra, rb := &round{soak: a, setup: p}, &round{soak: b, setup: p}
			for k := range p.minimum { // the first have no faults of the listener, for there is none
				require.Equal(t, ra.script(&side{}, 1)(k), rb.script(&side{}, 1)(k))
			}
		}
		require.Len(t, ends, int(endings), "some end is never drawn")
	}
}

func TestAViolationTellsItsHistory(t *testing.T) {
	s := &soak{o: options{seed: 7, capacity: 3, callers: 5, faults: 1, length: time.Second}, start: time.Now()}
	s.sums.faults = map[proxy.Kind]uint64{proxy.Reset: 1234567}
	_, s.cancel = context.WithCancel(context.Background())
	r := &round{soak: s, setup: setup{number: 12, ids: 15, end: endClient}}
	s.fail(r, context.Canceled)
	f := s.figures(check.Before())
	require.True(t, f.bad)
	var out strings.Builder
	f.table(&out)
	for _, part := range []string{
		"-seed 7 -capacity 3 -callers 5", "context canceled", "round 12", "identifiers to 15", "1,234,567",
	} {
		require.Contains(t, out.String(), part)
	}
}
