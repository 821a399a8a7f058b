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
		t.Logf("%-28s %3d addr %4d pools %2d conns: largest %.2f, at end %.2f..%.2f missing %d, even %v after %v (changed %v), moved %d, peak/s %d, later /s %d, later /0.1s %d, dialled %v; %v",
			c.Name, c.Addresses, c.Pools, c.Connections, r.Largest(pacesim.Ready, c.Length), r.Last().Least, r.Last().Largest, r.Last().Missing,
			r.Even, r.EvenAfter, r.Changed, r.Moved, r.Connects(pacesim.Ready, c.Length), r.Connects(r.Changed+pacesim.Settled+time.Second, c.Length), r.Tenth, r.Dialled[:3], time.Since(began))
	}
}
