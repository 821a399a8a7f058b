// Package shipper sends log lines to a syslog server over TLS (RFC 5424 and 5425), on top of plex. Take it as a template.
//
// Syslog has no acknowledgments. A line that was written may still be lost, if the connection breaks or the server ends
// before the server has read it, and nobody learns of it. Nothing is sent twice. Everything else is accounted for: a line
// is written, or Log refuses it, or it is handed back.
package shipper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/message"
)

// Config says where the server is, and who sends.
type Config struct {
	Connect     plex.Connect // such as plex.DialContext(&tls.Dialer{Config: config}, "tcp", "192.0.2.14:6514")
	Connections int          // with one, lines arrive in the order in which they were logged
	App         string       // the name of the program
	Queue       int          // most bytes that wait, while the server is away or slow; 0: 1 MiB

	// HandedBack gets messages that could not be written. maybe says that part of the message was, so the server may
	// have got it. May be nil.
	HandedBack func(message []byte, maybe bool)
}

// Client sends to one server. All methods may be called from any number of goroutines.
type Client struct {
	Config
	header  string // what is between the time and the text
	pool    *plex.Multiplexer
	sender  *message.Sender
	reading sync.WaitGroup
}

// Severity is how bad it is, as in RFC 5424.
type Severity int

// These are the severities, from the worst on.
const (
	Emergency Severity = iota
	Alert
	Critical
	Err
	Warning
	Notice
	Info
	Debug
)

const (
	user    = 1    // the facility
	maxText = 8000 // RFC 5425 has servers take 8192 bytes, and this leaves room for the header
)

// ErrFull is what Log returns if as much waits as Config.Queue allows. The line is the caller's: drop it, or wait by Flush.
var ErrFull = message.ErrFull

// Dial opens the connections. plex replaces those that die.
func Dial(ctx context.Context, config Config) (*Client, error) {
	c := &Client{Config: config}
	host, err := os.Hostname()
	if err != nil || bad(host, 255) {
		host = "-" // which means that it is not known
	}
	if bad(c.App, 48) {
		return nil, fmt.Errorf("syslog: app %q: want a name of at most 48 bytes without blanks", c.App)
	}
	c.header = fmt.Sprintf(" %s %s %d - - ", host, c.App, os.Getpid())
	c.pool, err = plex.New(ctx, plex.WithConnector(c.Connect),
		plex.WithMinConnections(c.Connections), plex.WithMaxCapacity(c.Connections))
	if err != nil {
		return nil, err
	}
	options := []message.SenderOption{message.WithFailed(c.failed)}
	if c.Queue > 0 {
		options = append(options, message.WithQueue(c.Queue))
	}
	if c.sender, err = message.NewSender(c.pool, options...); err != nil {
		return nil, errors.Join(err, c.pool.Close())
	}
	c.reading.Go(c.read)
	return c, nil
}

// bad reports a name that would break the header.
func bad(name string, most int) bool {
	return name == "" || len(name) > most || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' })
}

// Log has a line sent, and returns at once. The error says that it will not be: the text is too long, or ErrFull, or the
// client is closed.
func (c *Client) Log(severity Severity, text string) error {
	if len(text) > maxText || severity < Emergency || severity > Debug {
		return fmt.Errorf("syslog: severity %d, a text of %d bytes: want 0 to 7, and at most %d bytes", severity, len(text), maxText)
	}
	return c.sender.Queue(c.frame(severity, time.Now(), text))
}

// frame is a message behind its length. So a text may have several lines.
func (c *Client) frame(severity Severity, at time.Time, text string) []byte {
	var room [256]byte
	m := fmt.Appendf(room[:0], "<%d>1 ", user*8+severity)
	m = at.AppendFormat(m, "2006-01-02T15:04:05.000000Z07:00")
	m = append(append(m, c.header...), text...)
	return append(fmt.Appendf(make([]byte, 0, 8+len(m)), "%d ", len(m)), m...)
}

// failed gets what the Sender could not write.
func (c *Client) failed(data []byte, err error) {
	if c.HandedBack == nil {
		return
	}
	failed := new(message.SendError)
	maybe := errors.As(err, &failed) && failed.MaybeSent
	_, m, _ := bytes.Cut(data, []byte(" ")) // without the length
	c.HandedBack(m, maybe)
}

// Flush waits until what was logged before is written or handed back.
func (c *Client) Flush(ctx context.Context) error { return c.sender.Flush(ctx) }

// Close writes what waits, and ends the connections so that the server can read all of it. If ctx ends first, what waits
// is handed back.
func (c *Client) Close(ctx context.Context) error {
	err := c.sender.Close(ctx)
	err = errors.Join(err, c.pool.Shutdown(ctx))
	c.reading.Wait()
	return err
}

// Stats says how the connections and the sender are doing.
func (c *Client) Stats() (plex.Stats, message.SenderStats) { return c.pool.Stats(), c.sender.Stats() }

// read reads what comes and drops it. Syslog servers send nothing, but TLS does, and EOF comes this way. On systems where
// plex does not watch idle connections, nobody else would see it.
func (c *Client) read() {
	buffer := make([]byte, 4<<10)
	for {
		r, err := c.pool.ReadyReader(context.Background(), 0)
		if err != nil {
			return // the pool is closed
		}
		_, _ = r.Read(buffer) // plex sees what is wrong with a connection by itself
		_ = r.Close()
	}
}
