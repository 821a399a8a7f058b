package peer

import (
	"encoding/binary"
	"fmt"
	"net"
	"time"

	"github.com/miekg/dns"
	"github.com/nats-io/nats-server/v2/server"
)

// NewQuery makes a query to DNS, and says what the address in the reply has to be.
func NewQuery(n uint32) (query *dns.Msg, want net.IP) {
	return new(dns.Msg).SetQuestion(fmt.Sprintf("n%d.plex.test.", n), dns.TypeA), binary.BigEndian.AppendUint32(nil, n)
}

// serveDNS answers queries of NewQuery.
func serveDNS(l net.Listener) {
	s := &dns.Server{
		Listener: l, MaxTCPQueries: -1, ReadTimeout: time.Hour, IdleTimeout: func() time.Duration { return time.Hour },
		Handler: dns.HandlerFunc(func(w dns.ResponseWriter, query *dns.Msg) {
			reply := new(dns.Msg).SetReply(query)
			var n uint32
			if _, err := fmt.Sscanf(query.Question[0].Name, "n%d.plex.test.", &n); err == nil {
				_, address := NewQuery(n)
				reply.Answer = []dns.RR{&dns.A{
					Hdr: dns.RR_Header{Name: query.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
					A:   address,
				}}
			}
			_ = w.WriteMsg(reply) // a dead connection is the client's to notice
		}),
	}
	_ = s.ActivateAndServe() // it ends with the process
}

// startNATS starts nats-server.
func startNATS() (address string, err error) {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true})
	if err != nil {
		return "", err
	}
	s.Start()
	return s.Addr().String(), nil
}
