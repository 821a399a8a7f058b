package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/miekg/dns"

	"go.atomizer.io/plex"
)

// exchange asks once.
type exchange func(*dns.Msg) (*dns.Msg, error)

// contender is a client whose speed is measured.
type contender struct {
	name    string
	callers int
	// open gets the client ready, for one round. Each caller has an exchange of its own.
	open func() (callers []exchange, shut func() error, err error)
}

// contenders are the ways to query the server at address; with a TLS configuration over TLS.
func contenders(address string, config *tls.Config, connections, callers int) []contender {
	return []contender{
		{
			fmt.Sprintf("plex, %d callers on %d connections", callers, connections), callers,
			func() ([]exchange, func() error, error) {
				client, err := NewClient(context.Background(), connect(address, config), connections)
				if err != nil {
					return nil, nil, err
				}
				ask := func(query *dns.Msg) (*dns.Msg, error) { return client.Exchange(context.Background(), query) }
				all := make([]exchange, callers)
				for i := range all {
					all[i] = ask
				}

				return all, client.Close, nil
			},
		},
		usual(address, config, connections),
		usual(address, config, callers),
	}
}

// connect is how a plex client connects.
func connect(address string, config *tls.Config) plex.Connect {
	if config == nil {
		return plex.Dial("tcp", address)
	}

	return plex.DialContext(&tls.Dialer{Config: config}, "tcp", address)
}

// usual is miekg/dns's own client as its users have it: one connection per caller, which is used again and again.
func usual(address string, config *tls.Config, callers int) contender {
	return contender{
		fmt.Sprintf("miekg/dns, %d callers, a connection each", callers), callers,
		func() (all []exchange, shut func() error, err error) {
			client := &dns.Client{Net: "tcp"}
			if config != nil {
				client = &dns.Client{Net: "tcp-tls", TLSConfig: config}
			}
			var conns []*dns.Conn
			shut = func() error {
				var errs []error
				for _, conn := range conns {
					errs = append(errs, conn.Close())
				}

				return errors.Join(errs...)
			}
			for range callers {
				conn, err := client.Dial(address)
				if err != nil {
					return nil, nil, errors.Join(err, shut())
				}
				conns = append(conns, conn)
				all = append(all, func(query *dns.Msg) (*dns.Msg, error) {
					reply, _, err := client.ExchangeWithConn(query, conn)
					return reply, err
				})
			}

			return all, shut, nil
		},
	}
}

// measure lets the contenders query in turns, round after round, so that a moment in which the machine is busy with
// something else hits all of them, and returns how many queries per second each had answered.
func measure(all []contender, rounds int, round time.Duration) ([]float64, error) {
	answered := make([]int, len(all))
	took := make([]time.Duration, len(all))
	for range rounds {
		for i, c := range all {
			n, t, err := c.measure(round)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			answered[i] += n
			took[i] += t
		}
	}

	rates := make([]float64, len(all))
	for i := range all {
		rates[i] = float64(answered[i]) / took[i].Seconds()
	}

	return rates, nil
}

// measure is one round. There are no faults in it, so an error is one.
func (c contender) measure(round time.Duration) (answered int, took time.Duration, err error) {
	callers, shut, err := c.open()
	if err != nil {
		return 0, 0, err
	}

	var mu sync.Mutex
	var calling sync.WaitGroup
	begun := time.Now()
	for i, ex := range callers {
		calling.Go(func() {
			n := 0
			var failure error
			for number := uint32(i); failure == nil && time.Since(begun) < round; number += uint32(len(callers)) {
				query := ask(number, false)
				id := query.Id
				var reply *dns.Msg
				if reply, failure = ex(query); failure == nil {
					failure = verify(reply, id, number)
					n++
				}
			}

			mu.Lock()
			defer mu.Unlock()
			answered += n
			err = errors.Join(err, failure)
		})
	}
	calling.Wait()
	took = time.Since(begun)

	return answered, took, errors.Join(err, shut())
}
