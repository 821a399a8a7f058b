package plex

// What is logged, in one place, so that messages and keys stay the same. A handler is the user's
// code and may be slow, or call the multiplexer. So it is called by a goroutine of its own, which
// is there only while there is something to log. Only Close waits for it, and only briefly.

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"go.atomizer.io/plex/internal/caller"
)

// logQueue is how many records may wait for the handler.
const logQueue = 4096

// logbook hands records to the user's handler.
type logbook struct {
	logger *slog.Logger // nil for silence
	pool   string       // the multiplexer's name; "" if it has none
	tasks  *tasks

	mu      sync.Mutex
	records []slog.Record // to be handled
	writing bool          // write runs
}

func (l *logbook) init(logger *slog.Logger, pool string, t *tasks) {
	l.logger, l.pool, l.tasks = logger, pool, t
}

// warn logs what is worth a look.
func (l *logbook) warn(msg string, args ...any) { l.add(slog.LevelWarn, msg, args...) }

func (l *logbook) add(level slog.Level, msg string, args ...any) {
	if l.logger == nil {
		return
	}
	r := slog.NewRecord(time.Now(), level, msg, 0)
	if l.pool != "" {
		r.AddAttrs(slog.String("pool", l.pool))
	}
	r.Add(args...)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.records) == logQueue {
		return // the handler is far behind; the counters tell what happened
	}
	l.records = append(l.records, r)
	if !l.writing {
		l.writing = true
		l.tasks.startForeign(foreignTask, l.write)
	}
}

// write gives the records to the handler until there are no more. Each goes by itself through the
// guard, so one that makes the handler panic costs no other.
func (l *logbook) write() {
	for {
		l.mu.Lock()
		records := l.records
		l.records = nil
		l.writing = len(records) > 0
		l.mu.Unlock()
		if len(records) == 0 {
			return
		}
		for len(records) > 0 {
			_ = caller.Apart("the log handler", func() error { // there is nowhere to report it to
				for len(records) > 0 {
					r := records[0]
					records = records[1:]
					if h := l.logger.Handler(); h.Enabled(context.Background(), r.Level) {
						_ = h.Handle(context.Background(), r)
					}
				}
				return nil
			})
		}
	}
}

func (l *logbook) lost(c *conn, cause error) {
	level := slog.LevelWarn
	if errors.Is(cause, ErrKilled) {
		level = slog.LevelInfo // a consumer did that, and knows why
	}
	l.add(level, "plex: connection lost", "cause", cause, "addr", text(c.remote), "age", c.leftAt.Sub(c.admittedAt))
}

func (l *logbook) connectFailed(a *attempt, err error) {
	l.warn("plex: connect failed", "cause", err, "addr", text(a.loss.addr), "attempts", a.loss.attempts+1)
}

// connected logs what a connect has brought.
func (l *logbook) connected(a *attempt, took time.Duration, from int) {
	switch {
	case a.loss.first:
	case a.grows:
		l.scaled("callers wait", from, from+1)
	case a.loss.why.retires():
		l.add(slog.LevelInfo, "plex: connection renewed", "why", a.loss.why.text(), "addr", text(a.loss.addr), "attempts", a.loss.attempts+1, "took", took)
	default:
		l.add(slog.LevelInfo, "plex: connection healed", "addr", text(a.loss.addr), "attempts", a.loss.attempts+1, "took", took)
	}
}

func (l *logbook) scaled(why string, from, to int) {
	l.add(slog.LevelInfo, "plex: scaled", "why", why, "from", from, "to", to)
}

func (l *logbook) leak(s leak) {
	l.warn("plex: suspected leak of a lease", "half", s.kind, "addr", text(s.remote), "held", s.held, "stack", s.origin.text())
}

// text is an address for the log; the address may be of a foreign type.
func text(addr net.Addr) (s string) {
	if caller.IsNil(addr) {
		return ""
	}
	_ = caller.Guard("the address's String", func() error { s = addr.String(); return nil })
	return s
}
