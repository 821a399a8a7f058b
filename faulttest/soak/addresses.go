package main

// A service with several addresses. All of them lead to the lane's proxy, so that what the pool may have open is counted in
// one place. Some come and go, some are down for a while, and the resolver does not always know them.

import (
	"context"
	"errors"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex"
)

// askedEvery is how often a pool asks for the addresses, and so how often they change.
const askedEvery = 20 * time.Millisecond

var (
	errResolver    = errors.New("the resolver fails")
	errAddressDown = errors.New("the address is down")
)

// cluster is the addresses of one pool's service.
type cluster struct {
	s     *lane
	p     *setup
	asked atomic.Uint64
	down  atomic.Uint64 // a bit for each address that is down
}

// name is the i-th address.
func (c *cluster) name(i int) string { return strconv.Itoa(i) }

// resolve lists some of the addresses, all when there are no more faults.
func (c *cluster) resolve(ctx context.Context) (listed []plex.Address, err error) {
	all := make([]plex.Address, c.p.addresses)
	for i := range all {
		all[i].Address = c.name(i)
	}
	rng := c.s.Rand(0xaa, uint64(c.p.number)<<32|c.asked.Add(1))
	if c.s.mercy.Load() {
		c.down.Store(0)
		return all, nil
	}
	fault := rng.IntN(40)
	if fault < 4 {
		c.s.sums.foreign[resolverFails].Add(1)
	}
	switch fault {
	case 0:
		return nil, errResolver
	case 1:
		return nil, nil
	case 2:
		<-ctx.Done()
		return nil, ctx.Err()
	case 3:
		crash(rng)
	}
	var down uint64
	for i, a := range all {
		switch rng.IntN(8) {
		case 0:
			c.s.sums.foreign[addressGone].Add(1)
			continue
		case 1:
			c.s.sums.foreign[addressDown].Add(1)
			down |= 1 << i
		}
		listed = append(listed, a)
	}
	c.down.Store(down)
	return listed, nil
}

// reach says what becomes of a connect before it is dialled: nil, or why it fails.
func (c *cluster) reach(ctx context.Context, conn net.Conn) error {
	to, known := plex.Target(conn)
	if c.p.addresses == 0 {
		if known {
			c.s.fail(nil, errors.New("a connect has an address, and nobody has given any"))
		}
		return nil
	}
	i, err := strconv.Atoi(to.Address)
	if !known || err != nil || i >= c.p.addresses || conn.RemoteAddr().String() != to.Address {
		c.s.fail(nil, errors.New("a connect to an address that nobody has given: "+to.Address))
		return errResolver
	}
	switch {
	case c.down.Load()>>i&1 == 0 || c.s.mercy.Load():
		return nil
	case i%2 == 0:
		<-ctx.Done() // it swallows connects
		return ctx.Err()
	}
	return errAddressDown
}
