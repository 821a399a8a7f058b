package request_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/request"
)

// promptServer answers each request at once, with its own text, and counts texts, until the test ends.
func promptServer(t *testing.T) (address string, seen func() map[string]int) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var mu sync.Mutex
	texts := map[string]int{}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				frames := bufio.NewScanner(conn)
				for frames.Split(prefix.Split); frames.Scan(); {
					m := frames.Bytes()
					mu.Lock()
					texts[string(m[9:])]++
					mu.Unlock()
					if _, err := conn.Write(frame(kindReply, binary.BigEndian.Uint64(m[1:]), string(m[9:]))); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		all.Wait()
	})
	return ln.Addr().String(), func() map[string]int {
		mu.Lock()
		defer mu.Unlock()
		return maps.Clone(texts)
	}
}

// All connections are renewed, again and again, under many callers: no request fails, none is sent twice, and those who
// renew are done while the load goes on.
func TestRenewUnderLoadFailsNoRequest(t *testing.T) {
	for _, test := range []struct {
		name     string
		capacity int
	}{{"with room", 12}, {"without room", 8}} {
		t.Run(test.name, func(t *testing.T) {
			balanceProcess(t)
			address, seen := promptServer(t)
			const conns, callers, renewals = 8, 64, 5
			m, err := plex.New(t.Context(), plex.WithConnector(plex.Dial("tcp", address)),
				plex.WithMinConnections(conns), plex.WithMaxCapacity(test.capacity))
			require.NoError(t, err)
			c, err := request.New(m, wireProtocol{})
			require.NoError(t, err)

			load, stop := context.WithCancel(t.Context())
			var all sync.WaitGroup
			var asked atomic.Int64
			failures := make(chan error, callers)
			for caller := range callers {
				all.Go(func() {
					for i := 0; load.Err() == nil; i++ {
						text := fmt.Sprintf("%d/%d", caller, i)
						// Not with load, whose end would cut a request.
						reply, err := c.Do(t.Context(), text)
						if err != nil || string(reply) != text {
							failures <- fmt.Errorf("%q for %q: %w", reply, text, err)
							return
						}
						asked.Add(1)
					}
				})
			}

			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			for i := range renewals {
				old := slices.Collect(m.Conns())
				require.Len(t, old, conns)
				before := asked.Load()
				require.NoError(t, m.Renew(ctx), "renewal %d", i)
				for _, conn := range old {
					require.Equal(t, "asked for", conn.Info().Leaving)
				}
				require.Greater(t, asked.Load(), before, "requests go on meanwhile")
				// What Renew waits for is the end of the old ones; the last new one may still be on its way.
				require.Eventually(t, func() bool { return m.Stats().Open == conns }, time.Minute, time.Millisecond)
			}
			stop()
			all.Wait()
			close(failures)
			for err := range failures {
				t.Error(err)
			}
			for text, times := range seen() {
				require.Equal(t, 1, times, text)
			}
			stats := m.Stats()
			require.EqualValues(t, conns*renewals, stats.Retired)
			require.Zero(t, stats.Lost+stats.ConnectFailed)
			t.Logf("%d requests during %d renewals of %d connections", asked.Load(), renewals, conns)
			balanced(t, c.Stats())
			require.NoError(t, c.Close())
			require.NoError(t, m.Close())
		})
	}
}
