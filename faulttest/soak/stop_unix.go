//go:build unix

package main

// The process is stopped, and goes on after a while. Another process does that, for one that is stopped cannot.

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"time"
)

const canStop = true

// stops stops the process now and then, until ctx ends.
func (s *soak) stops(ctx context.Context, rng *rand.Rand) {
	for {
		pause := 2*time.Second + time.Duration(rng.Int64N(int64(18*time.Second)))
		length := 200*time.Millisecond + time.Duration(rng.Int64N(int64(1300*time.Millisecond)))
		if s.Each > 0 {
			pause, length = s.Each/2, length/10
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		script := fmt.Sprintf("kill -STOP $1; sleep %.3f; kill -CONT $1", length.Seconds())
		if err := exec.Command("sh", "-c", script, "sh", strconv.Itoa(os.Getpid())).Run(); err != nil {
			s.fail(nil, fmt.Errorf("the process could not be stopped: %w", err))
			return
		}
		s.sums.foreign[processStopped].Add(1)
	}
}
