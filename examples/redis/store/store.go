// Package store is a client for Redis, 6 or later, on top of plex. Take it as a template.
//
// Redis answers in the order of the commands and has no identifiers, so package request keeps the order: the commands of
// all callers share a few connections, where many wait for their replies at once. What belongs to one connection gets one
// for itself: a transaction for as long as it takes, a subscription for as long as it lives.
package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/message"
	"go.atomizer.io/plex/request"
)

// Client talks to one Redis server. All methods may be called from any number of goroutines.
//
// A command that fails on the way is a [*request.Error], which says whether it may have been executed. Nothing is sent
// twice. What the server says against a command is an [Error].
type Client struct {
	connect  plex.Connect
	pool     *plex.Multiplexer
	requests *request.Client[[]string, Value]
}

// ErrNotFound is what Get returns for a key that the server does not have.
var ErrNotFound = errors.New("redis: no such key")

// MaxReply is the length of the longest reply in bytes. A longer one costs its connection.
const MaxReply = 16 << 20

// Dial opens so many connections to the server. plex replaces those that die.
func Dial(ctx context.Context, network, address string, connections int) (*Client, error) {
	c := &Client{connect: plex.Dial(network, address)}
	hello := func(ctx context.Context, conn net.Conn) error { return c.hello(ctx, conn) }
	var err error
	c.pool, c.requests, err = open(ctx, hello, connections, nil)
	return c, err
}

// open makes a pool and a client for its connections.
func open(ctx context.Context, connect plex.Connect, connections int, push func(message.Message)) (*plex.Multiplexer, *request.Client[[]string, Value], error) {
	pool, err := plex.New(ctx, plex.WithConnector(connect),
		plex.WithMinConnections(connections), plex.WithMaxCapacity(connections))
	if err != nil {
		return nil, nil, err
	}
	options := []request.Option{request.WithMaxSize(MaxReply)}
	if push != nil {
		options = append(options, request.WithUnsolicited(push))
	}
	requests, err := request.NewOrdered(pool, protocol{}, options...)
	if err != nil {
		return nil, nil, errors.Join(err, pool.Close())
	}
	return pool, requests, nil
}

// Close fails the commands that are in flight, and closes the connections. Subscriptions have their own Close.
func (c *Client) Close() error { return errors.Join(c.requests.Close(), c.pool.Close()) }

// Stats says how the connections and the requests are doing.
func (c *Client) Stats() (plex.Stats, request.Stats) { return c.pool.Stats(), c.requests.Stats() }

// Get returns the value of a key, or ErrNotFound.
func (c *Client) Get(ctx context.Context, key string) (string, error) {
	v, err := c.Do(ctx, "GET", key)
	if err == nil && v.Null() {
		err = ErrNotFound
	}
	return v.Text, err
}

// Set gives a key a value for ttl, or for ever if ttl is zero.
func (c *Client) Set(ctx context.Context, key, value string, ttl time.Duration) error {
	command := []string{"SET", key, value}
	if ttl > 0 {
		command = append(command, "PX", fmt.Sprint(max(1, ttl.Milliseconds())))
	}
	_, err := c.Do(ctx, command...)
	return err
}

// Do executes a command, and returns its reply. Commands that block, that change the connection for whoever uses it next,
// or whose reply is no reply, are refused.
func (c *Client) Do(ctx context.Context, command ...string) (Value, error) {
	if len(command) == 0 || ofConnection[strings.ToUpper(command[0])] {
		return Value{}, fmt.Errorf("redis: %.99q cannot share a connection", command)
	}
	return checked(c.requests.Do(ctx, command))
}

// ofConnection are the commands that Do refuses by their name. It cannot refuse everything: CLIENT REPLY and XREAD with
// BLOCK, for example, are left to the caller's good sense.
var ofConnection = map[string]bool{
	"SUBSCRIBE": true, "PSUBSCRIBE": true, "SSUBSCRIBE": true, "UNSUBSCRIBE": true, "PUNSUBSCRIBE": true, "SUNSUBSCRIBE": true,
	"MONITOR": true, "SYNC": true, "PSYNC": true, "QUIT": true, "RESET": true, "HELLO": true, "AUTH": true, "SELECT": true,
	"MULTI": true, "EXEC": true, "DISCARD": true, "WATCH": true, "UNWATCH": true, "BLPOP": true, "BRPOP": true, "BLMOVE": true,
	"BRPOPLPUSH": true, "BLMPOP": true, "BZMPOP": true, "BZPOPMIN": true, "BZPOPMAX": true, "WAIT": true, "WAITAOF": true,
}

// Update replaces the value of a key by what change makes of it, in a transaction: nobody else changes the key between.
// The value is empty if there is none. change may be called several times. After an error that says that it may have been
// sent, the key has its old value or its new one.
func (c *Client) Update(ctx context.Context, key string, change func(old string) (string, error)) error {
	for {
		if done, err := c.tryUpdate(ctx, key, change); done || err != nil {
			return err
		}
	}
}

// tryUpdate reports false if somebody else was faster.
func (c *Client) tryUpdate(ctx context.Context, key string, change func(string) (string, error)) (done bool, err error) {
	s, err := c.requests.Session(ctx)
	if err != nil {
		return false, err
	}
	defer func() {
		if err != nil {
			_ = s.Kill() // so the server forgets what was begun
		} else {
			_ = s.Close() // EXEC has ended everything, so the connection is as it was; if it is lost by now, it is replaced
		}
	}()
	if _, err = checked(s.Do(ctx, []string{"WATCH", key})); err != nil {
		return false, err
	}
	old, err := checked(s.Do(ctx, []string{"GET", key}))
	if err != nil {
		return false, err
	}
	value, err := change(old.Text)
	if err != nil {
		return false, err
	}
	for _, command := range [][]string{{"MULTI"}, {"SET", key, value}} {
		if _, err := checked(s.Do(ctx, command)); err != nil {
			return false, err
		}
	}
	result, err := checked(s.Do(ctx, []string{"EXEC"}))
	return !result.Null(), err
}

// Subscription hears what is published, over a connection of its own, because the server counts connections, and sends
// each a message once. What is published while that connection is being replaced is lost: Redis keeps nothing.
type Subscription struct {
	pool     *plex.Multiplexer
	requests *request.Client[[]string, Value]
}

// Subscribe hears messages on these channels from now on. hear gets them in the order in which they come, in a goroutine
// that reads nothing else meanwhile.
func (c *Client) Subscribe(ctx context.Context, hear func(channel, data string), channels ...string) (*Subscription, error) {
	// The connector subscribes, so that a connection that replaces another does as well.
	connect := func(ctx context.Context, conn net.Conn) error {
		if err := c.hello(ctx, conn); err != nil {
			return err
		}
		_, err := exchange(conn, len(channels), append([]string{"SUBSCRIBE"}, channels...))
		return err
	}
	s := new(Subscription)
	var err error
	s.pool, s.requests, err = open(ctx, connect, 1, func(m message.Message) {
		// Such as >3 message channel data. Others say that a subscription has begun or ended.
		if v, err := parse(m.Data); err == nil && len(v.Items) == 3 && v.Items[0].Text == "message" {
			hear(v.Items[1].Text, v.Items[2].Text)
		}
	})
	return s, err
}

// Ping finds out whether the subscription's connection lives. In RESP3 commands and messages share it.
func (s *Subscription) Ping(ctx context.Context) error {
	_, err := checked(s.requests.Do(ctx, []string{"PING"}))
	return err
}

// Stats says how the subscription's connection and its requests are doing.
func (s *Subscription) Stats() (plex.Stats, request.Stats) { return s.pool.Stats(), s.requests.Stats() }

// Close ends the subscription. Messages that have come and are not yet heard are dropped.
func (s *Subscription) Close() error { return errors.Join(s.requests.Close(), s.pool.Close()) }

// hello makes a connection and switches it to RESP3. AUTH and SELECT would go here.
func (c *Client) hello(ctx context.Context, conn net.Conn) error {
	if err := c.connect(ctx, conn); err != nil {
		return err
	}
	_, err := exchange(conn, 1, []string{"HELLO", "3"})
	return err
}

// exchange sends a command over a connection that nobody else has yet, and returns the last of so many replies. It reads
// byte by byte, because messages may follow at once, and those are for the first lease to read.
func exchange(conn net.Conn, replies int, command []string) (v Value, err error) {
	frame, _ := protocol{}.Append(nil, command)
	if _, err := conn.Write(frame); err != nil {
		return v, err
	}
	var data []byte
	for b := make([]byte, 1); replies > 0; {
		if _, err := io.ReadFull(conn, b); err != nil {
			return v, err
		}
		data = append(data, b...)
		end, _, err := protocol{}.Split(data, false)
		if err == nil && len(data) > maxLine {
			err = fmt.Errorf("redis: the reply to %s does not end", command[0])
		}
		if err == nil && end > 0 {
			v, err = checked(parse(data))
			data, replies = data[:0], replies-1
		}
		if err != nil {
			return v, err
		}
	}
	return v, nil
}

// checked makes an error of what the server says against a command.
func checked(v Value, err error) (Value, error) {
	if err == nil && (v.Kind == '-' || v.Kind == '!') {
		return Value{}, Error(v.Text)
	}
	return v, err
}

// Error is what the server says against a command, such as "WRONGTYPE Operation against ...".
type Error string

func (e Error) Error() string { return "redis: the server says " + string(e) }
