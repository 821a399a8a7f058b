package plex

// DialTCP: the connector for TCP and TLS over TCP that sets how the kernel finds out that a peer is
// gone. Its options are checked together, before anything is dialed.

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"runtime"
	"time"

	"go.atomizer.io/plex/internal/option"
	"go.atomizer.io/plex/internal/sock"
)

// TCPOption sets up a connector in [DialTCP]. The order of options never matters; of the same
// option given twice the later one counts.
type TCPOption func(*tcpDialer)

// KeepAlive sets when the kernel asks an idle peer whether it is alive, and how often before it
// gives the connection up with ETIMEDOUT. The fields mean what they mean in
// [net.TCPConn.SetKeepAliveConfig]: zero is 15 s, 15 s and 9 probes, a negative value leaves what
// the system has. Idle and Interval are rounded up to whole seconds. The zero config turns
// keep-alive off. Without the option keep-alive is on, with the values of a [net.Dialer].
//
// Refused are a config with values but without Enable, which would turn keep-alive off and ignore
// them, and values that Linux does not take: more than 32767 seconds, or 127 probes.
func KeepAlive(config net.KeepAliveConfig) TCPOption {
	return func(d *tcpDialer) { d.keepAlive.Give(config) }
}

// UserTimeout sets TCP_USER_TIMEOUT: the kernel gives a connection up with ETIMEDOUT when the peer
// has not acknowledged what was sent for d, or has had no room for it for d. So it also ends a
// connection whose peer is alive but does not read; choose d longer than any such pause. Connecting
// is not bounded by it, see [WithConnectTimeout].
//
// It goes together with keep-alive, which asks when nothing is sent. On Linux a user timeout takes
// the place of keep-alive's Count: an idle connection is given up at the first probe after d. So
// without the option KeepAlive, DialTCP lowers Idle and Interval to what fits d. A KeepAlive with a
// Count above 1 is refused if d is not above Idle plus Interval, since one lost probe would end the
// connection.
//
// d is rounded up to whole milliseconds, of which there may be at most 2147483647 (24 days). Only
// Linux has the option; elsewhere connects fail with an error that matches
// [errors.ErrUnsupported].
func UserTimeout(d time.Duration) TCPOption {
	return func(t *tcpDialer) { t.userTimeout.Give(d) }
}

// TLS makes the connection a TLS client. The handshake is part of the connect and is bounded by
// [WithConnectTimeout]. If config has no ServerName, the host in DialTCP's address is the name that
// the server has to prove. config is cloned; nil stands for the zero config. To change a client
// certificate later, use its GetClientCertificate and [Multiplexer.Renew].
func TLS(config *tls.Config) TCPOption {
	if config == nil {
		config = &tls.Config{}
	}
	config = config.Clone()
	return func(d *tcpDialer) { d.tls = config.Clone() } // each gets a server name of its own
}

// DialTCP returns a Connect that dials address, a host and port, over TCP. A name is resolved anew
// each time. Unlike [Dial] it can be told how soon the kernel shall notice a peer that is gone
// without a word, which otherwise takes minutes:
//
//	plex.DialTCP("db.internal:9042", plex.UserTimeout(10*time.Second), plex.TLS(config))
//
// Options that cannot do what they say are refused: every connect fails with an error that names
// the option, says why, and what would be right. A pool with [WithMinConnections] tells it in the
// error of New. Nothing is dialed then.
func DialTCP(address string, options ...TCPOption) Connect {
	d := &tcpDialer{address: address}
	problems := option.Apply("plex: DialTCP", "options", d, options)
	d.validate(problems)
	refused := problems.Err()
	return DialFunc(func(ctx context.Context) (net.Conn, error) {
		if refused != nil {
			return nil, refused
		}
		return d.dial(ctx)
	})
}

// tcpDialer is what the options of DialTCP say. It does not change once DialTCP has returned.
type tcpDialer struct {
	address     string
	keepAlive   option.Value[net.KeepAliveConfig]
	userTimeout option.Value[time.Duration]
	tls         *tls.Config // nil without TLS
}

// What Linux takes. It refuses more with EINVAL, which says neither what nor why.
const (
	maxKeepAliveTime  = 32767 * time.Second
	maxKeepAliveCount = 127
	maxUserTimeout    = math.MaxInt32 * time.Millisecond
)

// What package net makes of the zero values of a KeepAliveConfig.
const (
	defaultKeepAliveTime  = 15 * time.Second
	defaultKeepAliveCount = 9
)

// validate finds all that is wrong with the options, and completes them.
func (d *tcpDialer) validate(problems *option.Problems) {
	d.validateKeepAlive(problems)
	d.validateUserTimeout(problems)
	if d.tls == nil || d.tls.ServerName != "" {
		return
	}
	host, _, err := net.SplitHostPort(d.address)
	if d.tls.ServerName = host; err == nil && host == "" && !d.tls.InsecureSkipVerify {
		problems.Add("TLS", "the address %q has no host whose name the server could prove; set the config's ServerName", d.address)
	} // an address that is none is the dialer's error
}

func (d *tcpDialer) validateKeepAlive(problems *option.Problems) {
	k := d.keepAlive.Get()
	switch {
	case !k.Enable && k != net.KeepAliveConfig{}:
		problems.Add("KeepAlive", "Enable is false, so the other values would mean nothing; set Enable, or leave them out to turn keep-alive off")
	case k.Idle > maxKeepAliveTime:
		problems.Add("KeepAlive", "Idle is %v; Linux takes at most %v", k.Idle, maxKeepAliveTime)
	case k.Interval > maxKeepAliveTime:
		problems.Add("KeepAlive", "Interval is %v; Linux takes at most %v", k.Interval, maxKeepAliveTime)
	case k.Count > maxKeepAliveCount:
		problems.Add("KeepAlive", "Count is %d; Linux takes at most %d", k.Count, maxKeepAliveCount)
	}
}

func (d *tcpDialer) validateUserTimeout(problems *option.Problems) {
	if !d.userTimeout.Given() {
		return
	}
	timeout := d.userTimeout.Get()
	switch {
	case !sock.HasUserTimeout:
		problems.Add("UserTimeout", "%s has no TCP user timeout; use KeepAlive and write deadlines: %w", runtime.GOOS, errors.ErrUnsupported)
	case timeout <= 0:
		problems.Add("UserTimeout", "the duration is %v; it must be above zero, and zero would mean no timeout", timeout)
	case timeout > maxUserTimeout:
		problems.Add("UserTimeout", "the duration is %v; Linux takes at most %v", timeout, maxUserTimeout)
	case !d.keepAlive.Given():
		d.keepAlive.Give(keepAliveWithin(timeout))
	default:
		idle, interval, count, ok := inEffect(d.keepAlive.Get())
		if ok && count > 1 && timeout <= idle+interval {
			problems.Add("UserTimeout", "%v is not above KeepAlive's Idle plus Interval (%v + %v), so one lost probe would end an idle connection, whatever Count (%d) says; raise UserTimeout, lower Idle and Interval, or set Count to 1 if that is wanted", timeout, idle, interval, count)
		}
	}
}

// keepAliveWithin returns a keep-alive with which a peer that is gone is noticed about as soon when
// the connection is idle as when it is not: the first probe after half the timeout, and two more in
// what is left, so that one of them may get lost. The system knows only whole seconds, so below 3 s
// there is less room.
func keepAliveWithin(timeout time.Duration) net.KeepAliveConfig {
	fit := func(t time.Duration) time.Duration {
		return min(max(t.Truncate(time.Second), time.Second), defaultKeepAliveTime)
	}
	idle := fit(timeout / 2)
	return net.KeepAliveConfig{Enable: true, Idle: idle, Interval: fit((timeout - idle) / 3)}
}

// inEffect returns the values that the kernel gets, unless they are its own, which are not known.
func inEffect(k net.KeepAliveConfig) (idle, interval time.Duration, count int, ok bool) {
	if !k.Enable || k.Idle < 0 || k.Interval < 0 || k.Count < 0 {
		return 0, 0, 0, false
	}
	effective := func(t time.Duration) time.Duration {
		if t == 0 {
			return defaultKeepAliveTime
		}
		return (t + time.Second - 1).Truncate(time.Second)
	}
	if count = k.Count; count == 0 {
		count = defaultKeepAliveCount
	}
	return effective(k.Idle), effective(k.Interval), count, true
}

// dial makes one connection. If it fails, nothing is left open.
func (d *tcpDialer) dial(ctx context.Context) (net.Conn, error) {
	var dialer net.Dialer
	if d.keepAlive.Given() {
		dialer.KeepAlive = -1 // so that what a negative value leaves is the system's
	}
	conn, err := dialer.DialContext(ctx, "tcp", d.address)
	if err != nil {
		return nil, err
	}
	transport, err := d.setUp(ctx, conn.(*net.TCPConn)) // a dialer's "tcp" is nothing else
	if err != nil {
		_ = conn.Close() // err says more
		return nil, fmt.Errorf("plex: DialTCP: %w", err)
	}
	return transport, nil
}

// setUp sets the socket's options, whose errors a net.Dialer would ignore, and does the handshake.
func (d *tcpDialer) setUp(ctx context.Context, conn *net.TCPConn) (net.Conn, error) {
	if d.keepAlive.Given() {
		if err := conn.SetKeepAliveConfig(d.keepAlive.Get()); err != nil {
			return nil, fmt.Errorf("KeepAlive: %w", err)
		}
	}
	if d.userTimeout.Given() {
		if err := sock.Of(conn).SetUserTimeout(d.userTimeout.Get()); err != nil {
			return nil, fmt.Errorf("UserTimeout: %w", err)
		}
	}
	if d.tls == nil {
		return conn, nil
	}
	client := tls.Client(conn, d.tls)
	if err := client.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS handshake with %s: %w", d.address, err)
	}
	return client, nil
}
