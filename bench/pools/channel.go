package pools

import (
	"context"
	"net"
)

// channelPool is a buffered channel of connections.
type channelPool chan net.Conn

func openChannel(c Config) (Pool, error) {
	p := make(channelPool, c.Max)
	for range c.Max {
		nc, err := c.Dial(context.Background())
		if err != nil {
			p.Close()
			return nil, err
		}
		p <- nc
	}
	return p, nil
}

func (p channelPool) Cycle(n int) error {
	for range n {
		nc := <-p
		p <- nc
	}
	return nil
}

func (p channelPool) Use(ctx context.Context, f func(net.Conn)) error {
	var nc net.Conn
	if done := ctx.Done(); done == nil {
		nc = <-p
	} else {
		select {
		case nc = <-p:
		case <-done:
			return ctx.Err()
		}
	}
	f(nc)
	p <- nc
	return nil
}

func (p channelPool) Close() {
	for range len(p) {
		_ = (<-p).Close() // nothing to be done about it
	}
}
