package main

import (
	"crypto/tls"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex/examples/internal/selfsigned"
)

func TestRun(t *testing.T) {
	serverTLS, clientTLS, err := selfsigned.Configs()
	require.NoError(t, err)
	require.NoError(t, run("TCP", nil, new(net.Dialer)))
	require.NoError(t, run("TLS", serverTLS, &tls.Dialer{Config: clientTLS}))
	require.ErrorContains(t, run("TLS", serverTLS, new(tls.Dialer)), "certificate signed by unknown authority")
}
