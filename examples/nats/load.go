package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// load is many goroutines that publish all the time, and a book of what becomes of it.
type load struct {
	book
	client   *Client
	patience time.Duration // for one message to be published
	pace     time.Duration // from one message of a goroutine to its next

	reported atomic.Int64 // errors that Config.Errors was told of
}

const subject = "plex.example.numbers"

// newLoad makes a client that is subscribed to what it is going to publish.
func newLoad(address string, connections int) (*load, error) {
	l := &load{patience: 300 * time.Millisecond, pace: 3 * time.Millisecond}
	client, err := NewClient(context.Background(), Config{
		Address:       address,
		Connections:   connections,
		Name:          "plex example",
		Subscriptions: []Subscription{{Subject: subject, Handle: l.arrive}},
		Errors:        func(error) { l.reported.Add(1) },
	})
	l.client = client

	return l, err
}

// run has so many goroutines publish until ctx ends, and returns when the last Publish has.
func (l *load) run(ctx context.Context, publishers int) {
	var publishing sync.WaitGroup
	for range publishers {
		publishing.Go(func() {
			for ctx.Err() == nil {
				l.publish()
				pause(ctx, l.pace)
			}
		})
	}
	publishing.Wait()
}

// publish publishes one message. Its context is its own, so that the end of the run breaks nothing off.
func (l *load) publish() {
	ctx, cancel := context.WithTimeout(context.Background(), l.patience)
	defer cancel()
	number := l.begin()
	l.end(number, l.client.Publish(ctx, subject, payload(number)))
}

// looks is how many times in a row, 2 ms apart, all has to be well before it counts as quiet: both sides may not have
// noticed yet that a connection is gone.
const looks = 20

// quiet waits until nothing that was broken can cost a message any more: all connections are there, in the server's eyes
// too, so that it delivers to none that is gone. From then on every message has to arrive.
func (l *load) quiet(server *broker, within time.Duration) error {
	want, inARow := l.client.config.Connections, 0
	whole := func() bool {
		inARow++
		if l.client.mux.Stats().Open != want || server.clients() != want {
			inARow = 0
		}

		return inARow == looks
	}
	if !await(within, whole) {
		stats := l.client.mux.Stats()
		return fmt.Errorf("%d of %d connections are there after %v, of which the server knows %d; the last connect: %v",
			stats.Open, want, within, server.clients(), stats.LastConnectError)
	}
	l.setCalm(true)

	return nil
}

// damage waits until all messages of the quiet time have arrived, so that those that follow can be told from them.
func (l *load) damage(within time.Duration) error {
	l.setCalm(false)
	if !await(within, func() bool { return l.arrived(true) }) {
		return errors.Join(fmt.Errorf("messages of the quiet time are missing after %v", within), l.totals().audit())
	}

	return nil
}

// settle waits, after the last message was published, until nothing more is going to arrive.
func (l *load) settle(silence time.Duration) {
	before := -1
	for now := l.totals().received; now != before && !l.arrived(false); now = l.totals().received {
		before = now
		time.Sleep(silence)
	}
}

// await waits until something is true, and reports whether it came to that.
func await(within time.Duration, is func() bool) bool {
	for begun := time.Now(); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Since(begun) > within {
			return false
		}
	}

	return true
}
