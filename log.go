package plex

// What the multiplexer tells of itself, in one place: events for observers, and records for the
// log, so that messages and keys stay the same. Each method may be called with mu held: nothing
// foreign is called before the goroutine of an outbox has it.

import (
	"context"
	"log/slog"
	"net"
	"time"

	"go.atomizer.io/plex/internal/caller"
)

// logQueue is how many records may wait for the handler.
const logQueue = 4096

// news is the outbox of the log, and those of the observers.
type news struct {
	pool      string // the multiplexer's name; "" if it has none
	trace     Trace
	tracks    bool // leases are remembered, for leak detection or the trace
	log       outbox[note]
	observers observers
}

// note is a record of the log to be.
type note struct {
	at    time.Time
	level slog.Level
	msg   string
	args  []any
}

func (n *news) init(cfg *config, t *tasks) {
	n.pool, n.trace = cfg.name.Get(), cfg.trace.Get()
	n.tracks = cfg.leakThreshold.Given() || n.trace.watches()
	n.log = outbox[note]{what: "the log handler", most: logQueue, tasks: t}
	if logger := cfg.logger; logger != nil {
		n.log.deliver = func(x note) { n.write(logger.Handler(), x) }
	}
	n.observers.tasks = t
	if cfg.observer != nil {
		n.observers.add("the function given to WithObserver", cfg.observer)
	}
}

// write gives a record to the handler.
func (n *news) write(h slog.Handler, x note) {
	if !h.Enabled(context.Background(), x.level) {
		return
	}
	r := slog.NewRecord(x.at, x.level, x.msg, 0)
	if n.pool != "" {
		r.AddAttrs(slog.String("pool", n.pool))
	}
	for i, arg := range x.args {
		if addr, ok := arg.(net.Addr); ok {
			x.args[i] = text(addr)
		}
	}
	r.Add(x.args...)
	_ = h.Handle(context.Background(), r)
}

// warn logs what is worth a look.
func (n *news) warn(msg string, args ...any) { n.add(slog.LevelWarn, msg, args...) }

func (n *news) add(level slog.Level, msg string, args ...any) {
	if n.log.deliver != nil { // else not even the time is of interest
		n.log.put(note{time.Now(), level, msg, args})
	}
}

func (n *news) tell(e Event) {
	e.Pool = n.pool
	n.observers.tell(e)
}

// lost tells of a loss when it happens, so that nothing that follows from it is told before.
func (n *news) lost(c *conn) {
	n.tell(Event{
		Kind: EventLost, Conn: Conn{c}, Addr: c.remote, At: c.at, Why: c.life.why.text(), Err: c.lossCause(),
		Took: c.leftAt.Sub(c.admittedAt),
	})
}

// logLoss logs a loss when all is known of its cause.
func (n *news) logLoss(c *conn, cause error) {
	level := slog.LevelWarn
	if c.life.why == whyKilled {
		level = slog.LevelInfo // a consumer did that, and knows why
	}
	n.add(level, "plex: connection lost", "cause", cause, "addr", addrOf(c.remote), "age", c.leftAt.Sub(c.admittedAt))
}

// probed tells of a probe; that one has failed is in the log as the cause of a loss.
func (n *news) probed(c *conn, took time.Duration, err error) {
	n.tell(Event{Kind: EventProbed, Conn: Conn{c}, Addr: c.remote, At: c.at, Err: err, Took: took})
}

func (n *news) retired(c *conn) {
	n.tell(Event{Kind: EventRetired, Conn: Conn{c}, Addr: c.remote, At: c.at, Why: c.life.why.text(), Took: c.leftAt.Sub(c.admittedAt)})
}

func (n *news) connectFailed(a *attempt, took time.Duration, err error) {
	n.warn("plex: connect failed", "cause", err, "addr", addrOf(a.loss.addr), "attempts", a.loss.attempts+1)
	n.tell(Event{Kind: EventConnectFailed, Addr: a.loss.addr, At: a.to, Why: a.why(), Err: err, Attempts: a.loss.attempts + 1, Took: took})
}

// given tells of a connection that the user brought.
func (n *news) given(c *conn) {
	n.tell(Event{Kind: EventConnected, Conn: Conn{c}, Addr: c.remote, At: c.at, Why: "given"})
}

// connected tells of what a connect has brought; open is how many there are now.
func (n *news) connected(c *conn, a *attempt, open int) {
	attempts, missing := a.loss.attempts+1, c.admittedAt.Sub(a.loss.at)
	n.tell(Event{Kind: EventConnected, Conn: Conn{c}, Addr: c.remote, At: c.at, Why: a.why(), Attempts: attempts, Took: c.admittedAt.Sub(a.started)})
	switch {
	case a.loss.first:
	case a.grows:
		n.scaled("callers wait", open-1, open)
	case a.loss.why.retires():
		n.add(slog.LevelInfo, "plex: connection renewed", "why", a.loss.why.text(), "addr", addrOf(a.loss.addr), "attempts", attempts, "took", missing)
	default:
		n.add(slog.LevelInfo, "plex: connection healed", "addr", addrOf(a.loss.addr), "attempts", attempts, "took", missing)
		n.tell(Event{Kind: EventHealed, Conn: Conn{c}, Addr: c.remote, At: c.at, Attempts: attempts, Took: missing})
	}
}

// why is what a connect is for.
func (a *attempt) why() string {
	switch {
	case a.loss.first:
		return "minimum"
	case a.grows:
		return "callers wait"
	case a.loss.why == whyNone:
		return whyLost.text()
	}
	return a.loss.why.text()
}

func (n *news) scaled(why string, from, to int) {
	n.add(slog.LevelInfo, "plex: scaled", "why", why, "from", from, "to", to)
	n.tell(Event{Kind: EventScaled, Why: why, From: from, To: to})
}

func (n *news) backoffBegan(failures int, pause time.Duration, cause error) {
	n.tell(Event{Kind: EventBackoffBegan, Attempts: failures, Took: pause, Err: cause})
}

func (n *news) backoffEnded() { n.tell(Event{Kind: EventBackoffEnded}) }

// address tells of what has become of an address of the service.
func (n *news) address(kind EventKind, at Address, cause error) {
	level := slog.LevelInfo
	args := []any{"addr", at.String()}
	if cause != nil {
		level, args = slog.LevelWarn, append(args, "cause", cause)
	}
	n.add(level, "plex: "+string(kind), args...)
	n.tell(Event{Kind: kind, Addr: netAddr{at}, At: at, Err: cause})
}

func (n *news) moved(c *conn) {
	n.add(slog.LevelInfo, "plex: moved", "addr", c.at.String())
	n.tell(Event{Kind: EventMoved, Conn: Conn{c}, Addr: c.remote, At: c.at})
}

func (n *news) leak(s leak) {
	stack := stackText(s.origin.stack[:s.origin.depth])
	n.warn("plex: suspected leak of a lease", "half", s.kind, "addr", addrOf(s.conn.remote), "held", s.held, "stack", stack)
	n.tell(Event{Kind: EventLeak, Conn: Conn{s.conn}, Addr: s.conn.remote, Half: s.kind, Took: s.held, Stack: stack})
}

// addrOf is an address for the log: "" for none, since a nil one would not show that it is one.
func addrOf(addr net.Addr) any {
	if caller.IsNil(addr) {
		return ""
	}
	return addr
}

// text is an address for the log; the address may be of a foreign type.
func text(addr net.Addr) (s string) {
	if caller.IsNil(addr) {
		return ""
	}
	_ = caller.Guard("the address's String", func() error { s = addr.String(); return nil })
	return s
}
