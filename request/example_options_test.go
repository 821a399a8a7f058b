package request_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/request"
)

// exampleMux opens one connection to an example's service, and nothing else goes wrong in these examples.
func exampleMux(address string) *plex.Multiplexer {
	mux, err := plex.New(context.Background(), plex.WithConnector(plex.Dial("tcp", address)), plex.WithMinConnections(1))
	if err != nil {
		panic(err)
	}
	return mux
}

// DNS has room for identifiers of 16 bits. Of so few, that of a request given up is reserved until nobody can take the
// late reply for another one.
func ExampleWithIDs() {
	address, stop := exampleService(shout)
	defer stop()
	mux := exampleMux(address)
	defer mux.Close()

	client, err := request.New(mux, numbered{}, request.WithIDs(1<<16-1))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	fmt.Println(client.Do(context.Background(), "hello"))

	// Output:
	// HELLO <nil>
}

// A connection over which nothing comes, though there are requests, is killed and replaced.
func ExampleWithStallTimeout() {
	address, got, answer, stop := exampleSlow()
	defer stop()
	defer close(answer)
	mux := exampleMux(address)
	defer mux.Close()

	client, err := request.New(mux, numbered{}, request.WithStallTimeout(20*time.Millisecond))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	_, err = client.Do(context.Background(), "hello?")
	<-got
	var failed *request.Error
	if errors.As(err, &failed) {
		fmt.Println("stalled:", errors.Is(err, request.ErrStalled), "- may have been sent:", failed.MaybeSent)
	}

	// Output:
	// stalled: true - may have been sent: true
}

// answersPings is a protocol whose server answers a ping at once.
type answersPings struct{ numbered }

func (answersPings) Ping() string { return "ping" }

// A connection that brings nothing for a while is answersPings, also while nobody asks for anything.
func ExampleWithHeartbeat() {
	pings := make(chan string, 1)
	address, stop := exampleService(func(number, text string) string {
		select {
		case pings <- text:
		default:
		}
		return shout(number, text)
	})
	defer stop()
	mux := exampleMux(address)
	defer mux.Close()

	client, err := request.New(mux, answersPings{}, request.WithHeartbeat(20*time.Millisecond, time.Minute))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	fmt.Println(<-pings)

	// Output:
	// ping
}

// cancels is a protocol whose server can be told that nobody wants a reply any more.
type cancels struct{ numbered }

func (cancels) AppendCancel(dst []byte, id uint64, _ string) ([]byte, error) {
	return fmt.Appendf(dst, "%d cancel\n", id), nil
}

// When the context of a request ends, the server is told.
func ExampleCanceler() {
	got := make(chan string, 1)
	address, stop := exampleService(func(number, text string) string {
		got <- text
		return "*news, and no reply\n"
	})
	defer stop()
	mux := exampleMux(address)
	defer mux.Close()

	client, err := request.New(mux, cancels{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() {
		_, err := client.Do(ctx, "search for everything")
		ended <- err
	}()
	fmt.Println("the server got:", <-got)
	cancel()
	fmt.Println(errors.Is(<-ended, context.Canceled))
	fmt.Println("the server got:", <-got)

	// Output:
	// the server got: search for everything
	// true
	// the server got: cancel
}

// quiet is a protocol without identifiers, in which a command that ends in noreply gets none.
type quiet struct{ lines }

func (quiet) Replies(text string) int {
	if strings.HasSuffix(text, " noreply") {
		return 0
	}
	return 1
}

// A request that is not answered ends when it is written, and takes nobody's reply.
func ExampleQuiet() {
	address, stop := exampleService(func(first, rest string) string {
		if rest == "noreply" {
			return "*done: " + first + "\n" // a push, so that this server says something
		}
		return strings.ToUpper(first) + "\n"
	})
	defer stop()
	mux := exampleMux(address)
	defer mux.Close()

	client, err := request.NewOrdered(mux, quiet{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	for _, text := range []string{"set noreply", "get"} {
		reply, err := client.Do(context.Background(), text)
		fmt.Printf("%q %v\n", reply, err)
	}

	// Output:
	// "" <nil>
	// "GET" <nil>
}

// Each request is in exactly one of Waiting, InFlight, Replies, Canceled and Failed.
func ExampleClient_Stats() {
	address, stop := exampleService(shout)
	defer stop()
	mux := exampleMux(address)
	defer mux.Close()

	client, err := request.New(mux, numbered{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	for range 3 {
		if _, err := client.Do(context.Background(), "hello"); err != nil {
			fmt.Println(err)
		}
	}
	s := client.Stats()
	fmt.Println(s.Requests, "requests,", s.Replies, "replies,", s.Writes, "writes")

	// Output:
	// 3 requests, 3 replies, 3 writes
}
