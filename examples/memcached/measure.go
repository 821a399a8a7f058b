package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
)

// user is what a caller does with a client.
type user struct {
	get func(key string) ([]byte, error)
	set func(key string, value []byte) error
}

// contender is a client whose speed is measured.
type contender struct {
	name    string
	callers int
	open    func() (u user, shut func() error, err error) // gets the client ready, for one round
}

// contenders are the ways to use the server at address.
func contenders(address string, connections, callers int) []contender {
	return []contender{
		{
			fmt.Sprintf("plex, %d callers on %d connections", callers, connections), callers,
			func() (user, func() error, error) {
				client, err := NewClient(context.Background(), address, connections)
				if err != nil {
					return user{}, nil, err
				}

				return user{
					get: func(key string) ([]byte, error) { return client.Get(context.Background(), key) },
					set: func(key string, value []byte) error { return client.Set(context.Background(), key, value, 0) },
				}, client.Close, nil
			},
		},
		usual(address, connections),
		usual(address, callers),
	}
}

// usual is gomemcache as its documentation wants it: as many idle connections may be kept as there are callers, so each
// has one whenever it needs one.
func usual(address string, callers int) contender {
	return contender{
		fmt.Sprintf("gomemcache, %d callers, a connection each", callers), callers,
		func() (user, func() error, error) {
			client := memcache.New(address)
			client.MaxIdleConns = callers
			client.Timeout = 10 * time.Second // a measurement has no use for the 500 ms that it has by itself

			return user{
				get: func(key string) ([]byte, error) {
					it, err := client.Get(key)
					if err != nil {
						return nil, err
					}

					return it.Value, nil
				},
				set: func(key string, value []byte) error { return client.Set(&memcache.Item{Key: key, Value: value}) },
			}, client.Close, nil
		},
	}
}

// measure lets the contenders work in turns, round after round, so that a moment in which the machine is busy with
// something else hits all of them, and returns how many requests per second each had done.
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

const (
	measuredSize = 100 // bytes
	setEvery     = 10  // one request in so many is a set, the others are gets
)

// measure is one round. There are no faults in it, so an error is one.
func (c contender) measure(round time.Duration) (done int, took time.Duration, err error) {
	u, shut, err := c.open()
	if err != nil {
		return 0, 0, err
	}

	var mu sync.Mutex
	var calling sync.WaitGroup
	begun := time.Now()
	for i := range c.callers {
		calling.Go(func() {
			n, failure := u.work(fmt.Sprintf("measured:%d", i), begun.Add(round))
			mu.Lock()
			defer mu.Unlock()
			done += n
			err = errors.Join(err, failure)
		})
	}
	calling.Wait()
	took = time.Since(begun)

	return done, took, errors.Join(err, shut())
}

// work is one caller's: a set, and gets of what it has set.
func (u user) work(key string, end time.Time) (done int, err error) {
	var value []byte
	for time.Now().Before(end) {
		if done%setEvery == 0 {
			value = fmt.Appendf(nil, "%-*d", measuredSize, done)
			if err := u.set(key, value); err != nil {
				return done, err
			}
		} else {
			got, err := u.get(key)
			if err != nil {
				return done, err
			}
			if !bytes.Equal(got, value) {
				return done, fmt.Errorf("%s has the value %.60q, not %.60q", key, got, value)
			}
		}
		done++
	}

	return done, nil
}
