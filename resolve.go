package plex

// The door to services with several addresses: how they are found, dialled and looked at.

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.atomizer.io/plex/internal/caller"
)

// Address is one of the addresses of a service, see [WithResolver]. Network and Address are as for
// [net.Dial]; an empty Network is "tcp". Name is the name that the service's certificate is checked
// against, and what is logged; where it is empty, that is the host in Address.
type Address struct{ Network, Address, Name string }

// String is the address as it is logged.
func (a Address) String() string {
	if a.Name != "" {
		return a.Name + " (" + a.Address + ")"
	}
	return a.Address
}

// netAddr is an Address as a net.Addr.
type netAddr struct{ Address }

func (a netAddr) Network() string { return a.Address.Network }
func (a netAddr) String() string  { return a.Address.Address }

// Resolver finds the addresses of a service. Order means nothing. It should return when ctx ends;
// one that does not is asked no more until it has.
type Resolver func(ctx context.Context) ([]Address, error)

// Addresses is a Resolver for addresses that do not change.
func Addresses(network string, addresses ...string) Resolver {
	all := make([]Address, len(addresses))
	for i, a := range addresses {
		all[i] = Address{Network: network, Address: a}
	}
	return func(context.Context) ([]Address, error) { return slices.Clone(all), nil }
}

// DNS is a Resolver for all the IP addresses of a host, such as that of a headless service in
// Kubernetes. The network is "tcp", "udp", or one of these with a 4 or 6 to have just that kind of
// address; the host is each Address's Name.
func DNS(network, hostport string) Resolver {
	return func(ctx context.Context) ([]Address, error) {
		host, port, err := net.SplitHostPort(hostport)
		if err != nil {
			return nil, fmt.Errorf("DNS(%q, %q): %w; give host:port", network, hostport, err)
		}
		number, err := net.DefaultResolver.LookupPort(ctx, network, port)
		if err != nil {
			return nil, err
		}
		ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip"+strings.TrimLeft(network, "tcpud"), host)
		if err != nil {
			return nil, err
		}
		all := make([]Address, len(ips))
		for i, ip := range ips {
			all[i] = Address{network, netip.AddrPortFrom(ip.Unmap(), uint16(number)).String(), strings.TrimSuffix(host, ".")}
		}
		return all, nil
	}
}

// SRV is a Resolver for the hosts that SRV records name, as [net.Resolver.LookupSRV] finds them. Of
// several priorities those of the first are used; weights are not, since connections are spread
// evenly.
func SRV(network, service, proto, name string) Resolver {
	return func(ctx context.Context) ([]Address, error) {
		_, records, err := net.DefaultResolver.LookupSRV(ctx, service, proto, name)
		if err != nil {
			return nil, err
		}
		if len(records) == 0 {
			return nil, nil
		}
		first := slices.MinFunc(records, func(a, b *net.SRV) int { return cmp.Compare(a.Priority, b.Priority) }).Priority
		var all []Address
		for _, r := range records {
			if r.Priority == first {
				host := strings.TrimSuffix(r.Target, ".")
				all = append(all, Address{network, net.JoinHostPort(host, strconv.Itoa(int(r.Port))), host})
			}
		}
		return all, nil
	}
}

// DialResolved returns a Connect that dials the address that was chosen among those of
// [WithResolver], or nil if d is nil, which WithConnector refuses. With a [tls.Dialer] whose Config
// has no ServerName, that is the address's Name.
func DialResolved(d ContextDialer) Connect {
	if caller.IsNil(d) {
		return nil
	}
	return func(ctx context.Context, conn net.Conn) error {
		to, ok := Target(conn)
		if !ok {
			return errors.New("plex: DialResolved: there is no address to dial; give the service's with WithResolver")
		}
		return DialContext(expecting(d, to.Name), to.Network, to.Address)(ctx, conn)
	}
}

// expecting has a TLS dialer expect a certificate for a name.
func expecting(d ContextDialer, name string) ContextDialer {
	t, ok := d.(*tls.Dialer)
	if !ok || name == "" || t.Config != nil && t.Config.ServerName != "" {
		return d
	}
	config := &tls.Config{}
	if t.Config != nil {
		config = t.Config.Clone()
	}
	config.ServerName = name
	return &tls.Dialer{NetDialer: t.NetDialer, Config: config}
}

// Target returns the address that was chosen for a connect, for connectors that do more than
// [DialResolved]. It reports false for what is not the handle that a [Connect] was given, and where
// there is no resolver.
func Target(conn net.Conn) (Address, bool) {
	h, ok := conn.(*handle)
	if !ok || h == nil || h.at == (Address{}) {
		return Address{}, false
	}
	return h.at, true
}

// WithResolver gives the addresses of the service. They are asked for when the pool is made, every
// so often (30 seconds if every is 0), by [Multiplexer.Renew], and soon after a connection was lost
// or a connect has failed, once in a second at most. The connector gets the one that was chosen, see
// [DialResolved] and [Target].
//
// A connection is made to the address with the fewest. Each address has a backoff of its own, so
// one that is dead slows down nothing but itself: while another answers, it is left alone for ten
// seconds after a failure, or longer. If none answers, they are probed in turn, as one dead service
// is. An address that is gone from the answer is drained: its connections are retired as by
// [Conn.Retire]. Where one address has two connections more than another, which has been well for
// ten seconds, one of them is moved; so a server that was restarted gets its share again. With fewer
// connections than addresses only some are used, at random; one that was restarted gets back what it
// had. An address that has failed is tried with one connection more where the capacity has room, so
// leave some.
//
// A resolver that fails, or gives no address, changes nothing, and is logged once. Connections that
// were given to the pool have no address in this sense, and stay. It needs a connector.
func WithResolver(r Resolver, every time.Duration) Option {
	return func(c *config) { c.resolver.Give(resolving{r, every}) }
}

// AddressStats is a snapshot of one address of the service.
type AddressStats struct {
	Address
	Drained    bool          // it is gone from the resolver's answer, and still has connections
	Open       int           // connections in service
	Connecting int           // connects under way
	Failures   int           // in a row, since a connection proved useful
	Backoff    time.Duration // what is left of the pause before the next connect to it; 0 if there is none
}

// Addresses returns the addresses of the service, in the resolver's order, and after them those that
// are being drained. It is nil without [WithResolver].
func (m *Multiplexer) Addresses() []AddressStats {
	if !m.cfg.resolver.Given() {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	p, now := &m.healer.pace, time.Now()
	keys := p.Listed()
	all := make([]AddressStats, len(keys))
	for i, k := range keys {
		f := p.Look(k, now)
		all[i] = AddressStats{Address: k, Drained: !f.Listed, Open: f.Open, Connecting: f.Connecting, Failures: f.Failures, Backoff: f.Backoff}
	}
	return all
}
