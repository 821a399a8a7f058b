package pools

import (
	"context"
	"net"
	"sync"
)

// wrappedPool is what pools like fatih/pool are: a channel of connections, each lent in a wrapper of
// its own whose Close gives it back, once.
type wrappedPool struct{ channelPool }

func openWrapped(c Config) (Pool, error) {
	p, err := openChannel(c)
	if err != nil {
		return nil, err
	}
	return wrappedPool{p.(channelPool)}, nil
}

// wrapper is a connection that is lent.
type wrapper struct {
	net.Conn
	pool   channelPool
	mu     sync.Mutex
	closed bool
}

func (w *wrapper) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return net.ErrClosed
	}
	w.closed = true
	w.pool <- w.Conn
	return nil
}

// get takes a connection.
func (p wrappedPool) get(ctx context.Context) (net.Conn, error) {
	select {
	case nc := <-p.channelPool:
		return &wrapper{Conn: nc, pool: p.channelPool}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p wrappedPool) Cycle(n int) error {
	ctx := context.Background()
	for range n {
		nc, err := p.get(ctx)
		if err != nil {
			return err
		}
		if err := nc.Close(); err != nil {
			return err
		}
	}
	return nil
}

func (p wrappedPool) Use(ctx context.Context, f func(net.Conn)) error {
	nc, err := p.get(ctx)
	if err != nil {
		return err
	}
	f(nc)
	return nc.Close()
}
