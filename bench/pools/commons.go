package pools

import (
	"context"
	"net"

	commons "github.com/jolestar/go-commons-pool/v2"
)

type commonsPool struct{ pool *commons.ObjectPool }

func openCommons(c Config) (Pool, error) {
	factory := commons.NewPooledObjectFactory(
		func(ctx context.Context) (any, error) { return c.Dial(ctx) },
		func(_ context.Context, o *commons.PooledObject) error { return o.Object.(net.Conn).Close() },
		nil, nil, nil,
	)
	config := commons.NewDefaultPoolConfig()
	config.MaxTotal, config.MaxIdle = c.Max, c.Max
	config.LIFO = false
	return filled(commonsPool{commons.NewObjectPool(context.Background(), factory, config)}, c.Open)
}

func (p commonsPool) Cycle(n int) error {
	ctx := context.Background()
	for range n {
		o, err := p.pool.BorrowObject(ctx)
		if err != nil {
			return err
		}
		if err := p.pool.ReturnObject(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

func (p commonsPool) Use(ctx context.Context, f func(net.Conn)) error {
	o, err := p.pool.BorrowObject(ctx)
	if err != nil {
		return err
	}
	f(o.(net.Conn))
	return p.pool.ReturnObject(ctx, o)
}

func (p commonsPool) Close() { p.pool.Close(context.Background()) }
