package request_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/request"
)

// orderedNumbers is numbers without identifiers: the server sees the same bytes.
type orderedNumbers struct{}

func (orderedNumbers) Append(dst []byte, n uint64) ([]byte, error) {
	return numbers{}.Append(dst, 0, n)
}

func (orderedNumbers) Split(data []byte, atEOF bool) (int, []byte, error) {
	return numbers{}.Split(data, atEOF)
}

func (orderedNumbers) Parse(m []byte, _ uint64) (uint64, error) {
	return binary.BigEndian.Uint64(m[8:]), nil
}

// BenchmarkOrdered compares a client for ordered replies with one for identifiers, over 16
// connections each to the same server. Both take turns. The ratio is the median of the turns' ratios.
func BenchmarkOrdered(b *testing.B) {
	for _, callers := range []int{1, 64, 1_000, 8_000} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			address := numberServer(b, false)
			byID := numberClient(b, address, 16)
			mux, err := plex.New(context.Background(), plex.WithConnector(plex.Dial("tcp", address)),
				plex.WithMinConnections(16), plex.WithMaxCapacity(16))
			require.NoError(b, err)
			ordered, err := request.NewOrdered(mux, orderedNumbers{})
			require.NoError(b, err)
			b.Cleanup(func() {
				require.NoError(b, ordered.Close())
				require.NoError(b, mux.Close())
			})
			turn := 20_000
			if callers == 1 {
				turn = 2_000
			}
			clients := []*request.Client[uint64, uint64]{ordered, byID}
			var times [2]time.Duration
			var ratios []float64
			for range b.N {
				var took [2]time.Duration
				for i, c := range clients {
					took[i] = share(b, callers, turn, func(_ int, n uint64) (uint64, error) {
						return c.Do(context.Background(), n)
					})
					times[i] += took[i]
				}
				ratios = append(ratios, float64(took[1])/float64(took[0]))
			}
			slices.Sort(ratios)
			n := float64(turn * b.N)
			b.ReportMetric(n/times[0].Seconds(), "requests/s")
			b.ReportMetric(n/times[1].Seconds(), "by-identifier/s")
			b.ReportMetric(ratios[len(ratios)/2], "ordered/by-identifier")
			b.ReportMetric(0, "ns/op")
		})
	}
}
