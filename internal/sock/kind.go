package sock

import (
	"crypto/tls"
	"errors"
	"net"
	"strings"

	"go.atomizer.io/plex/internal/caller"
)

// Kind is a set of properties of a connection. The zero value is that of an ordinary stream, such
// as TCP.
type Kind uint8

const (
	datagram Kind = 1 << iota
	connectionless
	secured
)

// KindOf returns the kind of nc. It calls methods of nc, which may panic.
func KindOf(nc net.Conn) (k Kind) {
	if _, ok := nc.(interface{ ConnectionState() tls.ConnectionState }); ok {
		k |= secured
	}
	local := nc.LocalAddr()
	if caller.IsNil(local) {
		return k
	}
	switch network := local.Network(); {
	case strings.HasPrefix(network, "udp"), strings.HasPrefix(network, "ip"):
		k |= datagram | connectionless
	case network == "unixgram", network == "unixpacket":
		k |= datagram
	}
	return k
}

// Datagram reports whether each Write sends one message and each Read returns one.
func (k Kind) Datagram() bool { return k&datagram != 0 }

// Connectionless reports whether messages go out without a connection, as with UDP: the peer's end
// is never seen, and the peer may be back a moment after an error. That is not so for a Unix
// datagram socket: when its peer closes, the kernel says ECONNREFUSED once, and then ENOTCONN for
// ever, even if the peer is back under the same name.
func (k Kind) Connectionless() bool { return k&connectionless != 0 }

// TLS reports whether the connection is a TLS connection. Its write side is broken for good once a
// Write has timed out.
func (k Kind) TLS() bool { return k&secured != 0 }

// Passing reports whether err, from a Read or Write of a connection of this kind, is about one
// message or about the network at this moment, so that the connection is as good as before.
func (k Kind) Passing(err error) bool {
	return k.Datagram() && isAny(err, messageErrors) || k.Connectionless() && isAny(err, networkErrors)
}

func isAny[E error](err error, targets []E) bool {
	for _, target := range targets {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}
