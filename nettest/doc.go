// Package nettest holds no code of its own: its tests run golang.org/x/net/nettest over two leases of plex that are
// joined to a net.Conn again. It is a module of its own so that users of plex do not inherit golang.org/x/net.
package nettest
