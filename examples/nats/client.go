package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/message"
)

// This file, connect.go and protocol.go are all that a program needs: take them as a template.

// Config says where the server is and what to subscribe to.
type Config struct {
	Address     string
	Connections int // that plex keeps open

	Name, User, Password string // what the client says of itself; all may be empty

	// Subscriptions are part of how a connection is prepared, so they are there from the beginning and stay.
	Subscriptions []Subscription

	// Errors gets what goes wrong without being anybody's call: what the server complains about, and connections that
	// broke in the middle of a message. It may be nil, is called by several goroutines, and should return soon.
	Errors func(error)
}

// Subscription is what a client wants to get.
//
// Every connection subscribes, so that messages keep coming while some are being replaced. Were that all, the server
// would deliver each message over each of them. Therefore they do it as a queue group, of which the server picks one
// member for each message: the client gets it once, over any of its connections.
type Subscription struct {
	Subject string // may have wildcards

	// Group is the queue group. If it is empty, the client takes a name that nobody else has, and gets every message.
	// Clients with the same name share the messages.
	Group string

	// Handle gets the messages, which are its own. It is called by several goroutines, for messages of one connection
	// in order, and nothing more is read from that one until it has returned.
	Handle func(Msg)
}

// Client publishes, and receives what it has subscribed to, over a few connections to one NATS server. All methods may
// be called from any number of goroutines.
//
// Like every client of core NATS it delivers at most once. What is on its way when a connection breaks may be lost, and
// nothing is sent twice. Messages that are published one after the other may take two connections and overtake each
// other.
type Client struct {
	config   Config
	mux      *plex.Multiplexer
	receiver *message.Receiver

	maxPayload atomic.Int64
	pongs      atomic.Int64 // that were sent

	cancel    context.CancelFunc
	receiving sync.WaitGroup
	answering sync.WaitGroup
}

// receivers is how many goroutines read, for any number of connections.
const receivers = 4

var (
	pong    = []byte("PONG\r\n")
	buffers = sync.Pool{New: func() any { return new([]byte) }}
)

// NewClient opens the connections and begins to receive. It fails if the server cannot be reached now, or refuses.
func NewClient(ctx context.Context, config Config) (*Client, error) {
	group := "plex-" + rand.Text()
	config.Subscriptions = append([]Subscription(nil), config.Subscriptions...)
	for i := range config.Subscriptions {
		s := &config.Subscriptions[i]
		if s.Group == "" {
			s.Group = group
		}
		err := checkSubject(s.Subject, true)
		if err == nil {
			err = checkWord("queue group", s.Group)
		}
		if err == nil && s.Handle == nil {
			err = errors.New("its Handle is nil, want a function that takes the messages")
		}
		if err != nil {
			return nil, fmt.Errorf("nats: subscription %d: %w", i+1, err)
		}
	}

	c := &Client{config: config}
	mux, err := plex.New(ctx,
		plex.WithConnector(connector(config, func(info serverInfo) { c.maxPayload.Store(info.MaxPayload) })),
		plex.WithMinConnections(config.Connections),
		plex.WithMaxCapacity(config.Connections),
	)
	if err != nil {
		return nil, err
	}
	c.mux = mux

	// A message is as long as the server allows, and its line in addition.
	c.receiver, err = message.New(mux, split, message.WithMaxSize(int(c.maxPayload.Load())+maxLine))
	if err != nil {
		return nil, errors.Join(err, mux.Close())
	}
	receive, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	for range receivers {
		c.receiving.Go(func() { c.receive(receive) })
	}

	return c, nil
}

// Close ends the client. What has arrived and not been handled is dropped, so publish and wait for the last message
// first.
func (c *Client) Close() error {
	c.cancel()
	err := c.mux.Close()
	c.receiving.Wait()
	c.answering.Wait()

	return err
}

// Publish hands one message to the operating system with a single Write, or says why not: a *message.SendError knows
// whether the server may have got it all the same. Other errors are about the message, and then it has not. ctx bounds
// the wait for a connection and the Write. The data is the caller's again when Publish has returned.
func (c *Client) Publish(ctx context.Context, subject string, data []byte) error {
	return c.PublishAll(ctx, Msg{Subject: subject, Data: data})
}

// PublishAll is Publish for several messages, which go out together with one Write and in order. When it fails and the
// error says that something may have been sent, that may be any number of them.
func (c *Client) PublishAll(ctx context.Context, messages ...Msg) error {
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	frames := (*buffer)[:0]
	for _, m := range messages {
		if err := c.check(m); err != nil {
			return fmt.Errorf("nats: publish: %w", err)
		}
		frames = appendPUB(frames, m)
	}
	*buffer = frames
	if len(frames) == 0 {
		return nil
	}

	return message.Send(ctx, c.mux, 0, frames)
}

// check refuses what would cost the connection, and with it what others have on the way.
func (c *Client) check(m Msg) error {
	if most := c.maxPayload.Load(); int64(len(m.Data)) > most {
		return fmt.Errorf("%d bytes of data on %q, where the server takes %d at most", len(m.Data), m.Subject, most)
	}
	if err := checkSubject(m.Subject, false); err != nil {
		return err
	}
	if m.Reply == "" {
		return nil
	}

	return checkSubject(m.Reply, false)
}

// receive takes messages from all connections, those that healing brings as well.
func (c *Client) receive(ctx context.Context) {
	for m, err := range c.receiver.All(ctx) {
		switch {
		case err == nil:
			c.take(m)
		case m.Conn == plex.Conn{}:
			return // ctx or the multiplexer has ended
		default:
			c.report(err)
		}
	}
}

// take does what the server wants.
func (c *Client) take(m message.Message) {
	switch {
	case isMSG(m.Data):
		sid, msg, err := parseMSG(m.Data)
		if err == nil && (sid < 1 || sid > len(c.config.Subscriptions)) {
			err = fmt.Errorf("nats: a message on %q for subscription %d, where there are %d",
				msg.Subject, sid, len(c.config.Subscriptions))
		}
		if err != nil {
			c.outOfStep(m.Conn, err)
			return
		}
		c.config.Subscriptions[sid-1].Handle(msg)
	case string(m.Data) == "PING":
		c.answering.Go(func() { c.answer(m.Conn) })
	case string(m.Data) == "PONG", string(m.Data) == "+OK":
	case bytes.HasPrefix(m.Data, []byte("INFO ")):
		info, err := parseINFO(m.Data)
		if err != nil {
			c.outOfStep(m.Conn, err)
			return
		}
		c.maxPayload.Store(info.MaxPayload)
	default:
		if err := errorLine(m.Data); err != nil {
			c.report(err) // where it is the end of the connection, the server closes it
			return
		}
		c.outOfStep(m.Conn, fmt.Errorf("nats: the server says %.100q, which means nothing", m.Data))
	}
}

// outOfStep has a connection replaced on which nobody knows what comes next.
func (c *Client) outOfStep(conn plex.Conn, err error) {
	c.receiver.Kill(conn)
	c.report(err)
}

func (c *Client) report(err error) {
	if c.config.Errors != nil {
		c.config.Errors(err)
	}
}

// answerWithin is how long it may take to answer a PING. The server closes a connection that leaves two unanswered, which
// by itself it sends two minutes apart.
const answerWithin = 30 * time.Second

// answer sends a PONG over the connection that the PING came over: over another it would answer that one's. There is no
// way to ask plex for a certain writer, but each that it lends says which it is, and whoever asks again gets the one that
// has been idle longest. So after as many leases as there are connections it has been that one's turn, unless
// somebody else was using it.
func (c *Client) answer(conn plex.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
	defer cancel()
	stop := conn.AfterEnd(func(error) { cancel() })
	defer stop()

	for asked := 1; ; asked++ {
		w, err := c.mux.Writer(ctx, 0)
		if err != nil {
			return // the connection is gone, or it is hopeless
		}
		if w.Conn() != conn {
			_ = w.Close() // nothing was written
			if asked%c.config.Connections == 0 {
				pause(ctx, time.Millisecond)
			}
			continue
		}
		_, err = w.Write(pong)
		if err := errors.Join(err, w.Close()); err == nil {
			c.pongs.Add(1)
		}

		return
	}
}

// pause waits, but not for longer than ctx.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
