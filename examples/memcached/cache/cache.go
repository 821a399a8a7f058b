// Package cache is a client for memcached, 1.6 or later, on top of plex. Take it as a template.
//
// memcached repeats an opaque token with the reply to a meta command. So the requests of all callers can share a few
// connections: each goes out over whichever is free, and the token says whose reply it is.
package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/message"
	"go.atomizer.io/plex/request"
)

// Client talks to one memcached server. All methods may be called from any number of goroutines.
//
// A request that fails on the way is a [*request.Error], which says whether it may have been sent. Nothing is sent twice.
// After a failed Set or Delete that may have been sent, the key has its old value or its new one, and may still change.
type Client struct {
	pool     *plex.Multiplexer
	requests *request.Client[command, reply]
}

// ErrNotFound is what Get and Delete return for a key that the server does not have.
var ErrNotFound = errors.New("memcached: no such key")

const MaxKey, MaxValue = 250, 1<<20 - 1024 // the limits in bytes, of a server without options that change them

// Dial opens so many connections to the server at address. plex replaces those that die.
func Dial(ctx context.Context, address string, connections int) (*Client, error) {
	pool, err := plex.New(ctx, plex.WithConnector(plex.Dial("tcp", address)),
		plex.WithMinConnections(connections), plex.WithMaxCapacity(connections))
	if err != nil {
		return nil, err
	}
	requests, err := request.New(pool, protocol{})
	if err != nil {
		return nil, errors.Join(err, pool.Close())
	}
	return &Client{pool: pool, requests: requests}, nil
}

// Close fails the requests that are in flight, and closes the connections.
func (c *Client) Close() error { return errors.Join(c.requests.Close(), c.pool.Close()) }

// Stats says how the connections and the requests are doing.
func (c *Client) Stats() (plex.Stats, request.Stats) { return c.pool.Stats(), c.requests.Stats() }

// Get returns the value of a key, or ErrNotFound.
func (c *Client) Get(ctx context.Context, key string) ([]byte, error) {
	r, err := c.do(ctx, command{name: "mg", key: key})
	return r.value, err
}

// Set gives a key a value for ttl, in whole seconds, or for as long as there is room if ttl is zero.
func (c *Client) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	seconds := int64(math.Ceil(ttl.Seconds()))
	if ttl > 30*24*time.Hour {
		seconds += time.Now().Unix() // memcached takes so large a number for a date
	}
	_, err := c.do(ctx, command{name: "ms", key: key, value: value, seconds: seconds})
	return err
}

// Delete removes a key. ErrNotFound says that there was none.
func (c *Client) Delete(ctx context.Context, key string) error {
	_, err := c.do(ctx, command{name: "md", key: key})
	return err
}

func (c *Client) do(ctx context.Context, cmd command) (r reply, err error) {
	// What memcached refuses it answers by a line without a token. That costs the connection and fails all requests on
	// it, because nobody can say which of them is meant; so it is refused here.
	blank := func(r rune) bool { return r <= ' ' || r == 0x7f }
	if n := len(cmd.key); n < 1 || n > MaxKey || strings.ContainsFunc(cmd.key, blank) || len(cmd.value) > MaxValue {
		return r, fmt.Errorf("memcached: key %.99q, value of %d bytes: want 1 to %d bytes without blanks, and at most %d bytes",
			cmd.key, len(cmd.value), MaxKey, MaxValue)
	}
	if r, err = c.requests.Do(ctx, cmd); err != nil {
		return r, fmt.Errorf("memcached: %s %q: %w", cmd.name, cmd.key, err)
	}
	switch cmd.name + " " + r.status {
	case "mg VA", "ms HD", "md HD":
		return r, nil
	case "mg EN", "md NF":
		return r, ErrNotFound
	}
	return reply{}, fmt.Errorf("memcached: %s %q: the server answers %s", cmd.name, cmd.key, r.status)
}

// command is a request: a meta get, set or delete.
type command struct {
	name, key string
	value     []byte // of ms
	seconds   int64  // of ms
}

// reply is a status of two letters, and a value if that is VA.
type reply struct {
	status string
	value  []byte
}

// protocol tells package request what memcached looks like.
type protocol struct{}

// Append appends the command with its token.
func (protocol) Append(dst []byte, id uint64, c command) ([]byte, error) {
	switch c.name {
	case "mg":
		return fmt.Appendf(dst, "mg %s O%d v\r\n", c.key, id), nil
	case "ms":
		return fmt.Appendf(dst, "ms %s %d O%d T%d\r\n%s\r\n", c.key, len(c.value), id, c.seconds, c.value), nil
	}
	return fmt.Appendf(dst, "%s %s O%d\r\n", c.name, c.key, id), nil
}

// Split finds the end of a reply: of its line, or of the value behind a line such as "VA 5 O17".
func (protocol) Split(data []byte, atEOF bool) (advance int, token []byte, err error) {
	advance, line, err := message.Lines(data, atEOF)
	if err != nil || advance == 0 {
		return 0, nil, err
	}
	if rest, ok := bytes.CutPrefix(line, []byte("VA ")); ok {
		digits, _, _ := bytes.Cut(rest, []byte(" "))
		size, err := strconv.ParseUint(string(digits), 10, 30)
		advance += int(size) + len("\r\n")
		switch {
		case err != nil:
			return 0, nil, fmt.Errorf("memcached: %q has no size of a value: %w", line, err)
		case advance > len(data):
			return 0, nil, nil // more has to come
		case !bytes.HasSuffix(data[:advance], []byte("\r\n")):
			return 0, nil, fmt.Errorf("memcached: the value behind %q does not end there", line)
		}
	}
	return advance, data[:advance:advance], nil
}

// Parse finds out which request a reply belongs to. An error of it ends the connection.
func (protocol) Parse(whole []byte) (id uint64, r reply, err error) {
	line, value, _ := bytes.Cut(whole, []byte("\r\n"))
	status, _, _ := bytes.Cut(line, []byte(" "))
	_, token, _ := bytes.Cut(line, []byte(" O"))
	if id, err = strconv.ParseUint(string(token), 10, 64); err != nil || len(status) != 2 {
		return 0, r, fmt.Errorf("memcached: the server says %q, not to which request", line)
	}
	return id, reply{string(status), bytes.TrimSuffix(value, []byte("\r\n"))}, nil
}
