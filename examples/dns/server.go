package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// server is a DNS server in this process: that of miekg/dns, on a port of the loopback interface. Its connections can
// be broken, and it can go away and come back.
type server struct {
	address string
	tls     *tls.Config  // nil: TCP
	heard   func(uint32) // is called for each query with its number; nil: nobody cares
	wait    func()       // what a late reply waits for; nil: lateness

	mu    sync.Mutex
	dns   *dns.Server          // nil while the server is down
	conns map[string]*accepted // that are open, by remote address
	late  sync.WaitGroup       // replies that are still to be written
}

// accepted is a connection, and what is beneath it.
type accepted struct {
	net.Conn
	tcp    *net.TCPConn
	server *server
	used   bool // it has brought a query; guarded by the server's mutex
}

// lateness is by how much a late reply is late.
const lateness = 5 * time.Millisecond

// up starts the server, on a free port the first time and on the same one from then on.
func (s *server) up() error {
	listener, err := s.listen()
	if err != nil {
		return err
	}

	started := make(chan struct{})
	d := &dns.Server{
		Listener:          &listening{listener.(*net.TCPListener), s},
		Handler:           dns.HandlerFunc(s.handle),
		MaxTCPQueries:     -1, // a connection lives for as long as it is used
		IdleTimeout:       func() time.Duration { return time.Minute },
		NotifyStartedFunc: func() { close(started) },
	}
	failed := make(chan error, 1)
	go func() { failed <- d.ActivateAndServe() }()
	select {
	case err := <-failed:
		return fmt.Errorf("start the DNS server: %w", err)
	case <-started:
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	s.dns = d

	return nil
}

// listen finds a port that the system gives to no outgoing connection, so that it is free when the server comes back.
func (s *server) listen() (net.Listener, error) {
	if s.address != "" {
		return net.Listen("tcp", s.address)
	}

	var err error
	for range 50 {
		address := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000))
		var listener net.Listener
		if listener, err = net.Listen("tcp", address); err == nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.address, s.conns = address, make(map[string]*accepted)

			return listener, nil
		}
	}

	return nil, err
}

// down ends all connections, and waits until nothing is left of them.
func (s *server) down() error {
	s.mu.Lock()
	d := s.dns
	s.dns = nil
	s.mu.Unlock()
	if d == nil {
		return nil
	}

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := d.ShutdownContext(ctx)
	s.late.Wait()

	return err
}

// breakOne breaks a connection, if there is one that has been used: with a reset, or as a server does that hangs up.
func (s *server) breakOne(reset bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()

	for address, c := range s.conns { // in no order
		if !c.used {
			continue
		}
		delete(s.conns, address)
		if reset {
			_ = c.tcp.SetLinger(0) // it may be closed already
		}
		_ = c.tcp.Close()

		return true
	}

	return false
}

// open is how many connections there are.
func (s *server) open() int {
	s.mu.Lock()
	defer s.mu.Unlock()

	return len(s.conns)
}

// listening is a listener that remembers what it has accepted.
type listening struct {
	*net.TCPListener
	server *server
}

func (l *listening) Accept() (net.Conn, error) {
	tcp, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}

	s := l.server
	c := &accepted{Conn: tcp, tcp: tcp, server: s}
	if s.tls != nil {
		c.Conn = tls.Server(tcp, s.tls)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[tcp.RemoteAddr().String()] = c

	return c, nil
}

func (c *accepted) Close() error {
	s := c.server
	s.mu.Lock()
	if address := c.RemoteAddr().String(); s.conns[address] == c {
		delete(s.conns, address)
	}
	s.mu.Unlock()

	return c.Conn.Close()
}

// handle answers one query. miekg/dns reads the next one of the connection when it returns, so a late reply has a
// goroutine of its own.
func (s *server) handle(w dns.ResponseWriter, query *dns.Msg) {
	s.mu.Lock()
	c := s.conns[w.RemoteAddr().String()]
	if c == nil {
		s.mu.Unlock()
		return // it was broken just now
	}
	c.used = true
	s.mu.Unlock()

	if len(query.Question) != 1 {
		_ = w.WriteMsg(new(dns.Msg).SetRcode(query, dns.RcodeFormatError)) // or the connection is gone
		return
	}
	n, late, ok := number(query.Question[0].Name)
	if !ok {
		_ = w.WriteMsg(new(dns.Msg).SetRcode(query, dns.RcodeNameError))
		return
	}
	if s.heard != nil {
		s.heard(n)
	}
	if !late {
		_ = w.WriteMsg(answer(query, n))
		return
	}
	s.late.Go(func() {
		if s.wait != nil {
			s.wait()
		} else {
			time.Sleep(lateness)
		}
		_ = c.reply(answer(query, n))
	})
}

// reply writes a message past miekg/dns, whose ResponseWriter is not to be used after its handler has returned.
func (c *accepted) reply(m *dns.Msg) error {
	packed, err := m.Pack()
	if err != nil {
		return err
	}
	framed, err := frame.Append(nil, packed)
	if err != nil {
		return err
	}
	_, err = c.Write(framed) // one Write, so nothing gets in between

	return err
}
