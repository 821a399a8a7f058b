//go:build !plexportable

package plex_test

import (
	"crypto/tls"
	"net"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestTransportResetToldToSomebodyElse: the kernel tells of a reset once, and has the next who asks believe in a clean
// end of the stream.
func TestTransportResetToldToSomebodyElse(t *testing.T) {
	for _, tr := range streams()[:2] {
		t.Run(tr.name, func(t *testing.T) {
			mux, l := openOne(t, newLedger(t), tr)
			r, w := leaseReader(t, mux), leaseWriter(t, mux)
			raw := []net.Conn{l.client, l.server}
			for i, c := range raw {
				if c, ok := c.(*tls.Conn); ok {
					raw[i] = c.NetConn()
				}
			}
			reset(t, &link{server: raw[1]})
			control, err := raw[0].(*net.TCPConn).SyscallConn()
			require.NoError(t, err)
			eventually(t, func() bool {
				var told int
				require.NoError(t, control.Control(func(fd uintptr) {
					told, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ERROR)
				}))
				require.NoError(t, err)
				return told == int(syscall.ECONNRESET)
			}, "the reset's arrival")

			_, err = r.Read(make([]byte, 1))
			assert.ErrorIs(t, err, syscall.ECONNRESET)
			_, err = w.Write([]byte("x"))
			assert.ErrorIs(t, err, syscall.ECONNRESET)
			_ = r.Close()
			_ = w.Close()
			assertLost(t, mux)
		})
	}
}
