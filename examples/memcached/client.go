package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/request"
)

// This file and protocol.go are all that a program needs: take them as a template.

// Client talks to one memcached server, 1.6 or later, with its meta commands. The requests of all callers share a few
// connections: each goes out over whichever is free, with an opaque token of its own that the server repeats, and that
// is how its reply is known.
//
// All methods may be called from any number of goroutines.
//
// What goes wrong on the way is a [*request.Error], whose MaybeSent says whether the server may have got the request.
// Nothing is sent twice. After a Set or a Delete that may have been sent, the key has its old value or its new one.
// It may also be changed a little later: the server still reads what had reached it before a connection broke.
type Client struct {
	mux      *plex.Multiplexer
	requests *request.Client[command, reply]
}

// ErrNotFound is what Get and Delete return for a key that the server does not have.
var ErrNotFound = errors.New("memcached: no such key")

// The limits that memcached has, if it is started without an option that changes them.
const (
	MaxKey   = 250          // bytes
	MaxValue = 1<<20 - 1024 // bytes; an item is at most 1 MiB, with its key and what memcached remembers about it
)

// NewClient opens so many connections to the server at address, which plex keeps open from then on. It fails if the
// server cannot be reached now, or is too old.
func NewClient(ctx context.Context, address string, connections int) (*Client, error) {
	mux, err := plex.New(ctx,
		plex.WithConnector(connect(address)),
		plex.WithMinConnections(connections),
		plex.WithMaxCapacity(connections),
	)
	if err != nil {
		return nil, err
	}

	requests, err := request.New(mux, protocol{}) // ids have 64 bits, so that none is ever used again
	if err != nil {
		return nil, errors.Join(err, mux.Close())
	}

	return &Client{mux: mux, requests: requests}, nil
}

// Close fails the requests that are in flight, and closes the connections.
func (c *Client) Close() error { return errors.Join(c.requests.Close(), c.mux.Close()) }

// Get returns the value of a key, which is the caller's, or ErrNotFound.
func (c *Client) Get(ctx context.Context, key string) ([]byte, error) {
	r, err := c.do(ctx, command{name: "mg", key: key})
	switch {
	case err != nil:
		return nil, err
	case r.status == "VA":
		return r.value, nil
	case r.status == "EN":
		return nil, ErrNotFound
	default:
		return nil, unexpected("Get", key, r)
	}
}

// Set gives a key a value, for ttl, or for as long as there is room if ttl is zero. memcached counts in seconds; parts
// of one count as a whole. The value is the caller's again when Set has returned.
func (c *Client) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	expires, err := expiry(ttl, time.Now())
	if err != nil {
		return fmt.Errorf("memcached: Set %q: %w", key, err)
	}
	if len(value) > MaxValue {
		return fmt.Errorf("memcached: Set %q: a value of %d bytes, want at most %d", key, len(value), MaxValue)
	}

	r, err := c.do(ctx, command{name: "ms", key: key, value: value, expires: expires})
	switch {
	case err != nil:
		return err
	case r.status == "HD":
		return nil
	default:
		return unexpected("Set", key, r)
	}
}

// Delete removes a key. ErrNotFound says that there was none.
func (c *Client) Delete(ctx context.Context, key string) error {
	r, err := c.do(ctx, command{name: "md", key: key})
	switch {
	case err != nil:
		return err
	case r.status == "HD":
		return nil
	case r.status == "NF":
		return ErrNotFound
	default:
		return unexpected("Delete", key, r)
	}
}

func (c *Client) do(ctx context.Context, cmd command) (reply, error) {
	if err := checkKey(cmd.key); err != nil {
		return reply{}, err
	}

	return c.requests.Do(ctx, cmd)
}

func unexpected(method, key string, r reply) error {
	return fmt.Errorf("memcached: %s %q: the server answers %s", method, key, r.status)
}

// checkKey refuses what the server would refuse, because the server's refusal would not say what it is about; and what
// it would take for the end of the key.
func checkKey(key string) error {
	if len(key) == 0 || len(key) > MaxKey {
		return fmt.Errorf("memcached: a key of %d bytes, want 1 to %d", len(key), MaxKey)
	}
	for i := range len(key) {
		if key[i] <= ' ' || key[i] == 0x7f {
			return fmt.Errorf("memcached: the key %q has byte %#x, want no blanks and no control characters", key, key[i])
		}
	}

	return nil
}

// expiry is what memcached is told for a time to live. Above 30 days it takes the number for a date.
func expiry(ttl time.Duration, now time.Time) (int64, error) {
	const month = 30 * 24 * time.Hour
	if ttl < 0 {
		return 0, fmt.Errorf("a time to live of %v, want none (0) or more", ttl)
	}
	seconds := int64(math.Ceil(ttl.Seconds()))
	if ttl > month {
		seconds += now.Unix()
	}

	return seconds, nil
}
