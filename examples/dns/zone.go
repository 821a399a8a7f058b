package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// The zone that the example asks about has a number in every name, and its address is that number. So a reply tells
// which query it is the answer to, and a wrong one cannot hide.

const zone = "plex.test."

// ask makes the query with the number n. A late one is answered after those that come behind it.
func ask(n uint32, late bool) *dns.Msg {
	name := "n"
	if late {
		name = "late"
	}

	return new(dns.Msg).SetQuestion(fmt.Sprintf("%s%d.%s", name, n, zone), dns.TypeA)
}

// number takes the number out of a name.
func number(name string) (n uint32, late, ok bool) {
	name, ok = strings.CutSuffix(name, "."+zone)
	if !ok {
		return 0, false, false
	}
	digits, late := strings.CutPrefix(name, "late")
	if !late {
		if digits, ok = strings.CutPrefix(name, "n"); !ok {
			return 0, false, false
		}
	}
	parsed, err := strconv.ParseUint(digits, 10, 32)

	return uint32(parsed), late, err == nil
}

// answer makes the reply that number n gets.
func answer(query *dns.Msg, n uint32) *dns.Msg {
	reply := new(dns.Msg).SetReply(query)
	reply.Answer = []dns.RR{&dns.A{
		Hdr: dns.RR_Header{Name: query.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
		A:   address(n),
	}}

	return reply
}

func address(n uint32) net.IP { return binary.BigEndian.AppendUint32(nil, n) }

// verify says what is wrong with a reply to the query with the number n and the identifier id.
func verify(reply *dns.Msg, id uint16, n uint32) error {
	if reply.Id != id {
		return fmt.Errorf("the query had the identifier %d, its reply has %d", id, reply.Id)
	}
	if reply.Rcode != dns.RcodeSuccess || len(reply.Answer) != 1 {
		return fmt.Errorf("%d got %s and %d answers, want one", n, dns.RcodeToString[reply.Rcode], len(reply.Answer))
	}
	a, ok := reply.Answer[0].(*dns.A)
	if !ok || !a.A.Equal(address(n)) {
		return fmt.Errorf("%d got the wrong answer: %v", n, reply.Answer[0])
	}

	return nil
}
