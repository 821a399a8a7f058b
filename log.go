package plex

// What is logged, in one place, so that messages and keys stay the same. It is
// never called under a lock, for a handler is the user's code.

import (
	"context"
	"log/slog"
	"net"
	"time"
)

// log writes a warning, as everything does that is worth a look.
func (m *Multiplexer) log(msg string, args ...any) { m.logAt(slog.LevelWarn, msg, args...) }

func (m *Multiplexer) logAt(level slog.Level, msg string, args ...any) {
	if m.cfg.logger != nil {
		m.cfg.logger.Log(context.Background(), level, msg, args...)
	}
}

func (m *Multiplexer) logLost(c *conn, cause error) {
	m.log("plex: connection lost", "cause", cause, "addr", text(c.remote), "age", time.Since(c.admittedAt))
}

// logAttempt logs the outcome of a connect of the supervisor's.
func (m *Multiplexer) logAttempt(a *attempt, err error, took time.Duration, from, to int) {
	switch {
	case err != nil:
		m.log("plex: connect failed", "cause", err, "addr", text(a.loss.addr), "attempts", a.loss.attempts+1)
	case a.grows:
		m.logScaled("callers wait", from, to)
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
		m.log("plex: suspected leak of a lease", "half", l.kind, "addr", l.addr, "held", l.held, "stack", l.stack)
	}
}

func text(addr net.Addr) string {
	if isNil(addr) {
		return ""
	}
	return addr.String()
}
