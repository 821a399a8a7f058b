package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/examples/internal/selfsigned"
	"go.atomizer.io/plex/examples/syslog/shipper"
)

// What the server has taken from its kernel it writes to the file, also if it is stopped at that moment. So what is lost by
// a stop is only what had not come so far.
func TestStopLosesNothingThatTheServerHasRead(t *testing.T) {
	serverTLS, clientTLS, err := selfsigned.Configs()
	require.NoError(t, err)
	server, err := startServer(serverTLS)
	if errors.Is(err, exec.ErrNotFound) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	require.NoError(t, err)
	defer server.remove()
	client, err := shipper.Dial(t.Context(), shipper.Config{
		Connect:     plex.DialContext(&tls.Dialer{Config: clientTLS}, "tcp", server.address),
		Connections: 1, App: app, Queue: 8 << 20,
	})
	require.NoError(t, err)
	defer client.Close(t.Context())
	const lines = 20_000
	for n := range lines {
		require.NoError(t, client.Log(shipper.Info, fmt.Sprintf("line 0 %d", n)))
	}
	require.NoError(t, client.Flush(t.Context()))
	for begun := time.Now(); kernelHas(t, server.address); time.Sleep(time.Millisecond) {
		require.Less(t, time.Since(begun), 20*time.Second)
	}
	require.NoError(t, server.stop())
	come, err := new(book).come(server)
	require.NoError(t, err)
	require.Len(t, come, lines)
}

// kernelHas reports whether the kernel holds bytes that were sent to an address and not read, or not even acknowledged.
func kernelHas(t *testing.T, address string) bool {
	port, err := strconv.Atoi(address[strings.LastIndexByte(address, ':')+1:])
	require.NoError(t, err)
	table, err := os.ReadFile("/proc/net/tcp")
	require.NoError(t, err)
	end := fmt.Sprintf(":%04X", port)
	for line := range strings.Lines(string(table)) {
		// The number, both addresses, the state, and the bytes to be sent and to be read.
		words := strings.Fields(line)
		if strings.HasSuffix(words[1], end) || strings.HasSuffix(words[2], end) {
			if words[3] == "01" && words[4] != "00000000:00000000" {
				return true
			}
		}
	}
	return false
}
