package cases

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/bench/harness"
	"go.atomizer.io/plex/bench/peer"
	"go.atomizer.io/plex/bench/pools"
)

// IdleBytes is how much a pool may take for each connection that idles.
const IdleBytes = 768

// kindsOfIdle are the kinds of connections that idle, and how their read halves are asked for.
var kindsOfIdle = []struct {
	key, title    string
	memory, ready bool
}{
	{"tcp", "TCP", false, false},
	{"tcp-ready", "TCP, ready readers", false, true},
	{"memory", "in memory", true, false},
	{"memory-ready", "in memory, ready readers", true, true},
}

// idleKinds is what plex takes for each connection of several kinds.
func idleKinds(p *peer.Process, conns int) *harness.Case {
	c := &harness.Case{
		Group: GroupIdle,
		Name:  "idle/kinds",
		Title: "memory for each, by kind",
		Compares: fmt.Sprintf("memory that plex takes for each of %s connections that idle, after no call of Reader or ReadyReader, and after one of ReadyReader",
			harness.Thousands(conns)),
		Ops:    1,
		Rounds: 2, // each takes seconds
	}
	for _, kind := range kindsOfIdle {
		c.Metrics = append(c.Metrics, harness.Metric{Key: kind.key, Title: kind.title, Unit: harness.Size})
		if !kind.memory || !kind.ready { // that has a goroutine for each
			c.Targets = append(c.Targets, harness.Below(IdleBytes, kind.key))
		}
	}
	c.Subjects = []harness.Subject{idleSubject(pools.Plex.Name, func() (harness.Sample, error) {
		figures := make(map[string]float64)
		for _, kind := range kindsOfIdle {
			given, err := givenIdle(p, kind.memory, conns)
			if err != nil {
				return harness.Sample{}, err
			}
			if figures[kind.key], err = idleBytes(given, kind.ready); err != nil {
				return harness.Sample{}, err
			}
		}
		return harness.Sample{Figures: figures}, nil
	})}
	return c
}

// givenIdle makes connections that idle.
func givenIdle(p *peer.Process, memory bool, n int) ([]net.Conn, error) {
	if !memory {
		return dialMany(p.Dialer(peer.Sink, peer.TCP), n)
	}
	given := make([]net.Conn, n)
	for i := range given {
		given[i] = newStill()
	}
	return given, nil
}

// idleBytes returns what plex takes for each.
func idleBytes(given []net.Conn, ready bool) (float64, error) {
	n := len(given)
	before := settle(n)
	ctx := context.Background()
	mux, err := plex.New(ctx, plex.WithConnector(plex.DialFunc(handOut(given))), plex.WithMinConnections(n))
	if err != nil {
		return 0, err
	}
	defer func() {
		_ = mux.Close()
		runtime.KeepAlive(given)
	}()
	if ready {
		_, _ = mux.ReadyReader(ctx, -1) // decides that read halves are asked for in this way
		time.Sleep(100 * time.Millisecond)
	}
	return added(before, n).Figures[BytesPerConn], nil
}
