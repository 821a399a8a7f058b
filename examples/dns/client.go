package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/dns"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/message"
	"go.atomizer.io/plex/request"
)

// This file is all that a program needs: take it as a template.

// Client asks one DNS server, over TCP or over TLS (RFC 7766, RFC 7858). The queries of all callers share a few
// connections: each goes out over whichever is free, and its reply is known by the identifier that the server
// repeats, whatever comes before it.
//
// All methods may be called from any number of goroutines.
type Client struct {
	mux      *plex.Multiplexer
	requests *request.Client[*dns.Msg, []byte]
}

// NewClient opens so many connections, which plex keeps open from then on. For TCP connect is
// plex.Dial("tcp", address); for TLS it is plex.DialContext with a *tls.Dialer. It fails if the server cannot be
// reached now; that it goes away later is nothing to be afraid of.
func NewClient(ctx context.Context, connect plex.Connect, connections int) (*Client, error) {
	mux, err := plex.New(ctx,
		plex.WithConnector(connect),
		plex.WithMinConnections(connections),
		plex.WithMaxCapacity(connections),
	)
	if err != nil {
		return nil, err
	}

	// 16 bits is what a DNS message has for an identifier. The client of package request never uses one again while a
	// reply to it can still come.
	requests, err := request.New(mux, protocol{}, request.WithIDs(1<<16-1))
	if err != nil {
		return nil, errors.Join(err, mux.Close())
	}

	return &Client{mux: mux, requests: requests}, nil
}

// Close fails the queries that are in flight, and closes the connections.
func (c *Client) Close() error { return errors.Join(c.requests.Close(), c.mux.Close()) }

// Exchange asks the server, once, and returns the reply, with the identifier that the query has. A reply that says that
// there is no such name, or that the server refuses, is a reply as well: its Rcode says so.
//
// The query is the caller's again when Exchange has returned. Zone transfers, which get many replies, and messages with
// a TSIG, which signs the identifier, are refused with an error.
//
// What goes wrong on the way is a [*request.Error], whose MaybeSent says whether the server may have got the query.
// Nothing is asked twice; as a DNS query changes nothing, a caller who is told of a lost connection may just ask again.
func (c *Client) Exchange(ctx context.Context, query *dns.Msg) (*dns.Msg, error) {
	if err := check(query); err != nil {
		return nil, err
	}

	wire, err := c.requests.Do(ctx, query)
	if err != nil {
		return nil, err
	}

	// Here and not in Parse, so that it is the caller's time that it takes, not that of those who read for all.
	reply := new(dns.Msg)
	if err := reply.Unpack(wire); err != nil {
		return nil, fmt.Errorf("dns: the reply to %s: %w", question(query), err)
	}
	if !belongs(reply, query) {
		return nil, fmt.Errorf("dns: asked for %s, got a reply about %s", question(query), question(reply))
	}
	reply.Id = query.Id

	return reply, nil
}

// check refuses what cannot work.
func check(query *dns.Msg) error {
	switch {
	case query == nil:
		return errors.New("dns: the query is nil")
	case query.Response:
		return errors.New("dns: the query is a reply: its Response flag is set")
	case query.IsTsig() != nil:
		return errors.New("dns: a TSIG signs the identifier, and this client chooses that itself")
	}
	for _, q := range query.Question {
		if q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR {
			return fmt.Errorf("dns: %s has more replies than one, and this client gives one", dns.TypeToString[q.Qtype])
		}
	}

	return nil
}

// belongs reports whether the reply is about what the query asked, as RFC 7766 has the client check. A server that
// could not make sense of a query may have left its question out.
func belongs(reply, query *dns.Msg) bool {
	if len(reply.Question) == 0 && reply.Rcode != dns.RcodeSuccess {
		return true
	}
	if len(reply.Question) != len(query.Question) {
		return false
	}
	for i, q := range query.Question {
		r := reply.Question[i]
		if r.Qtype != q.Qtype || r.Qclass != q.Qclass || !strings.EqualFold(r.Name, q.Name) {
			return false
		}
	}

	return true
}

// question is what a message asks, for errors.
func question(m *dns.Msg) string {
	if len(m.Question) == 0 {
		return "nothing"
	}

	return m.Question[0].Name + " " + dns.TypeToString[m.Question[0].Qtype]
}

// frame is how DNS messages follow each other on a stream: each after its length.
var frame = message.Prefix{Bytes: 2, Order: binary.BigEndian}

// protocol tells package request what DNS looks like.
type protocol struct{}

// Append appends the query with the identifier that it has on the wire.
func (protocol) Append(dst []byte, id uint64, query *dns.Msg) ([]byte, error) {
	numbered := *query // the caller's keeps its own
	numbered.Id = uint16(id)
	packed, err := numbered.Pack()
	if err != nil {
		return dst, err
	}

	return frame.Append(dst, packed)
}

// Split finds the end of a message.
func (protocol) Split(data []byte, atEOF bool) (advance int, token []byte, err error) {
	return frame.Split(data, atEOF)
}

// Parse finds out which query a message answers. The rest of it is looked at by the caller, so that a message that
// makes no sense further on fails one query and not the connection.
func (protocol) Parse(wire []byte) (id uint64, reply []byte, err error) {
	const header, flags, isReply = 12, 2, 1 << 7
	switch {
	case len(wire) < header:
		return 0, nil, fmt.Errorf("dns: a message of %d bytes, want at least the %d of a header", len(wire), header)
	case wire[flags]&isReply == 0:
		return 0, nil, request.ErrNotReply
	}

	return uint64(binary.BigEndian.Uint16(wire)), wire, nil
}
