package scaffold

// How pools are set up, what must always be true of their figures, and what is done to the proxies in front of them.

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/proxy"
)

// Pool is the part of a pool's set-up that the soaks share.
type Pool struct {
	Capacity, Minimum int
	Scaling, Idle     time.Duration // 0: off
	Lifetime          time.Duration // 0: for ever
	ConnectTimeout    time.Duration
	Pause             time.Duration // for each failure in a row, before the next connect
	Pauses            int           // how many failures in a row count for that
}

// Open makes the pool, with more options. While there are faults New may fail, and then has left nothing. When ctx ends
// before New succeeds, Open returns nil. poolCtx is for New.
func (p Pool) Open(ctx, poolCtx context.Context, connect plex.Connect, more ...plex.Option) *plex.Multiplexer {
	opts := append([]plex.Option{
		plex.WithMaxCapacity(p.Capacity), plex.WithConnector(connect), plex.WithConnectTimeout(p.ConnectTimeout),
		// Many connections die before they have proved their worth, and what is wanted here is many connections.
		plex.WithBackoff(func(failures int) time.Duration { return p.Pause * time.Duration(min(failures, p.Pauses)) }),
	}, more...)
	if p.Minimum > 0 {
		opts = append(opts, plex.WithMinConnections(p.Minimum))
	}
	if p.Scaling > 0 {
		opts = append(opts, plex.WithAutoScaling(p.Scaling), plex.WithIdleTimeout(p.Idle))
	}
	if p.Lifetime > 0 {
		opts = append(opts, plex.WithMaxLifetime(p.Lifetime))
	}
	for ctx.Err() == nil {
		if m, err := plex.New(poolCtx, opts...); err == nil {
			return m
		}
	}
	return nil
}

// Closed checks that nothing is left of a pool that has been closed, and that err, its Close's, is nil.
func Closed(m *plex.Multiplexer, err error) error {
	if err != nil {
		return fmt.Errorf("the end of a pool: %w", err)
	}
	s := m.Stats()
	leased, waiting := s.LeasedReaders+s.LeasedWriters, s.Waiting+s.WaitingReady
	if s.Open+s.Connecting+s.IdleReaders+s.IdleWriters+leased+waiting > 0 {
		return fmt.Errorf("something is left in the closed pool: %+v", s)
	}
	return nil
}

// Watch looks at a pool's figures until ctx ends. It keeps the latest in latest.
func (r *Run) Watch(ctx context.Context, m *plex.Multiplexer, latest *atomic.Pointer[plex.Stats]) {
	last := new(plex.Stats)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := m.Stats()
		if err := sane(last, &now); err != nil {
			r.Fail(fmt.Errorf("stats: %w: %+v, and before %+v", err, now, *last), nil)
		}
		latest.Store(&now)
		last = &now
	}
}

// sane compares a snapshot with the one before: nothing is below zero, no counter goes back, and the capacity is kept.
func sane(last, now *plex.Stats) error {
	if now.Open+now.Connecting > now.Capacity {
		return fmt.Errorf("more than the capacity")
	}
	was, is := reflect.ValueOf(last).Elem(), reflect.ValueOf(now).Elem()
	for i := range is.NumField() {
		name := is.Type().Field(i).Name
		switch f := is.Field(i); f.Kind() {
		case reflect.Int:
			if f.Int() < 0 {
				return fmt.Errorf("%s is below zero", name)
			}
		case reflect.Uint64:
			if f.Uint() < was.Field(i).Uint() {
				return fmt.Errorf("%s went back", name)
			}
		}
	}
	return nil
}

// Serve starts a proxy, and calls keep with it before anything is done by its script, which may use what keep sets.
func Serve(cfg proxy.Config, keep func(*proxy.Proxy)) error {
	kept, script := make(chan struct{}), cfg.Script
	cfg.Script = func(k int) proxy.Script {
		<-kept
		return script(k)
	}
	p, err := proxy.New(cfg)
	if err != nil {
		return err
	}
	keep(p)
	close(kept)
	return nil
}

// Coarse makes the faults of a script that would only be slow, byte by byte, fit for a soak.
func Coarse(script proxy.Script) proxy.Script {
	for i := range script.Steps {
		switch step := &script.Steps[i]; step.Do {
		case proxy.Slice:
			step.Size = 64 + 64*step.Size
		case proxy.Delay:
			step.For /= 10
		default:
		}
	}
	return script
}

// Outages are what happens to listeners, each in a goroutine of its own.
type Outages struct {
	sync.WaitGroup
	Wrong func(error) // is told when the proxy fails
}

// Refuse has connects refused for a while.
func (o *Outages) Refuse(p *proxy.Proxy, down time.Duration) {
	o.Go(func() {
		p.Refuse()
		time.Sleep(down)
		o.check(p.Listen())
	})
}

// Pause leaves connects in the backlog for a while; see proxy.Proxy.PauseAccept.
func (o *Outages) Pause(p *proxy.Proxy, backlog int, down time.Duration) {
	o.Go(func() {
		o.check(p.PauseAccept(backlog))
		time.Sleep(down)
		o.check(p.ResumeAccept())
	})
}

// Restart ends all connections, and has connects refused for a while.
func (o *Outages) Restart(p *proxy.Proxy, down time.Duration, reset bool) {
	o.Go(func() { o.check(p.Restart(down, reset)) })
}

func (o *Outages) check(err error) {
	if err != nil {
		o.Wrong(fmt.Errorf("the proxy: %w", err))
	}
}

// Certificates makes the two ends of TLS.
func Certificates() (client, server *tls.Config, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(1000 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
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
