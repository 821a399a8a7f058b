package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	measuredSize = 100     // bytes
	window       = 8 << 10 // messages on their way at the most, so that nobody is cut off as too slow a consumer
	batch        = 64      // messages in one Write
)

// contender is a client whose speed is measured.
type contender struct {
	name       string
	publishers int
	batch      int
	open       func(got func()) (wire, error) // gets the client ready, for one round; got is called for each message
}

// wire is a client that is ready.
type wire struct {
	publish func(worker, n int) error // n messages
	shut    func() error
}

// contenders are the ways to use the server at address.
func contenders(address string, connections, publishers int) []contender {
	return []contender{
		ours(fmt.Sprintf("plex, %d publishers on %d connections, a Write for each message", publishers, connections),
			address, connections, publishers, 1),
		ours(fmt.Sprintf("plex, the same, a Write for each %d messages", batch), address, connections, publishers, batch),
		usual(fmt.Sprintf("nats.go, %d publishers on 1 connection, buffered", publishers), address, 1, publishers, false),
		usual(fmt.Sprintf("nats.go, %d publishers on %d connections, buffered", publishers, connections),
			address, connections, publishers, false),
		usual("nats.go, the same, a Flush after each message", address, connections, publishers, true),
	}
}

func ours(name, address string, connections, publishers, batch int) contender {
	return contender{name, publishers, batch, func(got func()) (wire, error) {
		client, err := NewClient(context.Background(), Config{
			Address:       address,
			Connections:   connections,
			Subscriptions: []Subscription{{Subject: subject, Handle: func(Msg) { got() }}},
		})
		if err != nil {
			return wire{}, err
		}
		messages := make([]Msg, batch)
		for i := range messages {
			messages[i] = Msg{Subject: subject, Data: make([]byte, measuredSize)}
		}

		return wire{
			publish: func(_, n int) error { return client.PublishAll(context.Background(), messages[:n]...) },
			shut:    client.Close,
		}, nil
	}}
}

// usual is nats.go. It gathers what is published in a buffer, which a goroutine of its own writes out; so a Publish that
// returned nil may not even have reached the operating system. With flush it is told to, and waits for the server to say
// that it has got everything.
func usual(name, address string, connections, publishers int, flush bool) contender {
	return contender{name, publishers, 1, func(got func()) (w wire, err error) {
		var all []*nats.Conn
		w.shut = func() error {
			for _, nc := range all {
				nc.Close()
			}

			return nil
		}
		for range connections {
			nc, err := nats.Connect("nats://" + address)
			if err != nil {
				return w, errors.Join(err, w.shut())
			}
			all = append(all, nc)
			if _, err := nc.QueueSubscribe(subject, "measured", func(*nats.Msg) { got() }); err != nil {
				return w, errors.Join(err, w.shut())
			}
			if err := nc.Flush(); err != nil {
				return w, errors.Join(err, w.shut())
			}
		}
		data := make([]byte, measuredSize)
		w.publish = func(worker, n int) error {
			nc := all[worker%connections]
			for range n {
				if err := nc.Publish(subject, data); err != nil {
					return err
				}
			}
			if flush {
				return nc.Flush()
			}

			return nil
		}

		return w, nil
	}}
}

// measure lets the contenders work in turns, round after round, so that a moment in which the machine is busy with
// something else hits all of them, and returns how many messages per second each had published and received.
func measure(all []contender, rounds int, round time.Duration) ([]float64, error) {
	done := make([]int, len(all))
	took := make([]time.Duration, len(all))
	for range rounds {
		for i, c := range all {
			n, t, err := c.measure(round)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			done[i] += n
			took[i] += t
		}
	}

	rates := make([]float64, len(all))
	for i := range all {
		rates[i] = float64(done[i]) / took[i].Seconds()
	}

	return rates, nil
}

// measure is one round. There are no faults in it, so an error is one, and so is a message that does not arrive.
func (c contender) measure(round time.Duration) (done int, took time.Duration, err error) {
	var sent, received atomic.Int64
	w, err := c.open(func() { received.Add(1) })
	if err != nil {
		return 0, 0, err
	}

	var mu sync.Mutex
	var publishing sync.WaitGroup
	begun := time.Now()
	for i := range c.publishers {
		publishing.Go(func() {
			for time.Since(begun) < round {
				if sent.Load()-received.Load() > window {
					time.Sleep(50 * time.Microsecond)
					continue
				}
				sent.Add(int64(c.batch))
				if failure := w.publish(i, c.batch); failure != nil {
					mu.Lock()
					defer mu.Unlock()
					err = errors.Join(err, failure)

					return
				}
			}
		})
	}
	publishing.Wait()
	if err == nil && !await(healing, func() bool { return received.Load() == sent.Load() }) {
		err = fmt.Errorf("%d of %d messages have arrived", received.Load(), sent.Load())
	}
	took = time.Since(begun)

	return int(received.Load()), took, errors.Join(err, w.shut())
}
