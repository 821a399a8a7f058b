package pacesim_test

import (
	"testing"
	"time"

	"go.atomizer.io/plex/internal/pace/pacesim"
)

func TestShow(t *testing.T) {
	for _, c := range pacesim.All() {
		began := time.Now()
		r := c.Run(1)
		most, secs := 0, 0
		for _, x := range r.Samples {
			if x.At > pacesim.Ready && x.Missing > 0 {
				secs++
				most = max(most, x.Missing)
			}
		}
		t.Logf("%-28s %3d addr %4d pools %2d conns: largest %.2f, at end %.2f..%.2f missing %d (most %d, for %d s), even %v after %v (changed %v), moved %d, peak/s %d, later /s %d, later /0.1s %d, dialled %v; %v",
			c.Name, c.Addresses, c.Pools, c.Connections, r.Largest(pacesim.Ready, c.Length), r.Last().Least, r.Last().Largest, r.Last().Missing, most, secs,
			r.Even, r.EvenAfter, r.Changed, r.Moved, r.Connects(pacesim.Ready, c.Length), r.Connects(r.Changed+pacesim.Settled+time.Second, c.Length), r.Tenth, r.Dialled[:3], time.Since(began))
	}
}
