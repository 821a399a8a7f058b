package faulttest_test

// Log lines over TLS, as to a syslog server: whoever writes them reads nothing, so the server's tickets, and what it says
// now and then, are unread input.

import (
	"bufio"
	"context"
	"crypto/tls"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/proxy"
	"go.atomizer.io/plex/message"
)

// Of the row "a peer that greets, or a TLS 1.3 server that sends tickets, to a user who only writes": of 75,000 lines none
// is missing, though the server is a bit slower than those who write.
// Catches: a close with unread input, and one that does not wait for what the server has yet to read.
func TestFaultLinesOverTLSAllArrive(t *testing.T) {
	const writers, each = 25, 3000
	for name, opts := range map[string][]plex.Option{
		"Shutdown":            nil,
		"ages, and Shutdown":  {plex.WithMaxLifetime(20 * time.Millisecond)},
		"surplus and growing": {plex.WithMinConnections(1), plex.WithAutoScaling(time.Millisecond), plex.WithIdleTimeout(5 * time.Millisecond)},
	} {
		t.Run(name, func(t *testing.T) {
			server := &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}}
			client := &tls.Config{InsecureSkipVerify: true}
			var got, resets atomic.Int64
			w := newWorld(t, 8, proxy.Config{Handler: func(c *proxy.Conn) {
				_ = c.SetReadBuffer(32 << 10)
				s := tls.Server(c, server)
				lines := bufio.NewScanner(s)
				for n := 0; lines.Scan(); n++ {
					if got.Add(1)%100 == 0 {
						time.Sleep(time.Millisecond)
					}
					if n%500 == 0 {
						_, _ = s.Write([]byte("ok\n")) // which nobody reads
					}
				}
				if lines.Err() != nil {
					resets.Add(1)
				}
			}})
			m := w.bare(append([]plex.Option{
				plex.WithMinConnections(4), plex.WithMaxCapacity(8), plex.WithLinger(patience), plex.WithBackoff(quick),
				plex.WithConnector(plex.DialFunc(func(ctx context.Context) (net.Conn, error) {
					var d net.Dialer
					c, err := d.DialContext(ctx, "tcp", w.Addr())
					if err != nil {
						return nil, err
					}
					return tls.Client(c, client), nil
				})),
			}, opts...)...)
			line := []byte(strings.Repeat("x", 200) + "\n")
			var writing sync.WaitGroup
			for range writers {
				writing.Go(func() {
					for i := range each {
						if err := message.Send(context.Background(), m, patience, line); err != nil {
							t.Error(err)
							return
						}
						if i%500 == 499 {
							time.Sleep(10 * time.Millisecond) // so that there is surplus
						}
					}
				})
			}
			within(t, "the writers", writing.Wait)
			within(t, "Shutdown", func() { require.NoError(t, m.Shutdown(context.Background())) })
			eventually(t, func() bool { return w.Open() == 0 }, "the server has read to the end")
			s := m.Stats()
			t.Logf("%d expired, %d scaled down, %d resets", s.Expired, s.ScaledDown, resets.Load())
			require.EqualValues(t, writers*each, got.Load(), "lines")
			require.Zero(t, s.Lost)
		})
	}
}
