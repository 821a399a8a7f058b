package plex_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/textproto"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/message"
	"go.atomizer.io/plex/request"
)

// The functions up to the first Example are the Go code of README.md and docs/guide.md, word for word.
// TestReadmeSnippets holds them together, so what those pages show has compiled and run.

// redis is the part of Redis whose replies are one line: INCR, SET, EXPIRE, PUBLISH, PING, ….
type redis struct{}

func (redis) Append(dst []byte, command string) ([]byte, error) {
	if strings.ContainsAny(command, "\r\n") {
		return nil, errors.New("a command is one line")
	}
	return append(dst, command+"\r\n"...), nil
}

func (redis) Split(data []byte, atEOF bool) (int, []byte, error) { return message.Lines(data, atEOF) }

func (redis) Parse(reply []byte, command string) (string, error) { return string(reply), nil }

// count counts visits, from many goroutines over two connections, and returns what Redis says last.
func count(ctx context.Context, address string, visits int) (string, error) {
	mux, err := plex.New(ctx, plex.WithConnector(plex.Dial("tcp", address)), plex.WithMinConnections(2))
	if err != nil {
		return "", err
	}
	defer mux.Close()

	client, err := request.NewOrdered(mux, redis{}) // with identifiers in the messages: request.New
	if err != nil {
		return "", err
	}
	defer client.Close()

	var all sync.WaitGroup
	for range visits {
		all.Go(func() {
			if _, err := client.Do(ctx, "INCR visits"); err != nil {
				log.Print(err) // it says whether the server may have got the command
			}
		})
	}
	all.Wait()

	return client.Do(ctx, "INCR visits")
}

func connectTo(ctx context.Context, address string) (*plex.Multiplexer, error) {
	return plex.New(ctx,
		plex.WithConnector(plex.Dial("tcp", address)),
		plex.WithMinConnections(2),                // open when New returns
		plex.WithMaxCapacity(8),                   // never more than these
		plex.WithAutoScaling(20*time.Millisecond), // one more after such a wait
	)
}

// publish writes one message. Any number of goroutines may call it.
func publish(ctx context.Context, mux *plex.Multiplexer, message string) error {
	w, err := mux.Writer(ctx, time.Second) // wait a second at most for an idle write half
	if err != nil {
		return err
	}

	_, err = w.Write([]byte(message))

	return errors.Join(err, w.Close()) // Close puts the half back for the next caller
}

// subscribe passes on each line that arrives, over whichever connection, until ctx ends.
func subscribe(ctx context.Context, mux *plex.Multiplexer, handle func(line []byte)) error {
	receiver, err := message.New(mux, message.Lines) // or message.Prefix{Bytes: 4}.Split, for a length in front
	if err != nil {
		return err
	}

	var last error
	for m, err := range receiver.All(ctx) {
		if last = err; err == nil {
			handle(m.Data)
		} // an error is about one connection, except the last, which says why the loop ends
	}

	return last
}

// serve reads one message of 16 bytes from whichever connection has one. Run it in a few goroutines.
func serve(ctx context.Context, mux *plex.Multiplexer, handle func(message [16]byte)) error {
	for {
		r, err := mux.ReadyReader(ctx, 0)
		if err != nil {
			return err
		}

		var message [16]byte
		if _, err = io.ReadFull(r, message[:]); err != nil {
			_ = r.Kill() // nobody may take the rest of this message for the next one
			continue
		}
		if err := r.Close(); err != nil {
			return err
		}

		handle(message)
	}
}

// follow passes on the lines of one connection after the other, until the multiplexer is closed. Run
// as many as the capacity, in a pool whose minimum is its capacity.
func follow(ctx context.Context, mux *plex.Multiplexer, handle func(line string)) error {
	for {
		r, err := mux.Reader(ctx, 0) // no limit but ctx's
		if err != nil {
			return err
		}

		for lines := bufio.NewScanner(r); lines.Scan(); {
			handle(lines.Text())
		}

		_ = r.Kill() // not Close: the next lease would miss what the scanner has read ahead
	}
}

// noop asks the service for a sign of life, in the manner of SMTP.
func noop(ctx context.Context, mux *plex.Multiplexer) error {
	whole, err := mux.Duplex(ctx, time.Second)
	if err != nil {
		return err
	}
	c := textproto.NewConn(whole)
	defer c.Close() // puts the connection back

	id, err := c.Cmd("NOOP")
	if err != nil {
		return err
	}
	c.StartResponse(id)
	defer c.EndResponse(id)
	_, _, err = c.ReadResponse(250)
	return err
}

// probed is a pool of connections to a Redis server that are asked whether they live.
func probed(ctx context.Context, address string) (*plex.Multiplexer, error) {
	return plex.New(ctx,
		plex.WithConnector(plex.Dial("tcp", address)),
		plex.WithProbe(30*time.Second, time.Second, ping),
	)
}

// ping asks a Redis server for a sign of life.
func ping(_ context.Context, conn net.Conn) error {
	if _, err := io.WriteString(conn, "PING\r\n"); err != nil {
		return err
	}

	reply := make([]byte, len("+PONG\r\n"))
	if _, err := io.ReadFull(conn, reply); err != nil {
		return err
	}

	if string(reply) != "+PONG\r\n" {
		return fmt.Errorf("the answer to PING is %q", reply)
	}

	return nil
}

// spread is a pool over all pods of a headless service, which is given as host:port.
func spread(ctx context.Context, service string) (*plex.Multiplexer, error) {
	return plex.New(ctx,
		plex.WithResolver(plex.DNS("tcp", service), 10*time.Second),
		plex.WithConnector(plex.DialResolved(&net.Dialer{})),
		plex.WithMinConnections(24), // eight to each of three pods
		plex.WithMaxCapacity(32),    // room in which a connection is replaced before it is moved
	)
}

// primary finds the one server that takes writes, by asking all of them.
func primary(isPrimary func(ctx context.Context, address string) (bool, error), addresses ...string) plex.Resolver {
	return func(ctx context.Context) ([]plex.Address, error) {
		var errs []error
		for _, address := range addresses {
			yes, err := isPrimary(ctx, address)
			if yes {
				return []plex.Address{{Address: address}}, nil
			}
			errs = append(errs, err)
		}

		return nil, errors.Join(append(errs, errors.New("no server takes writes"))...) // the pool stays as it is
	}
}

// A server of RESP's simplest part: it counts.
func exampleCounter() (address string, stop func()) {
	var visits atomic.Int64
	return exampleService(func(conn net.Conn) {
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			if lines.Text() != "INCR visits" {
				_, _ = io.WriteString(conn, "-ERR unknown command\r\n")
			} else if _, err := fmt.Fprintf(conn, ":%d\r\n", visits.Add(1)); err != nil {
				return
			}
		}
	})
}

// Requests of many goroutines share two connections.
func Example_requests() {
	address, stop := exampleCounter()
	defer stop()

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	fmt.Println(count(ctx, address, 1000))

	// Output:
	// :1001 <nil>
}

// What is written over any of the connections comes back over the same ones, and is read from all.
func Example() {
	address, stop := exampleService(exampleEcho)
	defer stop()

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	mux, err := connectTo(ctx, address)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mux.Close()

	for i := range 4 {
		if err := publish(ctx, mux, fmt.Sprintf("message %d\n", i)); err != nil {
			fmt.Println(err)
			return
		}
	}

	left := 4
	err = subscribe(ctx, mux, func(line []byte) {
		fmt.Printf("%s\n", line)
		if left--; left == 0 {
			cancel()
		}
	})
	fmt.Println(errors.Is(err, context.Canceled))

	// Unordered output:
	// message 0
	// message 1
	// message 2
	// message 3
	// true
}

func Example_readyReaders() {
	address, stop := exampleService(func(conn net.Conn) {
		_, _ = io.WriteString(conn, "sixteen bytes, 1sixteen bytes, 2")
		_, _ = io.Copy(io.Discard, conn)
	})
	defer stop()

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	mux, err := connectTo(ctx, address)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mux.Close()

	left := 2 * mux.Stats().Open // each connection brings two
	err = serve(ctx, mux, func(message [16]byte) {
		fmt.Printf("%s\n", message[:])
		if left--; left == 0 {
			cancel()
		}
	})
	fmt.Println(errors.Is(err, context.Canceled))

	// Unordered output:
	// sixteen bytes, 1
	// sixteen bytes, 1
	// sixteen bytes, 2
	// sixteen bytes, 2
	// true
}

// Every connection of a pool of a fixed size is read, also those that replace others.
func TestFollowReadsEveryConnection(t *testing.T) {
	l := newLedger(t)
	address, stop := exampleService(func(conn net.Conn) {
		_, _ = io.WriteString(conn, "hello\n")
		_, _ = io.Copy(io.Discard, conn) // until plex closes the connection
	})
	t.Cleanup(stop) // when the multiplexer has been closed
	mux := l.mustOpen(3, plex.Dial("tcp", address), plex.WithMaxCapacity(3))

	heard := make(chan string)
	ended := make(chan error)
	for range 3 {
		go func() { ended <- follow(t.Context(), mux, func(line string) { heard <- line }) }()
	}
	for range 3 {
		require.Equal(t, "hello", <-heard)
	}
	for c := range mux.Conns() {
		c.Kill()
	}
	for range 3 {
		require.Equal(t, "hello", <-heard)
	}
	require.NoError(t, mux.Close())
	for range 3 {
		require.ErrorIs(t, <-ended, plex.ErrClosed)
	}
}

// What Redis could take for two commands is not sent.
func TestACommandIsOneLine(t *testing.T) {
	_, err := redis{}.Append(nil, "GET a\r\nFLUSHALL")
	require.Error(t, err)
}

func TestReadmeSnippets(t *testing.T) {
	indented := regexp.MustCompile(`(?m)^(.)`)
	pages := map[string]string{
		"README.md":          "readme_test.go",
		"docs/guide.md":      "readme_test.go",
		"docs/moving.md":     "moving_test.go",
		"plexprom/README.md": "plexprom/example_test.go",
	}
	found, err := filepath.Glob("*/README.md")
	require.NoError(t, err)
	more, err := filepath.Glob("examples/*/README.md")
	require.NoError(t, err)
	for _, page := range append(found, more...) {
		if page = filepath.ToSlash(page); pages[page] == "" {
			pages[page] = strings.TrimSuffix(page, "README.md") + "readme_test.go" // in the function readme
		}
	}

	for page, file := range pages {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		snippets := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(text), -1)
		if len(snippets) == 0 {
			continue
		}
		source, err := os.ReadFile(file)
		require.NoError(t, err, page)

		for _, snippet := range snippets {
			// No require.Contains here: it would print the whole file.
			if !strings.Contains(string(source), "\n"+snippet[1]) &&
				!strings.Contains(string(source), "\n"+indented.ReplaceAllString(snippet[1], "\t$1")) {
				t.Errorf("a snippet of %s is not in %s word for word:\n%s", page, file, snippet[1])
			}
		}
	}
}

// Every relative link of the pages leads to a file, and to a headline if it names one.
func TestLinksOfThePages(t *testing.T) {
	var pages []string
	for _, pattern := range []string{"*.md", "docs/*.md", "*/README.md", "examples/*/README.md", ".github/*.md"} {
		found, err := filepath.Glob(pattern)
		require.NoError(t, err)
		pages = append(pages, found...)
	}
	require.Greater(t, len(pages), 10)

	links := regexp.MustCompile(`\]\(([^)#\s]*)(?:#([^)\s]*))?\)`)
	for _, page := range pages {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, link := range links.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(link[1], "://") {
				continue
			}
			target := page
			if link[1] != "" {
				target = filepath.Join(filepath.Dir(page), link[1])
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s, which is not there", page, link[1])
			} else if link[2] != "" && !headlines(t, target)[link[2]] {
				t.Errorf("%s links to #%s, which is no headline of %s", page, link[2], target)
			}
		}
	}
}

// headlines are the anchors of a page.
func headlines(t *testing.T, page string) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	anchors := map[string]bool{}
	for _, line := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(string(text), -1) {
		anchor := regexp.MustCompile(`[^\w\- ]`).ReplaceAllString(strings.ToLower(line[1]), "")
		anchors[strings.ReplaceAll(anchor, " ", "-")] = true
	}
	return anchors
}
