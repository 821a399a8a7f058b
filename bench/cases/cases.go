// Package cases says what is measured: each case what it compares, and what
// plex has to reach.
package cases

import (
	"context"
	"net"
	"sync"

	"go.atomizer.io/plex/bench/harness"
	"go.atomizer.io/plex/bench/peer"
	"go.atomizer.io/plex/bench/pools"
)

// The headings.
const (
	GroupAcquire = "Acquire and close"
	GroupDuplex  = "Whole connections"
	GroupWait    = "Waiting"
	GroupCancel  = "Giving up"
	GroupData    = "Read and write"
	GroupStream  = "Streams"
	GroupIdle    = "Idle connections"
	GroupHeal    = "Deaths and healing"
	GroupScale   = "Scaling"
	GroupRequest = "Requests and replies"
	GroupMessage = "Packages message and request"

	GroupOpen     = "Requests at a fixed rate"
	GroupProcs    = "Number of processors"
	GroupRedis    = "Ordered replies: Redis"
	GroupServices = "Clients of services"
)

// connections is how many connections a pool has in most cases.
const connections = 8

// All returns all cases. What they connect to is p, where it is not a server in this process or one
// that is installed.
func All(p *peer.Process) []*harness.Case {
	var all []*harness.Case
	all = append(all, acquireCases()...)
	all = append(all, duplexCases()...)
	all = append(all, waitCases()...)
	all = append(all, cancelCases()...)
	all = append(all, dataCases(p)...)
	all = append(all, streamCases(p)...)
	all = append(all, idleCases(p)...)
	all = append(all, healCases()...)
	all = append(all, scaleCases()...)
	all = append(all, sizeCases()...)
	all = append(all, lockCases()...)
	all = append(all, requestCases(p)...)
	all = append(all, messageCases(p)...)
	all = append(all, clientCases(p)...)
	all = append(all, openLoopCases(p)...)
	all = append(all, redisCases()...)
	all = append(all, serviceCases(p)...)
	all = append(all, procsCases(p)...)
	return all
}

// dialMemory makes a connection that nobody will use.
func dialMemory(context.Context) (net.Conn, error) {
	client, _ := net.Pipe()
	return client, nil
}

// inMemory is a pool's set-up for cases in which connections are only taken and
// given back.
func inMemory(n int) pools.Config {
	return pools.Config{Max: n, Open: n, Dial: dialMemory}
}

// ofPools makes each kind of pool a subject.
func ofPools(kinds []pools.Kind, c pools.Config, run func(pools.Pool, int) (harness.Sample, error)) []harness.Subject {
	var subjects []harness.Subject
	for _, kind := range kinds {
		subjects = append(subjects, harness.Subject{Name: kind.Name, Open: func() (harness.Work, error) {
			p, err := kind.Open(c)
			if err != nil {
				return harness.Work{}, err
			}
			return harness.Work{
				Run:   func(n int) (harness.Sample, error) { return run(p, n) },
				Close: p.Close,
			}, nil
		}})
	}
	return subjects
}

// parallel divides n operations among so many goroutines, and returns the
// first error. All begin at the same moment.
func parallel(goroutines, n int, f func(goroutine, n int) error) error {
	if goroutines == 1 {
		return f(0, n)
	}
	var (
		wg    sync.WaitGroup
		once  sync.Once
		first error
		start = make(chan struct{})
	)
	for i := range goroutines {
		share := n / goroutines
		if i < n%goroutines {
			share++
		}
		wg.Go(func() {
			<-start
			if err := f(i, share); err != nil {
				once.Do(func() { first = err })
			}
		})
	}
	close(start)
	wg.Wait()
	return first
}
