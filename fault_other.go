//go:build !linux

package plex

import "net"

// wasReset is known on Linux only; elsewhere an io.EOF is taken at its word.
func wasReset(net.Conn) bool { return false }
