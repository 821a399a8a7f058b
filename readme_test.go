package plex_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/message"
	"go.atomizer.io/plex/request"
)

// The functions up to the first Example are the Go code of README.md and docs/guide.md, word for word.
// TestReadmeSnippets holds them together, so what those pages show has compiled and run.

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

// subscribe passes on the lines of one connection until it ends. Run one for each connection,
// including those that scaling adds.
func subscribe(ctx context.Context, mux *plex.Multiplexer, handle func(line string)) error {
	r, err := mux.Reader(ctx, 0) // no limit but ctx's
	if err != nil {
		return err
	}

	lines := bufio.NewScanner(r)
	for lines.Scan() {
		handle(lines.Text())
	}

	return errors.Join(lines.Err(), r.Kill()) // not Close: the next lease would miss what the scanner has read ahead
}

// lines is a protocol of lines: "7 how are you?" is answered by "7 fine".
type lines struct{}

func (lines) Append(dst []byte, id uint64, question string) ([]byte, error) {
	return fmt.Appendf(dst, "%d %s\n", id, question), nil
}

func (lines) Split(data []byte, atEOF bool) (int, []byte, error) { return message.Lines(data, atEOF) }

func (lines) Parse(line []byte) (id uint64, answer string, err error) {
	number, answer, _ := strings.Cut(string(line), " ")
	id, err = strconv.ParseUint(number, 10, 64)

	return id, answer, err
}

// ask asks any number of questions at the same time, over a few connections.
func ask(ctx context.Context, mux *plex.Multiplexer, questions []string) error {
	client, err := request.New(mux, lines{})
	if err != nil {
		return err
	}
	defer client.Close()

	var all sync.WaitGroup
	for _, question := range questions {
		all.Go(func() {
			answer, err := client.Do(ctx, question)
			fmt.Println(question, answer, err)
		})
	}
	all.Wait()

	return nil
}

// listen passes on each message that arrives, over whichever connection, until ctx ends.
func listen(ctx context.Context, mux *plex.Multiplexer, handle func(data []byte)) error {
	receiver, err := message.New(mux, message.Prefix{Bytes: 4}.Split) // a length of four bytes before each
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

func Example_messages() {
	address, stop := exampleService(func(conn net.Conn) {
		_, _ = io.WriteString(conn, "\x00\x00\x00\x05hello")
		_, _ = io.Copy(io.Discard, conn) // until plex closes the connection
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

	left := mux.Stats().Open // each connection brings one
	err = listen(ctx, mux, func(data []byte) {
		fmt.Printf("%s\n", data)
		if left--; left == 0 {
			cancel()
		}
	})
	fmt.Println(errors.Is(err, context.Canceled))

	// Output:
	// hello
	// hello
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

func Example_requests() {
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

	if err := ask(ctx, mux, []string{"one", "two", "three"}); err != nil {
		fmt.Println(err)
	}

	// Unordered output:
	// one one <nil>
	// two two <nil>
	// three three <nil>
}

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

	received, ended := make(chan string), make(chan error)
	for range mux.Stats().Open {
		go func() {
			ended <- subscribe(ctx, mux, func(line string) { received <- line })
		}()
	}

	for i := range 4 {
		if err := publish(ctx, mux, fmt.Sprintf("message %d\n", i)); err != nil {
			fmt.Println(err)
			return
		}
	}
	for range 4 {
		fmt.Println(<-received)
	}

	open := mux.Stats().Open
	if err := mux.Close(); err != nil {
		fmt.Println(err)
	}
	for range open {
		if err := <-ended; !errors.Is(err, plex.ErrClosed) {
			fmt.Println(err)
		}
	}

	// Unordered output:
	// message 0
	// message 1
	// message 2
	// message 3
}

func TestReadmeSnippets(t *testing.T) {
	for page, file := range map[string]string{
		"README.md":      "readme_test.go",
		"docs/guide.md":  "readme_test.go",
		"docs/moving.md": "moving_test.go",
	} {
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		text, err := os.ReadFile(page)
		require.NoError(t, err)

		snippets := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(text), -1)
		require.NotEmpty(t, snippets, "%s shows no code", page)

		for _, snippet := range snippets {
			// No require.Contains here: it would print the whole file.
			if !strings.Contains(string(source), "\n"+snippet[1]) {
				t.Errorf("a snippet of %s is not in %s word for word:\n%s", page, file, snippet[1])
			}
		}
	}
}
