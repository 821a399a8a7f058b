//go:build !linux

package plex

import "net"

// wasReset is known on Linux only; elsewhere an io.EOF is taken at its word.
func wasReset(net.Conn) bool { return false }

// unsent is known on Linux only. Elsewhere the end of a connection that has
// failed may queue behind what the peer has not taken.
func unsent(net.Conn) int { return 0 }

func shutDown(net.Conn) {}

func resetOnClose(net.Conn) {}
