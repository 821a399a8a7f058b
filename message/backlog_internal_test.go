package message

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
)

// It tries every situation in which a connection can be put back.
func TestDecisionsHoldInEverySituation(t *testing.T) {
	for bits := range 1 << 6 {
		is := func(i int) bool { return bits>>i&1 != 0 }
		s := situation{pending: is(0), report: is(1), whole: is(2), kill: is(3), leased: is(4), ended: is(5)}
		if s.report && !s.pending {
			continue // a report is pending
		}
		d := s.decide()
		says := func(rule string) string { return fmt.Sprintf("%s: %+v gives %+v", rule, s, d) }

		require.Equal(t, s.pending && (!s.kill || s.report), d.keep, says("a kill leaves only its report"))
		if d.keep && (s.report || s.ended) {
			require.True(t, d.queue, says("nothing else would have it delivered"))
		}
		if d.queue {
			require.True(t, d.keep, says("there must be something to deliver"))
		}
		require.Equal(t, s.kill && !s.leased && !s.ended, d.poison, says("others may get a lease before the kill"))
		if s.ended || s.kill && s.leased {
			require.False(t, d.watch || d.pin, says("the end is known"))
		} else if d.keep || d.poison {
			require.True(t, d.watch, says("the end must be told"))
		}
		if d.poison {
			require.False(t, d.pin, says("it is not kept from its end"))
		}
		if d.keep && !s.kill && !s.ended {
			require.True(t, d.pin, says("it must not be retired in the middle of a message"))
			require.Equal(t, s.whole || s.report, d.queue, says("the beginning of a message waits for the rest"))
		}
	}
}

// newQueued returns a receiver with n leftovers in its queue.
func newQueued(n int) *Receiver {
	r := &Receiver{leftovers: map[plex.Conn]*leftover{}, iterations: map[*iteration]struct{}{}}
	for range n {
		r.enqueueLocked(&leftover{})
	}
	return r
}

func TestQueuedLeftoversAreTakenInOrderFromAnyPlace(t *testing.T) {
	r := newQueued(6)
	all := append([]*leftover{}, r.queue...)
	for _, i := range []int{2, 3, 5} { // as a lease takes them, or Kill
		r.takeLocked(all[i])
		require.False(t, all[i].queued)
	}
	r.enqueueLocked(all[2])
	for _, i := range []int{0, 1, 4, 2} {
		require.Same(t, all[i], r.queue[0])
		r.takeLocked(r.queue[0])
	}
	require.Empty(t, r.queue)
	r.enqueueLocked(all[5])
	require.Same(t, all[5], r.queue[0])
}

// When many connections end in the middle of a message at once, each of them is queued and taken. If
// that moved the others, it would cost the square of their number.
func TestTakingFromTheQueueMovesNoOther(t *testing.T) {
	const n = 100
	for name, order := range map[string]func(i int) int{
		"first to last": func(i int) int { return i },
		"last to first": func(i int) int { return n - 1 - i },
		"mixed":         func(i int) int { return i * 37 % n },
	} {
		t.Run(name, func(t *testing.T) {
			r := newQueued(n)
			cells := make([]**leftover, n)
			all := append([]*leftover{}, r.queue...)
			for i := range cells {
				cells[i] = &r.queue[i]
			}
			taken := map[int]bool{}
			for i := range n {
				r.takeLocked(all[order(i)])
				taken[order(i)] = true
				for j, cell := range cells {
					if !taken[j] {
						require.Same(t, all[j], *cell)
					}
				}
			}
			require.Empty(t, r.queue)
		})
	}
}
