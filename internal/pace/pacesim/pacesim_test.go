package pacesim_test

import (
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex/internal/pace/pacesim"
)

var seeds = flag.Int("seeds", 0, "simulate so many services of random sizes, of up to 1,000 pools each, instead of a few small ones")

// requireNoHerd checks that what is moved or tried comes no faster than the pace of moves allows: all
// connections in the time in which the resolver is asked once.
func requireNoHerd(t *testing.T, r *pacesim.Result) {
	t.Helper()
	const every = 30
	second := float64(r.Case.Pools*r.Case.Connections) / every
	require.LessOrEqual(t, float64(r.Tenth), 2*second/10+5*math.Sqrt(second/10)+5, "connects to one address in a tenth of a second")
}

func TestThePoolsOfAServiceAgree(t *testing.T) {
	type bounds struct {
		even    time.Duration // until all is even again
		largest float64       // share
		short   time.Duration // of a hundredth of all connections
		spread  float64       // how far from the even share any address is at the end; 0: it does not matter
		dials   int           // by one pool, to the address that is bad
	}
	for i, b := range []bounds{
		{even: 60 * time.Second, largest: 1.55},
		{even: 60 * time.Second, largest: 1.55},
		{even: 60 * time.Second, largest: 1.45, spread: 0.35},
		{even: 75 * time.Second, largest: 1.60, spread: 0.15},
		{even: 45 * time.Second, largest: 1.20, dials: 16},
		{even: 45 * time.Second, largest: 1.20, dials: 18},
		{even: 45 * time.Second, largest: 1.25, dials: 16, short: 10 * time.Second},
		{even: 45 * time.Second, largest: 1.20, dials: 8, short: 3 * time.Second},
		{even: 75 * time.Second, largest: 1.50},
		{even: 75 * time.Second, largest: 2.10},
		{even: 75 * time.Second, largest: 3.60}, // chance, too
	} {
		c := pacesim.All()[i]
		t.Run(fmt.Sprintf("%s, %d addresses, %d pools of %d, room for %d", c.Name, c.Addresses, c.Pools, c.Connections, c.Room), func(t *testing.T) {
			r := c.Run(1)
			largest, short := r.Largest(pacesim.Ready, c.Length), r.Short(c.Pools*c.Connections/100)
			t.Logf("largest share %.2f, at the end %.2f to %.2f, even after %v, too few for %v, moved %d, most to one address %d in a second, later %d in a tenth, %.1f by a pool to the first",
				largest, r.Last().Least, r.Last().Largest, r.EvenAfter, short, r.Moved, r.Connects(pacesim.Ready, c.Length), r.Tenth,
				float64(r.Dialled[0])/float64(c.Pools))
			require.True(t, r.Even)
			require.LessOrEqual(t, r.EvenAfter, b.even)
			require.LessOrEqual(t, largest, b.largest)
			require.LessOrEqual(t, short, b.short)
			requireNoHerd(t, r)
			if b.spread > 0 {
				require.LessOrEqual(t, r.Last().Largest, 1+b.spread)
				require.GreaterOrEqual(t, r.Last().Least, 1-b.spread)
			}
			if b.dials > 0 {
				require.LessOrEqual(t, r.Dialled[0], b.dials*c.Pools)
			}
		})
	}
}

// Whatever their sizes are, services become even again, and nobody is stormed.
func TestServicesOfAnySizeBecomeEven(t *testing.T) {
	n, most := 12, 50
	if *seeds > 0 {
		n, most = *seeds, 1000
	}
	for seed := range n {
		rng := rand.New(rand.NewPCG(uint64(seed), 3))
		addresses, pools, room := 3+rng.IntN(40), 1+rng.IntN(most), rng.IntN(2)
		if rng.IntN(8) == 0 {
			addresses = 3 + rng.IntN(298)
		}
		connections := 1 + rng.IntN(40)
		c := []pacesim.Case{
			pacesim.Rolling(min(addresses, 20), pools, connections, room),
			pacesim.Gone(addresses, pools, connections, room),
			pacesim.Bad("refuses", pacesim.Server{Refuses: true}, addresses, pools, connections),
			pacesim.Bad("hangs up", pacesim.Server{HangsUp: time.Duration(rng.IntN(100)+1) * time.Millisecond}, addresses, pools, connections),
			pacesim.Bad("silent", pacesim.Server{Silent: true}, addresses, pools, connections),
			pacesim.Flapping(addresses, pools, connections),
			pacesim.Growing(addresses, pools, connections),
		}[seed%7]
		t.Run(fmt.Sprintf("%d: %s, %d addresses, %d pools of %d, room for %d", seed, c.Name, c.Addresses, pools, connections, room), func(t *testing.T) {
			r := c.Run(uint64(seed))
			t.Logf("at the end %.2f to %.2f, even %v after %v, most in a tenth %d", r.Last().Least, r.Last().Largest, r.Even, r.EvenAfter, r.Tenth)
			require.Zero(t, r.Last().Missing)
			require.True(t, r.Even)
			requireNoHerd(t, r)
		})
	}
}

func TestASeedIsAlwaysTheSameRun(t *testing.T) {
	c := pacesim.Gone(9, 30, 12, 1)
	one, other := c.Run(7), c.Run(7)
	one.Case.Script, other.Case.Script = nil, nil
	require.Equal(t, one, other)
	require.NotEqual(t, one.Dialled, c.Run(8).Dialled)
}
