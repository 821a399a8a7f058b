// Package resolver is a client for DNS over TCP or TLS (RFC 7766, RFC 7858) on top of plex. Take it as a template.
//
// Every DNS message has an identifier, which the reply repeats. So the queries of all callers can share a few
// connections: each goes out over whichever is free, and its reply is known whatever comes before it.
package resolver

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

// Client asks one DNS server. All methods may be called from any number of goroutines.
type Client struct {
	pool     *plex.Multiplexer
	requests *request.Client[*dns.Msg, []byte]
}

// Dial opens so many connections. plex replaces those that die, as they will: DNS servers close what idles for a few
// seconds. For TCP connect is plex.Dial("tcp", address); for TLS it is plex.DialContext with a *tls.Dialer.
func Dial(ctx context.Context, connect plex.Connect, connections int) (*Client, error) {
	pool, err := plex.New(ctx, plex.WithConnector(connect),
		plex.WithMinConnections(connections), plex.WithMaxCapacity(connections))
	if err != nil {
		return nil, err
	}
	// An identifier has 16 bits. None is used again while a reply to it can still come.
	requests, err := request.New(pool, protocol{}, request.WithIDs(1<<16-1))
	if err != nil {
		return nil, errors.Join(err, pool.Close())
	}
	return &Client{pool: pool, requests: requests}, nil
}

// Close fails the queries that are in flight, and closes the connections.
func (c *Client) Close() error { return errors.Join(c.requests.Close(), c.pool.Close()) }

// Stats says how the connections and the queries are doing.
func (c *Client) Stats() (plex.Stats, request.Stats) { return c.pool.Stats(), c.requests.Stats() }

// Exchange asks the server once and returns the reply, with the identifier that the query has. A reply that says that
// there is no such name, or that the server refuses, is a reply as well: its Rcode says so.
//
// A query that fails on the way is a [*request.Error]. A DNS query changes nothing, so the caller may just ask again.
func (c *Client) Exchange(ctx context.Context, query *dns.Msg) (*dns.Msg, error) {
	if err := check(query); err != nil {
		return nil, err
	}
	wire, err := c.requests.Do(ctx, query)
	if err != nil {
		return nil, err
	}
	// Unpacked here and not in Parse: it takes the caller's time, not that of the goroutines that read for everybody, and
	// a message that makes no sense fails one query and not the connection.
	reply := new(dns.Msg)
	if err := reply.Unpack(wire); err != nil {
		return nil, fmt.Errorf("dns: the reply to %s: %w", question(query), err)
	}
	// A server that could not make sense of a query may leave its question out.
	unread := len(reply.Question) == 0 && reply.Rcode != dns.RcodeSuccess
	if !unread && !strings.EqualFold(question(reply), question(query)) {
		return nil, fmt.Errorf("dns: asked for %s, got a reply about %s", question(query), question(reply))
	}
	reply.Id = query.Id
	return reply, nil
}

// check refuses what cannot work.
func check(query *dns.Msg) error {
	switch {
	case query == nil || query.Response || len(query.Question) != 1:
		return errors.New("dns: this is no query: want one question, and no Response flag")
	case query.IsTsig() != nil:
		return errors.New("dns: a TSIG signs the identifier, and this client chooses that itself")
	case query.Question[0].Qtype == dns.TypeAXFR || query.Question[0].Qtype == dns.TypeIXFR:
		return errors.New("dns: a transfer has more replies than one, and this client gives one")
	}
	return nil
}

// question is what a message asks.
func question(m *dns.Msg) string {
	if len(m.Question) != 1 {
		return "something else than one question"
	}
	q := m.Question[0]
	return q.Name + " " + dns.ClassToString[q.Qclass] + " " + dns.TypeToString[q.Qtype]
}

// protocol tells package request what DNS looks like.
type protocol struct{}

// frame is how DNS messages follow each other on a stream: each behind its length.
var frame = message.Prefix{Bytes: 2, Order: binary.BigEndian}

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

// Parse finds out which query a message answers.
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
