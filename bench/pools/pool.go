// Package pools puts plex and other pools behind one interface, with no more
// between a benchmark and a pool than a call.
//
// All of them are set up alike: at most so many connections, all of them kept
// when idle, no checks when one is taken or given back, no lifetimes, and
// first come first served as far as the pool can.
package pools

import (
	"context"
	"net"
	"sync"
)

// Config sets up a pool.
type Config struct {
	Max  int // connections at most
	Open int // of these, open at the start
	Dial func(context.Context) (net.Conn, error)
}

// Pool lends out connections.
type Pool interface {
	// Cycle takes a connection and gives it back, n times, and does nothing
	// else. The loop is the pool's own, so that no interface is called within.
	Cycle(n int) error
	// Use takes a connection, waiting as long as ctx allows, calls f with it
	// and gives it back. Plex gives f nil: it lends out halves.
	Use(ctx context.Context, f func(net.Conn)) error
	// Close closes the pool and its connections. All have been given back.
	Close()
}

// Kind is a kind of pool.
type Kind struct {
	Name string
	Open func(Config) (Pool, error)
}

// The kinds. A bare channel of connections is no pool, but the limit: nobody
// can hand connections from one goroutine to another for less. It opens all
// connections at once.
var (
	Plex    = Kind{"plex", openPlex}
	Channel = Kind{"channel", openChannel}
	Puddle  = Kind{"puddle", openPuddle}
	Commons = Kind{"commons-pool", openCommons}
	SQL     = Kind{"database/sql", openSQL}
)

// Whole connections. Plex lends both halves of one, as other pools do; PlexWriter is what it lends
// otherwise, under another name. Wrapped is the channel as a pool that can be used: a wrapper for
// each lease, whose Close gives the connection back.
var (
	PlexDuplex = Kind{"plex", openDuplex}
	PlexWriter = Kind{"plex, a Writer", openPlex}
	Wrapped    = Kind{"channel pool", openWrapped}
)

// Whole is what can lend whole connections, and the Writer beside it.
var Whole = []Kind{PlexDuplex, PlexWriter, Channel, Wrapped, Puddle, Commons}

// All is plex and what it is compared with.
var All = []Kind{Plex, Channel, Puddle, Commons, SQL}

// Growing is All without the channel, which cannot open connections on demand.
var Growing = []Kind{Plex, Puddle, Commons, SQL}

// Hold takes n connections at once, which makes a pool open so many, and
// returns a function that gives them back.
func Hold(p Pool, n int) (release func(), err error) {
	var (
		users sync.WaitGroup
		done  = make(chan struct{})
		taken = make(chan error, n)
	)
	release = func() {
		close(done)
		users.Wait()
	}
	for range n {
		users.Go(func() {
			err := p.Use(context.Background(), func(net.Conn) {
				taken <- nil
				<-done
			})
			if err != nil {
				taken <- err
			}
		})
	}
	for range n {
		if err := <-taken; err != nil {
			release()
			return nil, err
		}
	}
	return release, nil
}

// filled is what the constructors of pools that connect on demand return: the
// pool with n connections open and idle.
func filled(p Pool, n int) (Pool, error) {
	release, err := Hold(p, n)
	if err != nil {
		p.Close()
		return nil, err
	}
	release()
	return p, nil
}
