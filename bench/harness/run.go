package harness

// The measuring itself.

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"time"
)

// Options say how long a run shall take.
type Options struct {
	Rounds int           // turns of each subject
	Turn   time.Duration // length of a turn, for cases that say nothing about it
	// Progress is called after each turn, with how many turns of the case there
	// have been and will be. It may be nil.
	Progress func(done, all int)
}

// If the machine has become slower since the turns were measured out, a case ends early: when it has
// taken patience times what it should, and has had leastRounds.
const (
	patience    = 1.5
	leastRounds = 3
)

// Run measures c. An error says which subject failed; there is no result then.
func Run(ctx context.Context, c *Case, o Options) (*Result, error) {
	turn, rounds := c.Turn, o.Rounds
	if turn == 0 {
		turn = o.Turn
	}
	if c.Rounds > 0 {
		rounds = min(rounds, c.Rounds)
	}
	works, err := open(c)
	defer func() {
		for _, w := range works {
			w.Close()
		}
	}()
	if err != nil {
		return nil, err
	}

	ops := make([]int, len(works))
	for i, w := range works {
		ops[i] = c.Ops
		if c.Ops == 0 { // which also warms it up
			if ops[i], err = calibrate(w, turn); err != nil {
				return nil, fmt.Errorf("%s: %s: %w", c.Name, c.Subjects[i].Name, err)
			}
		}
	}

	r := &Result{Case: c, Rounds: make([][]Sample, rounds)}
	done, start := 0, time.Now()
	late := time.Duration(patience * float64(turn) * float64(rounds*len(works)))
	for round := range rounds {
		if c.Ops == 0 && round >= leastRounds && time.Since(start) > late {
			r.Rounds = r.Rounds[:round]
			break
		}
		samples := make([]Sample, len(works))
		for k := range works {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			i := (round + k) % len(works)
			if samples[i], err = takeTurn(works[i], ops[i]); err != nil {
				return nil, fmt.Errorf("%s: %s: %w", c.Name, c.Subjects[i].Name, err)
			}
			done++
			if o.Progress != nil {
				o.Progress(done, rounds*len(works))
			}
		}
		r.Rounds[round] = samples
	}
	return r, nil
}

// open makes all subjects of c ready. It returns those that are, also with an
// error.
func open(c *Case) ([]Work, error) {
	works := make([]Work, 0, len(c.Subjects))
	for _, s := range c.Subjects {
		w, err := s.Open()
		if err != nil {
			return works, fmt.Errorf("%s: %s: %w", c.Name, s.Name, err)
		}
		works = append(works, w)
	}
	return works, nil
}

// calibrate finds out how many operations fill a turn.
func calibrate(w Work, turn time.Duration) (int, error) {
	for n := 1; ; {
		took, err := quickest(w, n, turn/2)
		if err != nil {
			return 0, err
		}
		fits := max(1, int(float64(n)*float64(turn)/float64(max(took, 1))))
		if took >= turn/2 || n >= 1e9 {
			return fits, nil
		}
		n = max(n+1, min(100*n, fits)) // not too far at once: the first operations may be slow ones
	}
}

// quickest measures n operations. If they take too long, it measures them
// again, and the shortest time counts: the machine may have been busy.
func quickest(w Work, n int, tooLong time.Duration) (time.Duration, error) {
	var least time.Duration
	for try := range 3 {
		start := time.Now()
		if _, err := w.Run(n); err != nil {
			return 0, err
		}
		took := time.Since(start)
		if try == 0 || took < least {
			least = took
		}
		if least < tooLong {
			break
		}
	}
	return least, nil
}

// takeTurn measures n operations.
func takeTurn(w Work, n int) (Sample, error) {
	runtime.GC() // nobody pays for the garbage of the one before
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	sample, err := w.Run(n)
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	if err != nil {
		return Sample{}, err
	}
	figures := map[string]float64{
		TimePerOp: float64(took) / float64(n),
		// A few allocations are the runtime's, not the subject's.
		AllocsPerOp: math.Round(float64(after.Mallocs-before.Mallocs)/float64(n)*10) / 10,
		BytesPerOp:  math.Round(float64(after.TotalAlloc-before.TotalAlloc) / float64(n)),
	}
	for key, v := range sample.Figures {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return Sample{}, errors.New("the figure " + key + " is no number")
		}
		figures[key] = v
	}
	sample.Figures = figures
	return sample, nil
}

// Throughput runs what moves so many bytes and adds how many that is in a
// second to its sample.
func Throughput(bytes int, key string, run func() (Sample, error)) (Sample, error) {
	start := time.Now()
	sample, err := run()
	if err != nil {
		return sample, err
	}
	if sample.Figures == nil {
		sample.Figures = make(map[string]float64)
	}
	sample.Figures[key] = float64(bytes) / time.Since(start).Seconds()
	return sample, nil
}
