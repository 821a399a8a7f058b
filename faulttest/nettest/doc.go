// Package nettest holds no code of its own: its tests run golang.org/x/net/nettest over two leases of plex that are
// joined to a net.Conn again, and over a Duplex.
package nettest
