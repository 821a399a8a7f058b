package cases

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
	"github.com/miekg/dns"
	"github.com/nats-io/nats.go"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/bench/harness"
	"go.atomizer.io/plex/bench/peer"
	"go.atomizer.io/plex/examples/dns/resolver"
	"go.atomizer.io/plex/examples/memcached/cache"
	"go.atomizer.io/plex/examples/nats/bus"
)

// usualFactor is how much faster the clients of the examples have to be than the usual ones.
const usualFactor = 1.5

// serviceCallers is how many goroutines use a service at once.
const serviceCallers = 64

// serviceCases compare the clients of the examples with those that everybody uses.
func serviceCases(p *peer.Process) []*harness.Case {
	return []*harness.Case{dnsCase(p, peer.TCP), dnsCase(p, peer.TLS), memcachedCase(), natsCase(p)}
}

// serviceCase is a case of requests to a service, by plex and by another client that needs a connection for each caller.
func serviceCase(name, title, compares string, subjects ...harness.Subject) *harness.Case {
	c := &harness.Case{
		Group: GroupServices, Name: name, Title: title, Compares: compares,
		Metrics: []harness.Metric{requests, replyP50, replyP99, harness.Allocs},
		Turn:    200 * time.Millisecond, Rounds: 7, Subjects: subjects,
	}
	for _, other := range subjects[1:] {
		c.Targets = append(c.Targets, harness.AtLeast(usualFactor, other.Name, requests.Key))
	}
	return c
}

// asking is a subject of so many callers. open returns what one of them does, and how to close the client.
func asking(name string, callers int, open func() (one func(caller int) error, shut func() error, err error)) harness.Subject {
	return harness.Subject{Name: name, Open: func() (harness.Work, error) {
		one, shut, err := open()
		if err != nil {
			return harness.Work{}, err
		}
		return harness.Work{
			Run:   func(n int) (harness.Sample, error) { return ask(callers, n, one) },
			Close: func() { _ = shut() }, // it is not used any more, whatever it says
		}, nil
	}}
}

// dnsCase compares with the client of miekg/dns, as its users have it: each caller has a connection, and waits for a reply
// before it sends the next query.
func dnsCase(p *peer.Process, network string) *harness.Case {
	dial := p.Dialer(peer.DNS, network)
	usual := func(callers int) harness.Subject {
		return asking(fmt.Sprintf("miekg/dns, %d callers", callers), callers, func() (func(int) error, func() error, error) {
			conns, err := dialMany(dial, callers)
			if err != nil {
				return nil, nil, err
			}
			client := new(dns.Client)
			return func(caller int) error {
				return lookup(func(query *dns.Msg) (*dns.Msg, error) {
					reply, _, err := client.ExchangeWithConn(query, &dns.Conn{Conn: conns[caller]})
					return reply, err
				})
			}, func() error { closeAll(conns); return nil }, nil
		})
	}
	return serviceCase("dns/"+network, "DNS over "+network,
		fmt.Sprintf("queries to a DNS server over %s: %d callers on %d connections by examples/dns; %d and %d callers with a connection each by miekg/dns",
			network, serviceCallers, connections, connections, serviceCallers),
		asking("plex", serviceCallers, func() (func(int) error, func() error, error) {
			client, err := resolver.Dial(context.Background(), plex.DialFunc(dial), connections)
			if err != nil {
				return nil, nil, err
			}
			return func(int) error {
				return lookup(func(query *dns.Msg) (*dns.Msg, error) { return client.Exchange(context.Background(), query) })
			}, client.Close, nil
		}),
		usual(connections), usual(serviceCallers))
}

// lookup makes a query, and checks that the reply belongs to it.
func lookup(exchange func(*dns.Msg) (*dns.Msg, error)) error {
	query, want := peer.NewQuery(rand.Uint32())
	reply, err := exchange(query)
	if err != nil {
		return err
	}
	if reply.Id != query.Id || len(reply.Answer) != 1 || !reply.Answer[0].(*dns.A).A.Equal(want) {
		return fmt.Errorf("the answer to %v is %v", query, reply)
	}
	return nil
}

// keyValues is what the callers do with a memcached: one request in ten is a set, the others get what has been set.
type keyValues struct {
	get func(key string) ([]byte, error)
	set func(key string, value []byte) error
}

func (kv keyValues) callers(n int) func(caller int) error {
	const size = 100 // bytes
	values, counts := make([][]byte, n), make([]int, n)
	return func(caller int) error {
		key := fmt.Sprintf("bench:%d", caller)
		counts[caller]++
		if counts[caller]%10 == 1 {
			values[caller] = fmt.Appendf(nil, "%-*d", size, counts[caller])
			return kv.set(key, values[caller])
		}
		got, err := kv.get(key)
		if err == nil && !bytes.Equal(got, values[caller]) {
			err = fmt.Errorf("%s is %q, want %q", key, got, values[caller])
		}
		return err
	}
}

// memcachedCase compares with gomemcache, as its documentation wants it: as many idle connections may be kept as there are
// callers, so each has one whenever it needs one.
func memcachedCase() *harness.Case {
	open := func(callers int, client func(address string) (keyValues, func() error, error)) func() (func(int) error, func() error, error) {
		return func() (func(int) error, func() error, error) {
			address, kill, err := memcached.start()
			if err != nil {
				return nil, nil, err
			}
			kv, shut, err := client(address)
			if err != nil {
				return nil, nil, errors.Join(err, kill())
			}
			return kv.callers(callers), func() error { return errors.Join(shut(), kill()) }, nil
		}
	}
	usual := func(callers int) harness.Subject {
		return asking(fmt.Sprintf("gomemcache, %d callers", callers), callers,
			open(callers, func(address string) (keyValues, func() error, error) {
				client := memcache.New(address)
				client.MaxIdleConns = callers
				client.Timeout = 10 * time.Second // a measurement has no use for the 500 ms that it has by itself
				return keyValues{
					get: func(key string) ([]byte, error) {
						item, err := client.Get(key)
						if err != nil {
							return nil, err
						}
						return item.Value, nil
					},
					set: func(key string, value []byte) error { return client.Set(&memcache.Item{Key: key, Value: value}) },
				}, client.Close, nil
			}))
	}
	return memcached.needs(serviceCase("memcached", "memcached",
		fmt.Sprintf("gets, and a set among ten, of values of 100 bytes: %d callers on %d connections by examples/memcached; %d and %d callers with a connection each by gomemcache",
			serviceCallers, connections, connections, serviceCallers),
		asking("plex", serviceCallers, open(serviceCallers, func(address string) (keyValues, func() error, error) {
			client, err := cache.Dial(context.Background(), address, connections)
			if err != nil {
				return keyValues{}, nil, err
			}
			return keyValues{
				get: func(key string) ([]byte, error) { return client.Get(context.Background(), key) },
				set: func(key string, value []byte) error { return client.Set(context.Background(), key, value, 0) },
			}, client.Close, nil
		})),
		usual(connections), usual(serviceCallers)))
}

// memcached refuses to run as root.
var memcached = program{name: "memcached", args: func(host, port string) []string {
	args := []string{"-l", host, "-p", port, "-U", "0"}
	if os.Getuid() == 0 {
		args = append(args, "-u", "nobody")
	}
	return args
}}

// natsWindow is how many messages are on their way at the most, so that the server cuts nobody off as too slow a consumer,
// and all that is queued has room; natsBatch how many are published with one call, where they are.
const natsWindow, natsBatch = 4 << 10, 64

// Ways to use nats.go.
const (
	natsOne   = "nats.go, 1 connection"
	natsFlush = "nats.go, a Flush after each"
)

// natsCase compares with nats.go. That gathers what is published in a buffer, which a goroutine of its own writes out; so a
// Publish that returned nil may not even have reached the operating system. With a Flush it waits for the server to say
// that it has got everything.
func natsCase(p *peer.Process) *harness.Case {
	const publishers, size = 32, 100
	address := p.Address(peer.NATS, peer.TCP)
	ours := func(name string, connections, batch int, queue bool) harness.Subject {
		return publishing(name, publishers, batch, func(subject string, got func()) (func(int, int) error, func() error, error) {
			client, err := bus.Dial(context.Background(), bus.Config{
				Address: address, Connections: connections, Subject: subject, Handle: func(string, []byte) { got() },
			})
			if err != nil {
				return nil, nil, err
			}
			batch := slices.Repeat([][]byte{make([]byte, size)}, batch)
			if queue {
				return func(int, int) error { return client.Queue(subject, batch[0]) }, client.Close, nil
			}
			return func(_, n int) error { return client.Publish(context.Background(), subject, batch[:n]...) }, client.Close, nil
		})
	}
	usual := func(name string, conns int, flush bool) harness.Subject {
		return publishing(name, publishers, 1, func(subject string, got func()) (func(int, int) error, func() error, error) {
			var all []*nats.Conn
			shut := func() error {
				for _, nc := range all {
					nc.Close()
				}
				return nil
			}
			for range conns {
				nc, err := nats.Connect("nats://" + address)
				if err != nil {
					return nil, nil, errors.Join(err, shut())
				}
				all = append(all, nc)
				_, err = nc.QueueSubscribe(subject, "bench", func(*nats.Msg) { got() })
				if err = errors.Join(err, nc.Flush()); err != nil {
					return nil, nil, errors.Join(err, shut())
				}
			}
			data := make([]byte, size)
			return func(publisher, _ int) error {
				nc := all[publisher%conns]
				err := nc.Publish(subject, data)
				if err == nil && flush {
					err = nc.Flush()
				}
				return err
			}, shut, nil
		})
	}
	return &harness.Case{
		Group: GroupServices, Name: "nats", Title: "NATS",
		Compares: fmt.Sprintf("messages of %d bytes that %d goroutines publish to nats-server and get back: over %d connections by examples/nats, whose Queue gathers and returns at once and whose Publish waits for the Write; by nats.go, which gathers in a buffer",
			size, publishers, connections),
		Metrics: []harness.Metric{messages, harness.Allocs},
		Targets: []harness.Target{
			harness.AtLeast(usualFactor, natsOne, messages.Key), harness.AtLeast(usualFactor, natsFlush, messages.Key),
		},
		Turn: 200 * time.Millisecond, Rounds: 7,
		Subjects: []harness.Subject{
			ours("plex", connections, 1, true), ours("plex, 1 connection", 1, 1, true), ours("plex, Publish", connections, 1, false),
			ours(fmt.Sprintf("plex, Publish of %d", natsBatch), connections, natsBatch, false),
			usual(natsOne, 1, false),
			usual(fmt.Sprintf("nats.go, %d connections", connections), connections, false),
			usual(natsFlush, connections, true),
		},
	}
}

// publishing is a subject of so many publishers. open gets what to publish on, which nobody else does, and a function to be
// called for each message that comes. It returns one with which a publisher publishes n.
func publishing(name string, publishers, batch int,
	open func(subject string, got func()) (publish func(publisher, n int) error, shut func() error, err error),
) harness.Subject {
	return harness.Subject{Name: name, Open: func() (harness.Work, error) {
		var received atomic.Int64
		publish, shut, err := open("bench."+crand.Text(), func() { received.Add(1) })
		if err != nil {
			return harness.Work{}, err
		}
		var sent atomic.Int64
		return harness.Work{Close: func() { _ = shut() }, Run: func(n int) (harness.Sample, error) {
			return harness.Throughput(n, messages.Key, func() (harness.Sample, error) {
				err := parallel(publishers, n, func(publisher, left int) error {
					for left > 0 {
						if sent.Load()-received.Load() > natsWindow {
							time.Sleep(50 * time.Microsecond)
							continue
						}
						some := min(batch, left)
						left -= some
						sent.Add(int64(some))
						if err := publish(publisher, some); err != nil {
							return err
						}
					}
					return nil
				})
				for begun := time.Now(); err == nil && received.Load() < sent.Load(); time.Sleep(50 * time.Microsecond) {
					if time.Since(begun) > 30*time.Second {
						err = fmt.Errorf("%d of %d messages have come", received.Load(), sent.Load())
					}
				}
				return harness.Sample{}, err
			})
		}}, nil
	}}
}
