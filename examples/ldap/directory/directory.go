// Package directory is a client for LDAP on top of plex: it binds, searches and compares. Take it as a template.
//
// LDAP numbers its messages, so the requests of all callers can share a few connections. A search is answered by many
// messages, of which the last says so: that is a stream. If the caller leaves the loop early, the server is told.
package directory

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"

	ber "github.com/go-asn1-ber/asn1-ber"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/request"
)

// Config says where the server is, and who asks.
type Config struct {
	Connect      plex.Connect // such as plex.Dial("tcp", "192.0.2.3:389"), or plex.DialContext with a tls.Dialer
	Connections  int
	DN, Password string // both empty: anonymous
}

// Client talks to one server. All methods may be called from any number of goroutines.
//
// A request that fails on the way is a [*request.Error], which says whether it may have been sent. Nothing is sent twice.
// What the server says against a request is a [*ResultError].
type Client struct {
	config   Config
	pool     *plex.Multiplexer
	requests *request.Client[operation, reply]
}

// Dial opens the connections, and binds on each. plex replaces those that die, and binds again.
func Dial(ctx context.Context, config Config) (c *Client, err error) {
	c = &Client{config: config}
	c.pool, err = plex.New(ctx, plex.WithConnector(c.connect),
		plex.WithMinConnections(config.Connections), plex.WithMaxCapacity(config.Connections))
	if err != nil {
		return nil, err
	}
	c.requests, err = request.New(c.pool, protocol{}, request.WithIDRange(firstID, lastID), request.WithMaxSize(MaxMessage))
	if err != nil {
		return nil, errors.Join(err, c.pool.Close())
	}
	return c, nil
}

// Close fails the requests that are in flight, and closes the connections.
func (c *Client) Close() error { return errors.Join(c.requests.Close(), c.pool.Close()) }

// Stats says how the connections and the requests are doing.
func (c *Client) Stats() (plex.Stats, request.Stats) { return c.pool.Stats(), c.requests.Stats() }

// Entry is what a search has found. A value is a string of bytes, whatever the attribute means by it.
type Entry struct {
	DN         string
	Attributes map[string][]string
}

// Get returns the first value of an attribute, or "".
func (e Entry) Get(attribute string) string {
	if values := e.Attributes[attribute]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// Scope is how far below its base a search goes.
type Scope int

// The scopes: the entry itself, those just below it, or everything from it on.
const (
	Base Scope = iota
	OneLevel
	Subtree
)

// Search is what to look for.
type Search struct {
	Base       string
	Scope      Scope
	Filter     Filter   // nil: every entry
	Attributes []string // to be returned; none: all that users have set. "+" stands for those of the server
	Limit      int      // most entries; 0: as many as the server gives. Beyond it the server says SizeLimitExceeded
}

// Search returns a loop over the entries as they arrive. After an error the loop ends. If it is left early, or ctx ends, the
// server is told to abandon the search.
//
// The connection is read on while the loop body runs, because others use it as well. If the entries that wait for the loop
// take more than 16 MiB, the search fails with request.ErrSlow.
func (c *Client) Search(ctx context.Context, s Search) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for r, err := range c.requests.Stream(ctx, s.operation()) {
			switch {
			case err != nil:
				yield(Entry{}, fmt.Errorf("ldap: search below %q: %w", s.Base, err))
				return
			case r.tag == searchDone:
				if _, err := r.result(success); err != nil {
					yield(Entry{}, err)
				}
			case r.tag == searchEntry:
				entry, err := r.entry()
				if !yield(entry, err) || err != nil {
					return
				}
			}
			// The rest are references to other servers, which this client does not follow.
		}
	}
}

// Compare says whether an entry has a value of an attribute.
func (c *Client) Compare(ctx context.Context, dn, attribute, value string) (bool, error) {
	assertion := sequence(octets(attribute), octets(value))
	r, err := c.requests.Do(ctx, operation{compareRequest, []*ber.Packet{octets(dn), assertion}})
	if err != nil {
		return false, fmt.Errorf("ldap: compare %q: %w", dn, err)
	}
	if r.tag != compareResponse {
		return false, fmt.Errorf("ldap: compare %q: the server answers by a message of kind %d", dn, r.tag)
	}
	code, err := r.result(compareTrue, compareFalse)
	return code == compareTrue, err
}

// connect makes connections that are all prepared alike: bound. Healing calls it too.
func (c *Client) connect(ctx context.Context, conn net.Conn) error {
	if err := c.config.Connect(ctx, conn); err != nil || c.config.DN == "" {
		return err
	}
	password := ber.NewString(ber.ClassContext, ber.TypePrimitive, 0, c.config.Password, "")
	bind := operation{bindRequest, []*ber.Packet{integer(3), octets(c.config.DN), password}}
	if _, err := conn.Write(bind.frame(firstID)); err != nil { // nothing else is in flight here
		return err
	}
	message, err := readMessage(conn)
	if err != nil {
		return fmt.Errorf("ldap: wait for the answer to a bind: %w", err)
	}
	_, r, err := parse(message)
	if err == nil && r.tag != bindResponse {
		err = fmt.Errorf("ldap: the server answers a bind by a message of kind %d", r.tag)
	}
	if err != nil {
		return err
	}
	_, err = r.result(success)
	return err
}

// readMessage reads one message and nothing behind it, because that is for the first lease to read.
func readMessage(conn net.Conn) (message []byte, err error) {
	for need := 2; len(message) < need; { // the shortest head
		at := len(message)
		message = append(message, make([]byte, need-at)...)
		if _, err := io.ReadFull(conn, message[at:]); err != nil {
			return nil, err
		}
		if need, err = size(message); err != nil {
			return nil, err
		}
	}
	return message, nil
}

// ResultError is what the server says against a request.
type ResultError struct {
	Code    int64 // as in RFC 4511, such as 32 for an entry that does not exist
	Message string
}

func (e *ResultError) Error() string {
	name, known := map[int64]string{
		3: "time limit exceeded", 4: "size limit exceeded", 32: "no such object", 49: "invalid credentials",
		50: "insufficient access rights", 51: "busy", 53: "unwilling to perform",
	}[e.Code]
	if !known {
		name = "no success"
	}
	return fmt.Sprintf("ldap: the server says %d, %s %s", e.Code, name, e.Message)
}
