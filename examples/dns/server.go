package main

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"

	"github.com/miekg/dns"
)

// startServer starts a DNS server, over TLS if it gets a configuration. The address of a name such as n17.plex.test is its
// number, so that a wrong answer cannot hide. The server closes each connection after 500 queries, as is its right.
func startServer(config *tls.Config) (*dns.Server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	if config != nil {
		listener = tls.NewListener(listener, config)
	}
	server := &dns.Server{Listener: listener, Handler: dns.HandlerFunc(answer), MaxTCPQueries: 500}
	started := make(chan struct{})
	server.NotifyStartedFunc = func() { close(started) }
	failed := make(chan error, 1)
	go func() { failed <- server.ActivateAndServe() }()
	select {
	case err := <-failed:
		return nil, err
	case <-started:
		return server, nil
	}
}

func answer(w dns.ResponseWriter, query *dns.Msg) {
	reply := new(dns.Msg).SetReply(query)
	var n uint32
	if _, err := fmt.Sscanf(query.Question[0].Name, "n%d.plex.test.", &n); err != nil {
		reply.Rcode = dns.RcodeNameError
	} else {
		reply.Answer = []dns.RR{&dns.A{
			Hdr: dns.RR_Header{Name: query.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
			A:   binary.BigEndian.AppendUint32(nil, n),
		}}
	}
	_ = w.WriteMsg(reply) // or the connection has ended, and the client asks again
}
