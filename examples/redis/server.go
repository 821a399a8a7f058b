package main

import (
	"os"
	"path/filepath"

	"go.atomizer.io/plex/examples/internal/installed"
)

// startServer starts the redis-server that is installed, on a socket of its own, and with nothing that outlives it.
func startServer() (socket string, stop func() error, err error) {
	path, err := installed.Find("redis-server", "redis-server")
	if err != nil {
		return "", nil, err
	}
	dir, err := os.MkdirTemp("", "plex-redis-")
	if err != nil {
		return "", nil, err
	}
	socket = filepath.Join(dir, "socket")
	server, err := installed.Start("unix", socket, path, "--port", "0", "--unixsocket", socket, "--save", "", "--dir", dir)
	if err != nil {
		_ = os.RemoveAll(dir)
		return "", nil, err
	}
	return socket, func() error {
		defer os.RemoveAll(dir)
		return server.Stop(os.Interrupt)
	}, nil
}
