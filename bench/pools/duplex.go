package pools

import (
	"context"
	"net"

	"go.atomizer.io/plex"
)

// duplexPool is plex where it lends whole connections, as other pools do.
type duplexPool struct{ mux *plex.Multiplexer }

func openDuplex(c Config) (Pool, error) {
	p, err := openPlex(c)
	if err != nil {
		return nil, err
	}
	return duplexPool(p.(plexPool)), nil
}

func (p duplexPool) Cycle(n int) error {
	ctx := context.Background()
	for range n {
		d, err := p.mux.Duplex(ctx, 0)
		if err != nil {
			return err
		}
		if err := d.Close(); err != nil {
			return err
		}
	}
	return nil
}

func (p duplexPool) Use(ctx context.Context, f func(net.Conn)) error {
	d, err := p.mux.Duplex(ctx, 0)
	if err != nil {
		return err
	}
	f(d)
	return d.Close()
}

func (p duplexPool) Close() { _ = p.mux.Close() } // it returns nil
