package pools

import (
	"context"
	"net"

	"github.com/jackc/puddle/v2"
)

type puddlePool struct{ pool *puddle.Pool[net.Conn] }

func openPuddle(c Config) (Pool, error) {
	pool, err := puddle.NewPool(&puddle.Config[net.Conn]{
		Constructor: c.Dial,
		Destructor:  func(nc net.Conn) { _ = nc.Close() },
		MaxSize:     int32(c.Max),
	})
	if err != nil {
		return nil, err
	}
	return filled(puddlePool{pool}, c.Open)
}

func (p puddlePool) Cycle(n int) error {
	ctx := context.Background()
	for range n {
		r, err := p.pool.Acquire(ctx)
		if err != nil {
			return err
		}
		r.Release()
	}
	return nil
}

func (p puddlePool) Use(ctx context.Context, f func(net.Conn)) error {
	r, err := p.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	f(r.Value())
	r.Release()
	return nil
}

func (p puddlePool) Close() { p.pool.Close() }
