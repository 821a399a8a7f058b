package plex

// What is logged, in one place, so that messages and keys stay the same. A
// handler is the user's code and may be slow, or call the multiplexer. So it is
// called by a goroutine of its own, which is there only while there is something
// to log; nobody waits for it but Close, and that not for ever.

import (
	"context"
	"log/slog"
	"net"
	"time"

	"go.atomizer.io/plex/internal/caller"
)

// log writes a warning, as everything does that is worth a look.
func (m *Multiplexer) log(msg string, args ...any) { m.logAt(slog.LevelWarn, msg, args...) }

func (m *Multiplexer) logAt(level slog.Level, msg string, args ...any) {
	if m.cfg.logger == nil || !m.cfg.logger.Enabled(context.Background(), level) {
		return
	}
	r := slog.NewRecord(time.Now(), level, msg, 0)
	r.Add(args...)
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.records) == logQueue {
		return // the handler is far behind; the counters tell what happened
	}
	m.records = append(m.records, r)
	if !m.logging {
		m.logging = true
		m.spawnOutsideLocked(m.writeLog)
	}
}

// logQueue is how many records may wait for the handler.
const logQueue = 4096

// writeLog gives the records to the handler until there are no more.
func (m *Multiplexer) writeLog() {
	for {
		m.mu.Lock()
		records := m.records
		m.records = nil
		m.logging = len(records) > 0
		m.mu.Unlock()
		if len(records) == 0 {
			return
		}
		for _, r := range records {
			_ = m.cfg.logger.Handler().Handle(context.Background(), r) // there is nowhere to report it to
		}
	}
}

func (m *Multiplexer) logLost(c *conn, cause error) {
	m.log("plex: connection lost", "cause", cause, "addr", text(c.remote), "age", time.Since(c.admittedAt))
}

func (m *Multiplexer) logConnectFailed(a *attempt, err error) {
	m.log("plex: connect failed", "cause", err, "addr", text(a.loss.addr), "attempts", a.loss.attempts+1)
}

// logConnected logs what a connect of the supervisor's has brought.
func (m *Multiplexer) logConnected(a *attempt, took time.Duration, from int) {
	switch {
	case a.grows:
		m.logScaled("callers wait", from, from+1)
	case a.loss.expired:
		m.logAt(slog.LevelInfo, "plex: connection renewed", "why", "maximal lifetime", "addr", text(a.loss.addr), "attempts", a.loss.attempts+1, "took", took)
	default:
		m.logAt(slog.LevelInfo, "plex: connection healed", "addr", text(a.loss.addr), "attempts", a.loss.attempts+1, "took", took)
	}
}

func (m *Multiplexer) logScaled(why string, from, to int) {
	m.logAt(slog.LevelInfo, "plex: scaled", "why", why, "from", from, "to", to)
}

func (m *Multiplexer) reportLeaks(leaks []leak) {
	for _, l := range leaks {
		m.log("plex: suspected leak of a lease", "half", l.kind, "addr", text(l.remote), "held", l.held, "stack", l.origin.text())
	}
}

func text(addr net.Addr) string {
	if caller.IsNil(addr) {
		return ""
	}
	return addr.String()
}
