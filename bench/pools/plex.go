package pools

import (
	"context"
	"net"

	"go.atomizer.io/plex"
)

type plexPool struct{ mux *plex.Multiplexer }

func openPlex(c Config) (Pool, error) {
	mux, err := plex.New(context.Background(),
		plex.WithConnector(plex.DialFunc(c.Dial)),
		plex.WithMinConnections(c.Open),
		plex.WithMaxCapacity(c.Max),
	)
	if err != nil {
		return nil, err
	}
	return plexPool{mux}, nil
}

// OfPlex returns mux as a Pool, for one that is set up in another way.
func OfPlex(mux *plex.Multiplexer) Pool { return plexPool{mux} }

func (p plexPool) Cycle(n int) error {
	ctx := context.Background()
	for range n {
		w, err := p.mux.Writer(ctx, 0)
		if err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
	}
	return nil
}

func (p plexPool) Use(ctx context.Context, f func(net.Conn)) error {
	w, err := p.mux.Writer(ctx, 0)
	if err != nil {
		return err
	}
	f(nil)
	return w.Close()
}

func (p plexPool) Close() { _ = p.mux.Close() } // it returns nil
