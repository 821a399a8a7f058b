package request

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// As many identifiers stay taken as there is room for, all in one row. Each way through the space
// has to pass that row once, so there must be enough others.
func TestAFreeIdentifierIsNearHoweverManyAreTaken(t *testing.T) {
	for _, last := range []uint64{ringIDs + 1, 1 << 18} {
		s := ids{min: 100, max: 100 + last}
		looks := 0
		held := map[uint64]bool{}
		taken := func(id uint64) bool { looks++; return held[id] }
		for s.room(len(held) + 1) { // leaving one that is taken again and again
			held[s.take(taken)] = true
		}
		const takes = 1 << 17
		for range takes {
			require.False(t, held[s.take(taken)])
		}
		require.LessOrEqual(t, looks, 9*takes, "of %d identifiers %d are held", last+1, len(held))
	}
}
