// Package bus is a client for core NATS on top of plex: it publishes and receives over a few connections. Take it as a
// template. It delivers at most once, as every client of core NATS does: what is on its way when a connection breaks may be
// lost, and nothing is sent twice. Messages that take different connections may overtake each other.
package bus

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/message"
)

// Config says where the server is and what to subscribe to.
type Config struct {
	Address        string
	Connections    int
	User, Password string                            // may be empty
	Subject, Group string                            // to subscribe to; clients with the same Group share the messages, without one each gets all
	Handle         func(subject string, data []byte) // gets the messages, in one of several goroutines
	Errors         func(error)                       // gets what the server complains about, and what became of messages of Queue; may be nil
}

const maxLine = 64 << 10 // more than any line: an INFO that lists a large cluster is the longest
var crlf, pong = []byte("\r\n"), []byte("PONG\r\n")

// Client talks to one NATS server. All methods may be called from any number of goroutines.
type Client struct {
	Config
	pool       *plex.Multiplexer
	sender     *message.Sender
	receiver   *message.Receiver
	working    sync.WaitGroup
	maxPayload atomic.Int64 // most bytes of data that the server takes
}

// Dial opens the connections and begins to receive. Every connection subscribes, as a member of a queue group, of which the
// server picks one for each message. So messages keep coming while some connections are being replaced, and come once.
func Dial(ctx context.Context, config Config) (c *Client, err error) {
	c = &Client{Config: config}
	c.Group = cmp.Or(c.Group, rand.Text())
	if bad(c.Group) || c.Subject != "" && (bad(c.Subject) || c.Handle == nil) {
		return nil, fmt.Errorf("nats: subject %q, group %q: want names without blanks, and a Handle", c.Subject, c.Group)
	}
	c.pool, err = plex.New(ctx, plex.WithConnector(c.connect),
		plex.WithMinConnections(c.Connections), plex.WithMaxCapacity(c.Connections))
	if err != nil {
		return nil, err
	}
	c.receiver, err = message.New(c.pool, split, message.WithMaxSize(int(c.maxPayload.Load())+maxLine))
	if err == nil {
		c.sender, err = message.NewSender(c.pool, message.WithFailed(func(_ []byte, err error) { c.report(err) }))
	}
	if err != nil {
		return nil, errors.Join(err, c.pool.Close())
	}
	for range 4 { // for any number of connections
		c.working.Go(c.receive)
	}
	return c, nil
}

// Close writes what is queued, for five seconds at the most, and ends the client. What has arrived and not been handled is
// dropped.
func (c *Client) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	defer c.working.Wait()
	return errors.Join(c.sender.Close(ctx), c.pool.Close())
}

func (c *Client) Stats() plex.Stats { return c.pool.Stats() }

// Publish hands messages to the operating system, or says why not: a [*message.SendError] knows whether the server may have
// got something all the same. Other errors are about the messages, and then it has not. What several goroutines publish at
// the same time shares a Write.
func (c *Client) Publish(ctx context.Context, subject string, messages ...[]byte) error {
	frames, err := c.encode(subject, messages...)
	if err != nil {
		return err
	}
	return c.sender.Send(ctx, frames)
}

// Queue publishes a message as soon as possible, and does not wait for that. If it cannot be sent, Errors gets a
// [*message.SendError]. The error is [message.ErrFull] if there are too many already.
func (c *Client) Queue(subject string, data []byte) error {
	frame, err := c.encode(subject, data)
	if err != nil {
		return err
	}
	return c.sender.Queue(frame)
}

// encode makes what goes over the wire. It refuses what the server would refuse: that would cost the connection, and others
// have messages on it.
func (c *Client) encode(subject string, messages ...[]byte) (frames []byte, err error) {
	for _, data := range messages {
		if most := c.maxPayload.Load(); bad(subject) || int64(len(data)) > most {
			return nil, fmt.Errorf("nats: %d bytes on %q: want at most %d, and a subject without blanks", len(data), subject, most)
		}
		frames = slices.Grow(frames, len("PUB ")+len(subject)+len(data)+25) // the size has at most 19 digits
		frames = append(append(append(frames, "PUB "...), subject...), ' ')
		frames = append(strconv.AppendInt(frames, int64(len(data)), 10), crlf...)
		frames = append(append(frames, data...), crlf...)
	}
	return frames, nil
}

func (c *Client) report(err error) {
	if err != nil && c.Errors != nil && !errors.Is(err, plex.ErrClosed) {
		c.Errors(err)
	}
}

// bad reports a name that the server would refuse, or take for something else.
func bad(name string) bool {
	return name == "" || len(name) > 1024 || strings.ContainsAny(name, " \t\r\n\x00")
}

// receive takes messages from all connections until the client is closed.
func (c *Client) receive() {
	for m, err := range c.receiver.All(context.Background()) {
		line, data, _ := bytes.Cut(m.Data, crlf)
		words := strings.Fields(string(line))
		switch word, _, _ := strings.Cut(string(line), " "); {
		case err != nil: // what was wrong with a connection, or the client is closed
		case word == "MSG" && len(words) >= 4 && words[2] == "1": // such as MSG orders.new 1 5
			c.Handle(words[1], bytes.TrimSuffix(data, crlf))
		case word == "PING":
			c.working.Go(func() { answer(m.Conn) })
		case word == "INFO":
			err = c.hear(line)
		case word == "-ERR":
			err = fmt.Errorf("nats: the server says %s", line) // and closes the connection if it wants to
		case word != "+OK" && word != "PONG":
			c.receiver.Kill(m.Conn) // nobody knows what comes next on it
			err = fmt.Errorf("nats: the server says %.99q, which means nothing to this client", line)
		}
		c.report(err)
	}
}

// answer answers a PING over the connection that it came over; over another it would answer that one's. It goes ahead of
// those who wait to publish.
func answer(conn plex.Conn) {
	w, err := conn.Writer(context.Background(), 30*time.Second)
	if err != nil {
		return // the connection is gone, or takes nothing
	}
	_, _ = w.Write(pong) // or the connection is gone
	_ = w.Close()
}

// connect makes connections that are all prepared alike: greeted, logged in and subscribed. Healing calls it too. The
// server takes the lines of a connection in order, so whatever it gets from this client finds a subscriber.
func (c *Client) connect(ctx context.Context, conn net.Conn) error {
	if err := plex.Dial("tcp", c.Address)(ctx, conn); err != nil {
		return err
	}
	login, _ := json.Marshal(map[string]any{"verbose": false, "headers": false, "user": c.User, "pass": c.Password})
	for {
		line, err := readLine(conn)
		switch {
		case err != nil:
			return fmt.Errorf("nats: wait for the server's greeting: %w, after %.99q", err, line)
		case bytes.HasPrefix(line, []byte("INFO ")): // the server begins with it
			_, err = fmt.Fprintf(conn, "CONNECT %s\r\nPING\r\n", login)
			err = cmp.Or(c.hear(line), err)
		case string(line) == "PING":
			_, err = conn.Write(pong)
		case string(line) == "PONG": // it has accepted the login
			if c.Subject != "" {
				_, err = fmt.Fprintf(conn, "SUB %s %s 1\r\n", c.Subject, c.Group)
			}
			return err
		default:
			err = fmt.Errorf("nats: the server says %.99q in its greeting", line)
		}
		if err != nil {
			return err
		}
	}
}

// readLine reads a line byte by byte, because messages may be on its heels, and they are for the first lease to read.
func readLine(conn net.Conn) (line []byte, err error) {
	for b := make([]byte, 1); !bytes.HasSuffix(line, crlf); line = append(line, b...) {
		if _, err := io.ReadFull(conn, b); err != nil || len(line) > maxLine {
			return line, cmp.Or(err, errors.New("the line does not end"))
		}
	}
	return bytes.TrimSuffix(line, crlf), nil
}

// hear takes what the client wants to know from an INFO line.
func (c *Client) hear(line []byte) error {
	var info struct {
		MaxPayload int64 `json:"max_payload"`
	}
	err := json.Unmarshal(line[len("INFO "):], &info)
	c.maxPayload.Store(info.MaxPayload)
	return err
}

// split finds the end of a line and, if it is a MSG, of the data behind it.
func split(data []byte, atEOF bool) (advance int, token []byte, err error) {
	advance, line, err := message.Lines(data, atEOF)
	if err != nil || advance == 0 {
		return 0, nil, err
	}
	if bytes.HasPrefix(line, []byte("MSG ")) { // the last word is the size of the data
		size, err := strconv.ParseUint(string(line[bytes.LastIndexByte(line, ' ')+1:]), 10, 30)
		advance += int(size) + len(crlf)
		if err == nil && advance > len(data) {
			return 0, nil, nil // more has to come
		}
		if err != nil || !bytes.HasSuffix(data[:advance], crlf) {
			return 0, nil, fmt.Errorf("nats: the data behind %q does not end where it says", line)
		}
	}
	return advance, data[:advance:advance], nil
}
