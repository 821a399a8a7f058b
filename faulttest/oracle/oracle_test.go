package oracle

// The oracle has to be trusted before anything that it judges: each kind of damage, in random places and cut into
// random pieces, has to be told exactly.

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func stream(id uint32, from, to uint64) []byte {
	p := make([]byte, to-from)
	Fill(id, from, p)
	return p
}

func join(parts ...[]byte) (all []byte) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// feed gives p to c in random pieces.
func feed(rng *rand.Rand, c *Checker, p []byte) {
	for len(p) > 0 {
		n := 1 + rng.IntN(min(len(p), []int{1, 3, 50, 1000}[rng.IntN(4)]))
		_ = c.Check(p[:n])
		p = p[n:]
	}
	_ = c.End()
}

func TestFillAndMatchAgreeAtEveryOffset(t *testing.T) {
	whole := stream(7, 0, 200)
	for from := range 100 {
		for to := from; to <= 100; to++ {
			p := stream(7, uint64(from), uint64(to))
			require.Equal(t, whole[from:to], p)
			require.Equal(t, len(p), Match(7, uint64(from), p))
			for i := range p {
				p[i] ^= 1
				require.Equal(t, i, Match(7, uint64(from), p))
				p[i] ^= 1
			}
		}
	}
}

func TestWordsDecode(t *testing.T) {
	for _, id := range []uint32{0, 1, 12345, MaxID} {
		for _, index := range []uint64{0, 1, 1 << 20, 1<<indexBits - 1} {
			gotID, gotIndex, ok := decode(stream(id, index*wordSize, (index+1)*wordSize))
			require.True(t, ok)
			require.Equal(t, id, gotID)
			require.Equal(t, index, gotIndex)
		}
	}
}

func TestCheckerTellsExactlyWhatIsWrong(t *testing.T) {
	const own, other = 6, 9
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	for i := range 1000 {
		// a and b are whole streams' parts long enough to be told from chance.
		a := 30 + rng.Uint64N(300)
		b := a + 15 + rng.Uint64N(300)
		end := b + 30 + rng.Uint64N(300)
		far := rng.Uint64N(5000)
		noise := make([]byte, 1+rng.IntN(200))
		for j := range noise {
			noise[j] = byte(rng.Uint32())
		}
		for _, tc := range []struct {
			name  string
			p     []byte
			want  Result
			kind  Kind
			slack uint64
		}{
			{"whole", stream(own, 0, end), Result{}, 0, 0},
			{"lost", join(stream(own, 0, a), stream(own, b, end)), Result{Lost: b - a}, Lost, 0},
			{"doubled", join(stream(own, 0, b), stream(own, a, end)), Result{Doubled: b - a}, Doubled, 0},
			{
				"misplaced", join(stream(own, 0, a), stream(own, b, end), stream(own, a, b), stream(own, end, end+50)),
				Result{Misplaced: b - a},
				Lost /* at first sight */, 3,
			},
			{
				"misdelivered", join(stream(own, 0, a), stream(other, far, far+b-a+24), stream(own, a, end)),
				Result{Misdelivered: b - a + 24},
				Misdelivered, 3,
			},
			{
				"exchanged", join(stream(own, 0, a), stream(other, far, far+b-a+24), stream(own, b, end)),
				Result{Misdelivered: b - a + 24, Lost: b - a},
				Misdelivered, 3,
			},
			{
				"corrupt", join(stream(own, 0, a), noise, stream(own, a, end)),
				Result{Corrupt: uint64(len(noise))},
				Corrupt, 3,
			},
		} {
			for _, c := range []*Checker{NewChecker(own), NewAdopter()} {
				feed(rng, c, tc.p)
				got, want := c.Result(), tc.want
				want.Received = uint64(len(tc.p))
				if slack := tc.slack; slack > 0 {
					// Where one piece gives way to another, a byte may be right for both by chance.
					near := func(want, got uint64) bool { return want-got+slack <= 2*slack }
					if near(want.Lost, got.Lost) && near(want.Doubled, got.Doubled) && near(want.Misplaced, got.Misplaced) &&
						near(want.Misdelivered, got.Misdelivered) && near(want.Corrupt, got.Corrupt) {
						got = want
					}
				}
				require.Equal(t, want, got, "%s, round %d: %v", tc.name, i, c.Err())
				if tc.kind == 0 {
					require.NoError(t, c.Err())
					require.NoError(t, c.Whole(end))
					require.Error(t, c.Whole(end+1))
					continue
				}
				var v *Violation
				require.ErrorAs(t, c.Err(), &v)
				if tc.kind != Corrupt {
					require.Equal(t, tc.kind, v.Kind, "%s: %v", tc.name, v)
				}
			}
		}
	}
}

func TestCheckerOfAnotherStreamSaysMisdelivered(t *testing.T) {
	c := NewChecker(1)
	require.NoError(t, c.Check(stream(2, 0, 10)), "too few to say")
	require.ErrorContains(t, c.Check(stream(2, 10, 100)), "stream 2")
	require.Equal(t, Result{Received: 100, Misdelivered: 100}, c.Result())
}

func TestAdopterDoesNotJudgeLessThanAWord(t *testing.T) {
	c := NewAdopter()
	require.NoError(t, c.Check(stream(2, 0, 7)))
	require.NoError(t, c.End())
	_, known := c.ID()
	require.False(t, known)
}

func TestAdopterSeesALostStart(t *testing.T) {
	c := NewAdopter()
	_ = c.Check(stream(2, 3, 100))
	require.Error(t, c.End())
	require.Equal(t, Result{Received: 97, Lost: 3}, c.Result())
}

func TestOracleDoesNotAllocate(t *testing.T) {
	s, buf := NewSource(3), make([]byte, 64<<10)
	c := NewChecker(3)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		s.Fill(buf)
		s.Wrote(len(buf))
		if err := c.Check(buf); err != nil {
			panic(err)
		}
	}))
}

func BenchmarkOracle(b *testing.B) {
	for _, size := range []int{64, 64 << 10} {
		buf := make([]byte, size)
		b.Run(fmt.Sprintf("fill/%d", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			s := NewSource(3)
			for b.Loop() {
				s.Fill(buf)
			}
		})
		b.Run(fmt.Sprintf("check/%d", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			Fill(3, 0, buf)
			for b.Loop() {
				if NewChecker(3).Check(buf) != nil {
					b.Fatal()
				}
			}
		})
	}
}
