package request

import (
	"context"
	"encoding/binary"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
)

// bytewise is a protocol whose messages are one identifier of eight bytes.
type bytewise struct{}

func (bytewise) Append(dst []byte, id uint64, _ struct{}) ([]byte, error) {
	return binary.BigEndian.AppendUint64(dst, id), nil
}

func (bytewise) Split(data []byte, _ bool) (int, []byte, error) {
	if len(data) < 8 {
		return 0, nil, nil
	}
	return 8, data[:8], nil
}

func (bytewise) Parse(m []byte) (uint64, struct{}, error) {
	return binary.BigEndian.Uint64(m), struct{}{}, nil
}

// The kernel reports a refusal before it delivers replies that arrived earlier, so such a reply may
// still come.
func TestIdentifiersOfRefusedRequestsRest(t *testing.T) {
	for name, max := range map[string]uint64{"few": 1, "many": 1 << 40} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ours, theirs := net.Pipe()
				mux, err := plex.New(context.Background(), plex.WithConnections(ours))
				require.NoError(t, err)
				c, err := New(mux, bytewise{}, WithIDs(max))
				require.NoError(t, err)
				received := make([]byte, 8)
				ask := func() <-chan error {
					ended := make(chan error, 1)
					go func() {
						_, err := c.Do(context.Background(), struct{}{})
						ended <- err
					}()
					_, err := theirs.Read(received)
					require.NoError(t, err)
					synctest.Wait()
					return ended
				}
				var all []<-chan error
				for range 2 {
					all = append(all, ask())
				}
				var conn plex.Conn
				for conn = range c.table.links {
					c.refuse(conn, syscall.ECONNREFUSED)
				}
				for _, ended := range all {
					require.ErrorIs(t, <-ended, syscall.ECONNREFUSED)
				}
				stats := c.Stats()
				require.EqualValues(t, 2, stats.Failed)
				require.Zero(t, stats.InFlight)

				start := time.Now()
				late := binary.BigEndian.AppendUint64(nil, 0)
				_, err = theirs.Write(late)
				require.NoError(t, err)
				synctest.Wait()
				require.EqualValues(t, 1, c.Stats().Late)

				next := ask()
				if max == 1 {
					require.Equal(t, 2, stats.Abandoned)
					require.GreaterOrEqual(t, time.Since(start), tidyEvery/2)
					require.Less(t, time.Since(start), 3*tidyEvery)
				} else {
					require.Zero(t, stats.Abandoned)
					require.Zero(t, time.Since(start))
				}
				_, err = theirs.Write(received)
				require.NoError(t, err)
				require.NoError(t, <-next)
				require.Zero(t, c.Stats().Abandoned)
				require.NoError(t, c.Close())
				require.NoError(t, mux.Close())
				require.NoError(t, theirs.Close())
			})
		})
	}
}

// The kernel may tell the reader of a refusal before the Write of the refused datagram has returned.
func TestARefusalThatOvertakesItsWriteIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		mux, err := plex.New(context.Background(), plex.WithConnections(ours))
		require.NoError(t, err)
		c, err := New(mux, bytewise{})
		require.NoError(t, err)
		ended := make(chan error, 1)
		go func() {
			_, err := c.Do(context.Background(), struct{}{})
			ended <- err
		}()
		synctest.Wait() // it is being written
		for conn := range c.table.links {
			c.refuse(conn, syscall.ECONNREFUSED)
		}
		_, err = theirs.Read(make([]byte, 8))
		require.NoError(t, err)
		err = <-ended
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		var e *Error
		require.ErrorAs(t, err, &e)
		require.True(t, e.MaybeSent)
		require.Zero(t, c.Stats().InFlight)
		require.NoError(t, c.Close())
		require.NoError(t, mux.Close())
		require.NoError(t, theirs.Close())
	})
}

func TestClosingTheClientFreesRestingIdentifiers(t *testing.T) {
	var tb table[int]
	cfg, err := configure("New", []Option{WithIDs(3)})
	require.NoError(t, err)
	tb.init(cfg, nil, nil)
	tb.mu.Lock()
	tb.rest.addLocked(&tb, tb.ids.take(tb.takenLocked))
	tb.mu.Unlock()
	require.Equal(t, Stats{Abandoned: 1}, tb.snapshot())
	victims, links := tb.close(ErrClosed)
	require.Nil(t, victims.head)
	require.Empty(t, links)
	require.Zero(t, tb.snapshot())
}
