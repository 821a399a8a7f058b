package main

// How the pools are set up: differently, one after the other.

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net"
	"time"

	"go.atomizer.io/plex"
)

// setup is one pool's.
type setup struct {
	number   int
	length   time.Duration
	capacity int
	minimum  int
	readers  int
	writers  int
	scaling  time.Duration // 0: off
	idle     time.Duration
	lifetime time.Duration
	leaks    time.Duration
	pause    time.Duration // for each failure in a row, before the next connect
	tls      *tls.Config   // the client's
	ready    bool          // the readers ask for connections that have something to deliver
	end      ending
}

type ending int

const (
	endClose ending = iota
	endShutdown
	endContext
	endCalm
	endings
)

func (e ending) String() string {
	return [...]string{"closed under load", "shut down under load", "context ended under load", "closed when calm"}[e]
}

func (p setup) String() string {
	protocol := "TCP"
	if p.tls != nil {
		protocol = "TLS"
	}
	kind := "readers"
	if p.ready {
		kind = "ready readers"
	}
	return fmt.Sprintf("pool %d, %s, %v: capacity %d, minimum %d, %d %s, %d writers, scaling %v, idle %v, lifetime %v, leaks %v, pause %v; %v",
		p.number, protocol, p.length, p.capacity, p.minimum, p.readers, kind, p.writers, p.scaling, p.idle, p.lifetime, p.leaks, p.pause, p.end)
}

// drawSetup draws how pool n is set up.
func (s *soak) drawSetup(n int) setup {
	rng := rand.New(rand.NewPCG(s.o.seed^0x44, uint64(n)))
	p := setup{number: n, capacity: s.o.capacity, end: ending(rng.IntN(int(endings)))}
	p.length = []time.Duration{2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second}[rng.IntN(4)]
	if s.o.each > 0 {
		p.length = s.o.each
	}
	p.minimum = p.capacity
	if n%3 == 1 && p.capacity > 1 {
		p.scaling, p.idle = time.Duration(1+rng.IntN(5))*time.Millisecond, 200*time.Millisecond
		p.minimum = rng.IntN(p.capacity)
	}
	if rng.IntN(3) == 0 {
		p.lifetime = 500 * time.Millisecond
	}
	if rng.IntN(4) == 0 {
		p.leaks = time.Minute
	}
	if rng.IntN(4) == 0 {
		p.pause = time.Millisecond
	}
	if n%4 == 2 {
		p.tls = s.clientTLS
	}
	p.ready = n%5 == 1 || n%5 == 3
	p.readers = p.capacity + rng.IntN(p.capacity+1)
	p.writers = p.capacity + rng.IntN(p.capacity+1)
	return p
}

func (s *soak) options(p setup) []plex.Option {
	opts := []plex.Option{
		plex.WithMaxCapacity(p.capacity), plex.WithConnector(s.connect(p)),
		plex.WithConnectTimeout(50 * time.Millisecond),
		// Many connections die before they have proved their worth, and what is wanted here is many connections.
		plex.WithBackoff(func(failures int) time.Duration { return p.pause * min(time.Duration(failures), 10) }),
	}
	if p.minimum > 0 {
		opts = append(opts, plex.WithMinConnections(p.minimum))
	}
	if p.scaling > 0 {
		opts = append(opts, plex.WithAutoScaling(p.scaling), plex.WithIdleTimeout(p.idle))
	}
	if p.lifetime > 0 {
		opts = append(opts, plex.WithMaxLifetime(p.lifetime))
	}
	if p.leaks > 0 {
		opts = append(opts, plex.WithLeakDetection(p.leaks))
	}
	return opts
}

// certificates makes the two ends of TLS.
func certificates() (client, server *tls.Config, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(1000 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(crand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	server = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	return &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}, server, nil
}
