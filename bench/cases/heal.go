package cases

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/bench/harness"
	"go.atomizer.io/plex/bench/peer"
)

func healCases() []*harness.Case {
	return []*harness.Case{
		idleDeath(false), idleDeath(true),
		restart(0), restart(time.Second),
		goodput(),
	}
}

// The figures of a restart.
var (
	whole    = harness.Metric{Key: "whole-ns", Title: "until whole", Unit: harness.Nanoseconds}
	connects = harness.Metric{Key: "connects/conn", Title: "connects for each", Unit: harness.Number}
)

// restart compares how long it takes until all connections are back.
func restart(down time.Duration) *harness.Case {
	const conns = 1_000
	how := "the server restarts at once"
	if down > 0 {
		how = fmt.Sprintf("the server is down for %v", down)
	}
	c := &harness.Case{
		Group: GroupHeal,
		Name:  fmt.Sprintf("restart/%v", down),
		Title: plural(conns, "connection") + ", " + how,
		Compares: fmt.Sprintf("%s: from its return until %s are back, which had lived for more than a second, with as many connects in a loop, 4 at a time",
			how, plural(conns, "connection")),
		Metrics: []harness.Metric{whole, connects},
		Subjects: []harness.Subject{
			{Name: "plex", Open: func() (harness.Work, error) { return openRestart(conns, down) }},
			{Name: "loop", Open: func() (harness.Work, error) { return openDialLoop(conns) }},
		},
		Ops:       1,
		Rounds:    5,
		NoProfile: true, // it waits more than it works
	}
	if down == 0 {
		c.Targets = []harness.Target{harness.AtMost(3, "loop", whole.Key)}
	} else {
		c.Rounds = 3 // each takes seconds
	}
	return c
}

// settledAfter is how long the connections live before the server goes away. A service that loses its
// connections as soon as they are made is one that is not well, and plex connects to it slowly.
const settledAfter = 1200 * time.Millisecond

func openRestart(conns int, down time.Duration) (harness.Work, error) {
	server, mux, err := openServed(conns, nil)
	if err != nil {
		return harness.Work{}, err
	}
	run := func(n int) (harness.Sample, error) {
		var took time.Duration
		before := mux.Stats()
		lost := before.Lost
		for range n {
			time.Sleep(settledAfter)
			server.Stop()
			time.Sleep(down)
			if err := server.Start(); err != nil {
				return harness.Sample{}, err
			}
			back := time.Now()
			lost += uint64(conns)
			if err := untilWhole(mux, conns, lost); err != nil {
				return harness.Sample{}, err
			}
			took += time.Since(back)
			if err := readGreetings(mux, conns); err != nil {
				return harness.Sample{}, err
			}
		}
		after := mux.Stats()
		made := after.Connected + after.ConnectFailed - before.Connected - before.ConnectFailed
		return harness.Sample{Figures: map[string]float64{
			whole.Key:    float64(took) / float64(n),
			connects.Key: float64(made) / float64(n*conns),
		}}, nil
	}
	return harness.Work{Run: run, Close: func() {
		_ = mux.Close() // it returns nil
		server.Stop()
	}}, nil
}

// openServed makes a server and a multiplexer with so many connections to it.
// closed, which may be nil, is told of each that is closed on this side.
func openServed(conns int, closed func(string), opts ...plex.Option) (*peer.Server, *plex.Multiplexer, error) {
	server, err := peer.NewServer()
	if err != nil {
		return nil, nil, err
	}
	mux, err := plex.New(context.Background(), append(opts,
		plex.WithConnector(plex.DialFunc(server.Dialer(closed))),
		plex.WithMinConnections(conns),
		plex.WithMaxCapacity(conns),
	)...)
	if err == nil {
		err = readGreetings(mux, conns)
	}
	if err != nil {
		server.Stop()
		return nil, nil, err
	}
	return server, mux, nil
}

// readGreetings reads what the server has sent over each of n idle connections.
// All are taken before one is given back, so that none is read from twice.
func readGreetings(mux *plex.Multiplexer, n int) error {
	for range n {
		r, err := mux.Reader(context.Background(), time.Minute)
		if err != nil {
			return err
		}
		defer r.Close()
		if err := readGreeting(r); err != nil {
			return err
		}
	}
	return nil
}

func readGreeting(r plex.Reader) error {
	if err := r.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	_, err := io.ReadFull(r, make([]byte, 1))
	return err
}

// untilWhole waits until so many connections have been lost since the
// multiplexer was made, and all are there again.
func untilWhole(mux *plex.Multiplexer, conns int, lost uint64) error {
	for late := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		s := mux.Stats()
		if s.Open == conns && s.Lost >= lost {
			return nil
		}
		if time.Now().After(late) {
			return fmt.Errorf("only %d of %d connections are back after a minute: %w", s.Open, conns, s.LastConnectError)
		}
	}
}

// openDialLoop is the least that it can take.
func openDialLoop(conns int) (harness.Work, error) {
	const atATime = 4
	server, err := peer.NewServer()
	if err != nil {
		return harness.Work{}, err
	}
	dial := server.Dialer(nil)
	run := func(n int) (harness.Sample, error) {
		var took time.Duration
		for range n {
			back := time.Now()
			all := make([]net.Conn, conns)
			err := parallel(atATime, atATime, func(i, _ int) error {
				for ; i < conns; i += atATime {
					nc, err := dial(context.Background())
					if err != nil {
						return err
					}
					all[i] = nc
				}
				return nil
			})
			took += time.Since(back)
			for _, nc := range all {
				if nc != nil {
					_ = nc.Close()
				}
			}
			if err != nil {
				return harness.Sample{}, err
			}
		}
		return harness.Sample{Figures: map[string]float64{
			whole.Key:    float64(took) / float64(n),
			connects.Key: 1,
		}}, nil
	}
	return harness.Work{Run: run, Close: server.Stop}, nil
}
