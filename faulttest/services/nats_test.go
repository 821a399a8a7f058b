package services

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex/examples/nats/bus"
	"go.atomizer.io/plex/faulttest/proxy"
	"go.atomizer.io/plex/message"
)

// broker is nats-server in this process. It can go away and come back on the same port.
type broker struct {
	t       *testing.T
	options server.Options
	running *server.Server // nil while it is down
}

// natsServer starts a server until the test ends.
func natsServer(t *testing.T, configure func(*server.Options)) *broker {
	t.Helper()
	host, port := freeAddress(t)
	b := &broker{t: t, options: server.Options{Host: host, Port: port, NoLog: true, NoSigs: true}}
	if configure != nil {
		configure(&b.options)
	}
	b.up()
	t.Cleanup(b.down)
	return b
}

func (b *broker) addr() string { return fmt.Sprintf("%s:%d", b.options.Host, b.options.Port) }

func (b *broker) up() {
	b.t.Helper()
	options := b.options // the server writes into what it is given
	running, err := server.NewServer(&options)
	require.NoError(b.t, err)
	running.Start()
	require.True(b.t, running.ReadyForConnections(patience))
	b.running = running
}

func (b *broker) down() {
	if b.running != nil {
		b.running.Shutdown()
		b.running.WaitForShutdown()
	}
	b.running = nil
}

// conns is what the server says of its connections.
func (b *broker) conns() []*server.ConnInfo {
	b.t.Helper()
	all, err := b.running.Connz(&server.ConnzOptions{Subscriptions: true})
	require.NoError(b.t, err)
	return all.Conns
}

// inbox takes messages and errors.
type inbox struct {
	mu       sync.Mutex
	messages []string // subject, blank, data
	errs     []error
}

func (b *inbox) take(subject string, data []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.messages = append(b.messages, subject+" "+string(data))
}

func (b *inbox) report(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.errs = append(b.errs, err)
}

func (b *inbox) len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.messages)
}

// has waits for so many messages and returns all that have come.
func (b *inbox) has(t *testing.T, n int) []string {
	t.Helper()
	eventually(t, "messages", func() bool { return b.len() >= n })
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.messages...)
}

// hasError waits for an error and returns the first.
func (b *inbox) hasError(t *testing.T) (err error) {
	t.Helper()
	eventually(t, "an error", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.errs) > 0 {
			err = b.errs[0]
		}
		return err != nil
	})
	return err
}

// dialNATS makes a client, which has nothing left when the test ends.
func dialNATS(t *testing.T, config bus.Config) *bus.Client {
	t.Helper()
	client, err := bus.Dial(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, client.Close())
		stats := client.Stats()
		require.Zero(t, stats.Open+stats.LeasedReaders+stats.LeasedWriters)
	})
	return client
}

func TestNATSWhatIsPublishedIsReceived(t *testing.T) {
	balance(t)
	s := natsServer(t, nil)
	var in inbox
	client := dialNATS(t, bus.Config{Address: s.addr(), Connections: 3, Errors: in.report, Subject: "test.>", Handle: in.take})
	for i, data := range []string{
		"hello", "", "\r\n", "PING\r\n", "MSG test.x 1 5\r\nhello\r\n", strings.Repeat("\x00\r\n\xff", 5000),
		strings.Repeat("x", 1<<20), // as much as a server takes by itself
	} {
		require.NoError(t, client.Publish(within(t), "test.data", []byte(data)))
		got := in.has(t, i+1)
		require.Len(t, got, i+1)
		require.True(t, got[i] == "test.data "+data, "message %d has become %.60q", i+1, got[i])
	}
	require.Empty(t, in.errs)
	require.Zero(t, client.Stats().Lost)
}

// Each connection is subscribed, each message comes over one of them, and all take part, says the server's own count.
func TestNATSEachMessageComesOnce(t *testing.T) {
	balance(t)
	s := natsServer(t, nil)
	const n, publishing = 2000, 8
	var in inbox
	client := dialNATS(t, bus.Config{Address: s.addr(), Connections: 4, Subject: "n", Handle: in.take})
	var publishers sync.WaitGroup
	for p := range publishing {
		publishers.Go(func() {
			for i := p; i < n; i += publishing {
				if err := client.Publish(within(t), "n", fmt.Append(nil, i)); err != nil {
					t.Errorf("message %d: %v", i, err)
				}
			}
		})
	}
	publishers.Wait()
	seen := make(map[string]bool)
	for _, m := range in.has(t, n) {
		require.False(t, seen[m], m)
		seen[m] = true
	}
	require.Len(t, seen, n)
	delivered := 0
	for _, conn := range s.conns() {
		require.Equal(t, []string{"n"}, conn.Subs)
		require.Positive(t, conn.OutMsgs)
		delivered += int(conn.OutMsgs)
	}
	require.Equal(t, n, delivered)
}

// Whether clients get the same messages or share them is for the name of the group to say.
func TestNATSGroups(t *testing.T) {
	balance(t)
	s := natsServer(t, nil)
	const n = 200
	var each, shared [2]inbox
	for i := range 2 {
		dialNATS(t, bus.Config{Address: s.addr(), Connections: 3, Subject: "n", Handle: each[i].take})
		dialNATS(t, bus.Config{Address: s.addr(), Connections: 3, Subject: "n", Group: "workers", Handle: shared[i].take})
	}
	nc := natsGo(t, s.addr())
	for range n {
		require.NoError(t, nc.Publish("n", []byte("x")))
	}
	require.Len(t, each[0].has(t, n), n)
	require.Len(t, each[1].has(t, n), n)
	eventually(t, "shared messages", func() bool { return shared[0].len()+shared[1].len() >= n })
	require.Equal(t, n, shared[0].len()+shared[1].len())
	require.Positive(t, shared[0].len())
	require.Positive(t, shared[1].len())
}

// natsGo connects the client that everybody uses.
func natsGo(t *testing.T, address string) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect("nats://" + address)
	require.NoError(t, err)
	t.Cleanup(func() {
		nc.Close()
		eventually(t, "the end of nats.go", func() bool { return nc.IsClosed() })
	})
	return nc
}

// The client that everybody uses understands this one, and the other way round; also its reply subjects, which this one
// has no use for, and headers, which the server leaves out for it.
func TestNATSGoUnderstands(t *testing.T) {
	balance(t)
	s := natsServer(t, nil)
	var in inbox
	client := dialNATS(t, bus.Config{Address: s.addr(), Connections: 2, Errors: in.report, Subject: "to.plex.*", Handle: in.take})
	nc := natsGo(t, s.addr())
	sub, err := nc.SubscribeSync("from.plex.*")
	require.NoError(t, err)
	require.NoError(t, nc.Flush())
	require.NoError(t, client.Publish(within(t), "from.plex.1", []byte("one"), []byte("two\r\n")))
	for _, want := range []string{"one", "two\r\n"} {
		got, err := sub.NextMsgWithContext(within(t))
		require.NoError(t, err)
		require.Equal(t, "from.plex.1", got.Subject)
		require.Equal(t, want, string(got.Data))
	}
	require.NoError(t, nc.PublishRequest("to.plex.1", "to.nobody", []byte("MSG")))
	with := nats.NewMsg("to.plex.2")
	with.Header.Set("key", "value")
	with.Data = []byte("data")
	require.NoError(t, nc.PublishMsg(with))
	require.ElementsMatch(t, []string{"to.plex.1 MSG", "to.plex.2 data"}, in.has(t, 2))
	require.Empty(t, in.errs)
}

// What the server would answer by closing the connection, on which others have messages, never gets there.
func TestNATSMessagesThatCannotWorkAreRefused(t *testing.T) {
	balance(t)
	s := natsServer(t, func(o *server.Options) { o.MaxPayload = 100 })
	client := dialNATS(t, bus.Config{Address: s.addr(), Connections: 1})
	require.EqualError(t, client.Publish(within(t), "a", nil, make([]byte, 101)),
		`nats: 101 bytes on "a": want at most 100, and a subject without blanks`)
	require.ErrorContains(t, client.Publish(within(t), "a 1\r\nx\r\nPUB b", nil), "a subject without blanks")
	require.NoError(t, client.Publish(within(t), "a", make([]byte, 100)))
	eventually(t, "the one message that was published", func() bool { return s.conns()[0].InMsgs == 1 })
	require.Zero(t, client.Stats().Lost)

	for _, config := range []bus.Config{
		{Subject: "a b", Handle: func(string, []byte) {}}, {Subject: "a", Group: "a b", Handle: func(string, []byte) {}}, {Subject: "a"},
	} {
		config.Address, config.Connections = s.addr(), 1
		_, err := bus.Dial(within(t), config)
		require.ErrorContains(t, err, "want names without blanks, and a Handle")
	}
}

// Without a connection nothing is sent, and the error says so, and why.
func TestNATSPublishWithoutAServer(t *testing.T) {
	balance(t)
	s := natsServer(t, nil)
	client := dialNATS(t, bus.Config{Address: s.addr(), Connections: 2})
	s.down()
	eventually(t, "the end of the connections", func() bool { return client.Stats().Open == 0 })
	eventually(t, "a failed connect", func() bool { return client.Stats().ConnectFailed > 0 })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := client.Publish(ctx, "a", nil)
	failed := new(message.SendError)
	require.ErrorAs(t, err, &failed)
	require.False(t, failed.MaybeSent)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// What the server complains about, and does not close the connection for, is told; and nothing else changes.
func TestNATSComplaintsAreTold(t *testing.T) {
	balance(t)
	s := natsServer(t, func(o *server.Options) {
		o.Users = []*server.User{{Username: "plex", Password: "secret", Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Deny: []string{"forbidden"}},
		}}}
	})
	var in inbox
	client := dialNATS(t, bus.Config{
		Address: s.addr(), Connections: 1, User: "plex", Password: "secret", Errors: in.report, Subject: "*", Handle: in.take,
	})
	require.NoError(t, client.Publish(within(t), "forbidden", nil))
	require.NoError(t, client.Publish(within(t), "allowed", nil))
	require.Equal(t, []string{"allowed "}, in.has(t, 1))
	require.ErrorContains(t, in.hasError(t), `Permissions Violation for Publish to "forbidden"`)
	require.Zero(t, client.Stats().Lost)
}

func TestNATSServersThatRefuse(t *testing.T) {
	balance(t)
	s := natsServer(t, func(o *server.Options) { o.Username, o.Password, o.MaxConn = "plex", "secret", 2 })
	_, err := bus.Dial(within(t), bus.Config{Address: s.addr(), Connections: 1, User: "plex", Password: "wrong"})
	require.ErrorContains(t, err, "Authorization Violation")
	// A server with too many connections says so before anything else.
	_, err = bus.Dial(within(t), bus.Config{Address: s.addr(), Connections: 3, User: "plex", Password: "secret"})
	require.ErrorContains(t, err, "maximum connections exceeded")
	eventually(t, "room", func() bool { return s.running.NumClients() == 0 })
	dialNATS(t, bus.Config{Address: s.addr(), Connections: 2, User: "plex", Password: "secret"})
}

// scriptedNATS is a server that does to each connection as it is told. It is for what the real one does not do on demand.
func scriptedNATS(t *testing.T, serve func(conn *net.TCPConn, lines *bufio.Scanner)) (address string) {
	return answering(t, func(conn *net.TCPConn) { serve(conn, bufio.NewScanner(conn)) })
}

const infoLine = `INFO {"server_id":"script","version":"1","max_payload":1000}` + "\r\n"

// welcome is what a server says and hears until the subscription comes.
func welcome(conn net.Conn, lines *bufio.Scanner) bool {
	if _, err := io.WriteString(conn, infoLine); err != nil {
		return false
	}
	for lines.Scan() {
		if lines.Text() == "PING" {
			_, err := io.WriteString(conn, "PONG\r\n")
			return err == nil
		}
	}
	return false
}

func TestNATSServersThatAreNone(t *testing.T) {
	for answer, says := range map[string]string{
		"HTTP/1.1 400 Bad Request\r\n": `the server says "HTTP/1.1 400 Bad Request" in its greeting`,
		"":                             "wait for the server's greeting: EOF",
		"INFO {\"server":               "wait for the server's greeting: EOF, after \"INFO",
		"INFO {}\r\n":                  "wait for the server's greeting: EOF",
		"INFO {\r\n":                   "unexpected end of JSON input",
		"INFO {}\r\nHELLO\r\n":         `the server says "HELLO" in its greeting`,
		strings.Repeat("x", 66_000):    "the line does not end",
	} {
		t.Run(says, func(t *testing.T) {
			balance(t)
			address := scriptedNATS(t, func(conn *net.TCPConn, _ *bufio.Scanner) {
				_, _ = io.WriteString(conn, answer)
				_ = conn.CloseWrite()
				_, _ = io.Copy(io.Discard, conn) // else a reset could take away what was sent
			})
			_, err := bus.Dial(within(t), bus.Config{Address: address, Connections: 1})
			require.ErrorContains(t, err, says)
		})
	}
}

// A server that says nothing holds nobody up for longer than the context allows.
func TestNATSServerThatSaysNothing(t *testing.T) {
	balance(t)
	address := scriptedNATS(t, func(conn *net.TCPConn, _ *bufio.Scanner) { _, _ = io.Copy(io.Discard, conn) })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := bus.Dial(ctx, bus.Config{Address: address, Connections: 1})
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// What comes right behind the PONG of the greeting is for the first lease, and not lost on the greeting. A PING and an
// INFO may be in between.
func TestNATSMessagesOnTheHeelsOfTheGreeting(t *testing.T) {
	balance(t)
	var in inbox
	answered := make(chan string, 10)
	address := scriptedNATS(t, func(conn *net.TCPConn, lines *bufio.Scanner) {
		_, _ = io.WriteString(conn, infoLine)
		for lines.Scan() && lines.Text() != "PING" {
		}
		_, _ = io.WriteString(conn, "PING\r\nPONG\r\nMSG a 1 2\r\nhi\r\n")
		for lines.Scan() {
			answered <- lines.Text()
		}
	})
	dialNATS(t, bus.Config{Address: address, Connections: 1, Subject: "a", Group: "group", Handle: in.take})
	require.Equal(t, []string{"a hi"}, in.has(t, 1))
	require.Equal(t, "PONG", receive(t, "an answer", answered))
	require.Equal(t, "SUB a group 1", receive(t, "the subscription", answered))
}

// The server pings each connection and closes those that do not answer.
func TestNATSPingsAreAnswered(t *testing.T) {
	balance(t)
	s := natsServer(t, func(o *server.Options) { o.PingInterval, o.MaxPingsOut = 20*time.Millisecond, 500 })
	way := passing(t, proxy.Config{Backend: s.addr()})
	client := dialNATS(t, bus.Config{Address: way.Addr(), Connections: 4})
	eventually(t, "connections", func() bool { return way.Open() == 4 })
	for _, conn := range way.Conns() {
		before := conn.Passed(proxy.Up)
		eventually(t, "answers", func() bool { return conn.Passed(proxy.Up) >= before+20*uint64(len("PONG\r\n")) })
	}
	require.Zero(t, client.Stats().Lost, "connections that the server has closed")
}

// A PONG over another connection would say that that one is alive.
func TestNATSPingsAreAnsweredOverTheSameConnection(t *testing.T) {
	balance(t)
	const connections, pings = 5, 50
	conns := make(chan net.Conn, connections)
	heard := make(chan net.Conn) // what a PONG came over
	address := scriptedNATS(t, func(conn *net.TCPConn, lines *bufio.Scanner) {
		if !welcome(conn, lines) {
			return
		}
		conns <- conn
		for lines.Scan() {
			if lines.Text() == "PONG" {
				heard <- conn
			}
		}
	})
	client := dialNATS(t, bus.Config{Address: address, Connections: connections})

	// Others use the connections all the time.
	ctx, cancel := context.WithCancel(t.Context())
	var publishing sync.WaitGroup
	for range 2 * connections {
		publishing.Go(func() {
			for ctx.Err() == nil {
				if err := client.Publish(ctx, "a", []byte("x")); err != nil && ctx.Err() == nil {
					t.Errorf("publish: %v", err)
				}
			}
		})
	}
	for i := range pings {
		conn := receive(t, "a connection", conns)
		_, err := io.WriteString(conn, "PING\r\n")
		require.NoError(t, err)
		require.Equal(t, conn, receive(t, "an answer", heard), "ping %d", i)
		conns <- conn
	}
	cancel()
	publishing.Wait()
}

// On a connection that says what makes no sense, nobody knows what comes next. It is replaced, and the others go on.
func TestNATSNonsenseCostsItsConnection(t *testing.T) {
	for nonsense, says := range map[string]string{
		"WHAT\r\n":                   `the server says "WHAT"`,
		"MSG a 1 x\r\n":              "does not end where it says",
		"MSG a 7 1\r\nx\r\n":         `the server says "MSG a 7 1"`,
		"MSG a 1\r\nx\r\n":           `the server says "MSG a 1"`,
		"MSG a 1 2000\r\nunfinished": "cut off after 24 bytes",
	} {
		t.Run(says, func(t *testing.T) {
			balance(t)
			var in inbox
			first := make(chan struct{}, 1)
			first <- struct{}{}
			address := scriptedNATS(t, func(conn *net.TCPConn, lines *bufio.Scanner) {
				if !welcome(conn, lines) {
					return
				}
				select {
				case <-first:
					_, _ = io.WriteString(conn, nonsense)
					if !strings.HasSuffix(nonsense, "\r\n") { // else it is for the client to end the connection
						_ = conn.CloseWrite()
					}
				default:
					_, _ = io.WriteString(conn, "MSG a 1 5\r\nright\r\n")
				}
				_, _ = io.Copy(io.Discard, conn)
			})
			client := dialNATS(t, bus.Config{Address: address, Connections: 1, Errors: in.report, Subject: "a", Handle: in.take})
			require.ErrorContains(t, in.hasError(t), says)
			require.Equal(t, []string{"a right"}, in.has(t, 1))
			require.EqualValues(t, 1, client.Stats().Lost)
		})
	}
}

// An INFO can change how much the server takes.
func TestNATSNewsOfTheServer(t *testing.T) {
	balance(t)
	address := scriptedNATS(t, func(conn *net.TCPConn, lines *bufio.Scanner) {
		if welcome(conn, lines) {
			_, _ = io.WriteString(conn, "INFO {\"max_payload\":5}\r\n")
			_, _ = io.Copy(io.Discard, conn)
		}
	})
	client := dialNATS(t, bus.Config{Address: address, Connections: 1})
	eventually(t, "news", func() bool { return client.Publish(within(t), "a", make([]byte, 6)) != nil })
	require.ErrorContains(t, client.Publish(within(t), "a", make([]byte, 6)), "want at most 5")
}

// payload is the data of message number n: the number, and bytes that follow from it, of which there are so many that
// \r\n comes up among them too.
func payload(n uint64) []byte {
	data := binary.BigEndian.AppendUint64(nil, n)
	for i := range n % 300 {
		data = append(data, byte(n+i))
	}
	return append(data, "\r\n"[:n%3]...)
}

// journal is goroutines that publish all the time, and the book of what became of each message.
type journal struct {
	client *bus.Client
	broker *broker

	mu       sync.Mutex
	calm     bool // nothing is broken
	messages []entry
	wrong    error // the first arrival of what nobody has published
	last     error // the last failure
}

// entry is what became of one message.
type entry struct {
	calm     bool // it was begun while nothing was broken, and nothing was until it had arrived
	ended    bool // Publish has returned
	err      error
	arrivals int
}

// unsent reports a message that the server cannot have got, says Publish.
func (e entry) unsent() bool {
	failed, ok := e.err.(*message.SendError)
	return ok && !failed.MaybeSent
}

// newJournal makes a client that is subscribed to what it is going to publish.
func newJournal(t *testing.T, s *broker, address string) *journal {
	j := &journal{broker: s}
	j.client = dialNATS(t, bus.Config{Address: address, Connections: 4, Subject: "plex.numbers", Handle: j.arrive})
	return j
}

func (j *journal) arrive(_ string, data []byte) {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := binary.BigEndian.Uint64(append(data, make([]byte, 8)...))
	if n < uint64(len(j.messages)) && string(payload(n)) == string(data) {
		j.messages[n].arrivals++
	} else if j.wrong == nil {
		j.wrong = fmt.Errorf("nobody has published %.60q", data)
	}
}

// publish publishes one message. Its context is its own, so that the end of the test breaks nothing off. While something
// is broken it does not wait long.
func (j *journal) publish() {
	within := 300 * time.Millisecond
	j.mu.Lock()
	n := len(j.messages)
	j.messages = append(j.messages, entry{calm: j.calm})
	if j.calm {
		within = patience
	}
	j.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	err := j.client.Publish(ctx, "plex.numbers", payload(uint64(n)))
	j.mu.Lock()
	defer j.mu.Unlock()
	j.messages[n].ended, j.messages[n].err = true, err
	if err != nil {
		j.last = err
	}
}

// count counts messages.
func (j *journal) count(which func(entry) bool) (n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, e := range j.messages {
		if which(e) {
			n++
		}
	}
	return n
}

// quiet waits until nothing that was broken can cost a message any more: all connections are there, in the server's eyes
// too, so that it delivers to none that is gone. From then on every message has to arrive, and some do.
func (j *journal) quiet(t *testing.T) {
	t.Helper()
	looks := 0 // in a row: both sides may not have noticed yet that a connection is gone
	eventually(t, "all connections", func() bool {
		if looks++; j.client.Stats().Open != 4 || j.broker.running.NumClients() != 4 {
			looks = 0
		}
		return looks > 50
	})
	before := j.count(func(e entry) bool { return e.calm })
	j.mu.Lock()
	j.calm = true
	j.mu.Unlock()
	eventually(t, "messages", func() bool { return j.count(func(e entry) bool { return e.calm && e.arrivals > 0 }) > before+200 })
}

// damage waits until all messages of the quiet time have arrived, so that those that follow can be told from them.
func (j *journal) damage(t *testing.T) {
	t.Helper()
	j.mu.Lock()
	j.calm = false
	j.mu.Unlock()
	j.settled(t)
}

// settled waits for the messages of the quiet times.
func (j *journal) settled(t *testing.T) {
	t.Helper()
	eventually(t, "the messages of the quiet time", func() bool {
		return j.count(func(e entry) bool { return e.calm && (!e.ended || e.err != nil || e.arrivals == 0) }) == 0
	})
}

// endure publishes while damage is done, and audits the book.
func (j *journal) endure(t *testing.T, damage func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var publishing sync.WaitGroup
	for range 16 {
		publishing.Go(func() {
			for ; ctx.Err() == nil; time.Sleep(time.Millisecond) {
				j.publish()
			}
		})
	}
	defer publishing.Wait() // also if something has failed
	defer cancel()
	j.quiet(t)
	j.damage(t)
	damage()
	j.quiet(t)
	cancel()
	publishing.Wait()
	j.settled(t)

	stats := j.client.Stats()
	t.Logf("%d messages, %d failed, %d did not arrive; %d connections lost, %d healed; the last failure: %v",
		len(j.messages), j.count(func(e entry) bool { return e.err != nil }), j.count(func(e entry) bool { return e.arrivals == 0 }),
		stats.Lost, stats.Healed, j.last)
	require.NoError(t, j.wrong)
	require.Zero(t, j.count(func(e entry) bool { return !e.ended }), "messages that are still being published")
	require.Zero(t, j.count(func(e entry) bool { return e.arrivals > 1 }), "messages that have arrived twice")
	require.Zero(t, j.count(func(e entry) bool { return e.unsent() && e.arrivals > 0 }), "arrived, though said not to be sent")
	require.Positive(t, stats.Lost)
	require.Positive(t, stats.Healed)
}

// kick has the server close one of its connections, whatever is on it.
func (b *broker) kick() {
	if all := b.conns(); len(all) > 0 {
		_ = b.running.DisconnectClientByID(all[rand.IntN(len(all))].Cid) // or it has just ended by itself
	}
}

func TestNATSWhileTheServerClosesConnections(t *testing.T) {
	balance(t)
	s := natsServer(t, nil)
	j := newJournal(t, s, s.addr())
	j.endure(t, func() {
		eventually(t, "thirty losses", func() bool {
			s.kick()
			time.Sleep(pause)
			return j.client.Stats().Lost >= 30
		})
	})
}

func TestNATSWhileTheNetworkBreaks(t *testing.T) {
	balance(t)
	s := natsServer(t, nil)
	way, stop := breaking(t, s.addr(), 4)
	j := newJournal(t, s, way.Addr())
	j.endure(t, func() {
		wearOut(t, way, func() uint64 { return j.client.Stats().Lost }, 50)
		stop()
	})
}

// The server ends and comes back on the same port, twice.
func TestNATSWhileTheServerRestarts(t *testing.T) {
	balance(t)
	s := natsServer(t, nil)
	j := newJournal(t, s, s.addr())
	j.endure(t, func() {
		for range 2 {
			s.down()
			before := j.count(entry.unsent)
			eventually(t, "a message that could not be published", func() bool { return j.count(entry.unsent) > before })
			s.up()
			j.quiet(t)
			j.damage(t)
		}
	})
	require.GreaterOrEqual(t, j.client.Stats().Lost, uint64(8))
}
