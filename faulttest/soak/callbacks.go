package main

// Functions of the user's that panic, end their goroutine, or hang.

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"
)

// backoff is the function for the pauses.
func (s *lane) backoff(p *setup) func(failures int) time.Duration {
	var calls atomic.Uint64
	return func(failures int) time.Duration {
		// The default, which applies if this fails, is short as long as there are few failures.
		if p.badBackoff && failures <= 2 && !s.mercy.Load() {
			rng := s.Rand(0x88, uint64(p.number)<<32|calls.Add(1))
			switch rng.IntN(400) {
			case 0:
				s.sums.foreign[backoffCrashes].Add(1)
				time.Sleep(1200 * time.Millisecond)
			case 1, 2, 3, 4, 5, 6, 7, 8:
				s.sums.foreign[backoffCrashes].Add(1)
				crash(rng)
			}
		}
		return p.Pause * time.Duration(min(failures, p.Pauses))
	}
}

// logHandler is a log handler that crashes now and then.
type logHandler struct {
	s     *lane
	calls atomic.Uint64
}

func (h *logHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h *logHandler) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h *logHandler) WithGroup(string) slog.Handler            { return h }

func (h *logHandler) Handle(_ context.Context, r slog.Record) error {
	rng := h.s.Rand(0x99, h.calls.Add(1))
	if rng.IntN(100) == 0 {
		h.s.sums.foreign[logHandlerCrashes].Add(1)
		crash(rng)
	}
	_ = r.Message
	return nil
}
