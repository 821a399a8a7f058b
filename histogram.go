package plex

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

// histogramBuckets is for a bucket below a microsecond, one for each doubling up to 67 s, and one
// for all that is longer.
const histogramBuckets = 28

// Histogram counts durations by their length. Element i counts those below Bound(i) and not below
// Bound(i-1); the last counts all others, too.
type Histogram [histogramBuckets]uint64

// Bound is the upper bound of bucket i, not included: 1 µs doubled i times. That of the last bucket
// is the longest duration that there is.
func (h Histogram) Bound(i int) time.Duration {
	if i >= histogramBuckets-1 {
		return maxWait
	}
	return time.Microsecond << max(i, 0)
}

// Count is how many durations there have been.
func (h Histogram) Count() (n uint64) {
	for _, k := range h {
		n += k
	}
	return n
}

// Quantile returns a bound that the share q of all durations is below, for q from 0 to 1: the
// median for 0.5. It is at most twice what it should be, and 0 if there have been none.
func (h Histogram) Quantile(q float64) time.Duration {
	n := h.Count()
	if n == 0 {
		return 0
	}
	rank := max(1, uint64(math.Ceil(min(max(q, 0), 1)*float64(n))))
	i := 0
	for below := h[0]; below < rank && i < histogramBuckets-1; below += h[i] {
		i++
	}
	return h.Bound(i)
}

// add counts a duration.
func (h *Histogram) add(d time.Duration) { h[bucketOf(d)]++ }

func bucketOf(d time.Duration) int {
	return min(bits.Len64(uint64(max(d, 0)/time.Microsecond)), histogramBuckets-1)
}

// histogram is a Histogram that several goroutines may add to.
type histogram [histogramBuckets]atomic.Uint64

func (h *histogram) add(d time.Duration) { h[bucketOf(d)].Add(1) }

func (h *histogram) addTo(sum *Histogram) {
	for i := range h {
		sum[i] += h[i].Load()
	}
}
