package request_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/message"
	"go.atomizer.io/plex/request"
)

// numbered is a protocol of lines. A request is a number and a text, and its reply has the same
// number. A line that begins with a star is news that nobody asked for.
type numbered struct{}

func (numbered) Append(dst []byte, id uint64, text string) ([]byte, error) {
	if strings.Contains(text, "\n") {
		return dst, errors.New("a request is one line")
	}
	return fmt.Appendf(dst, "%d %s\n", id, text), nil
}

func (numbered) Split(data []byte, atEOF bool) (int, []byte, error) {
	return message.Lines(data, atEOF)
}

func (numbered) Parse(line []byte) (id uint64, text string, err error) {
	if bytes.HasPrefix(line, []byte("*")) {
		return 0, "", request.ErrNotReply
	}
	number, rest, _ := bytes.Cut(line, []byte(" "))
	id, err = strconv.ParseUint(string(number), 10, 64)
	return id, string(rest), err
}

// exampleService is a server on loopback. For each line that it gets it sends what answer returns;
// if that is empty, it hangs up. stop waits until everything has ended.
func exampleService(answer func(number, text string) string) (address string, stop func()) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}

	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					number, text, _ := strings.Cut(lines.Text(), " ")
					reply := answer(number, text)
					if _, err := conn.Write([]byte(reply)); err != nil || reply == "" {
						return
					}
				}
			})
		}
	})

	return listener.Addr().String(), func() {
		_ = listener.Close() // ends the loop above; an error would not matter
		wg.Wait()
	}
}

// shout answers in capitals.
func shout(number, text string) string { return number + " " + strings.ToUpper(text) + "\n" }

// A thousand goroutines make requests over four connections.
func ExampleNew() {
	address, stop := exampleService(shout)
	defer stop()

	mux, err := plex.New(context.Background(), plex.WithConnector(plex.Dial("tcp", address)),
		plex.WithMinConnections(4), plex.WithMaxCapacity(4))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mux.Close()

	client, err := request.New(mux, numbered{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close() // before the multiplexer

	var wg sync.WaitGroup
	for i := range 1000 {
		wg.Go(func() {
			want := fmt.Sprint("CALLER ", i)
			if reply, err := client.Do(context.Background(), fmt.Sprint("caller ", i)); err != nil || reply != want {
				fmt.Println(reply, err)
			}
		})
	}
	wg.Wait()

	stats := client.Stats()
	fmt.Println(stats.Requests, "requests,", stats.Replies, "replies,", stats.InFlight, "in flight")

	// Output:
	// 1000 requests, 1000 replies, 0 in flight
}

func ExampleClient_Do() {
	address, stop := exampleService(shout)
	defer stop()

	mux, err := plex.New(context.Background(), plex.WithConnector(plex.Dial("tcp", address)))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mux.Close()

	client, err := request.New(mux, numbered{}, request.WithIDs(9999)) // at most four digits
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	// The context bounds the wait for a connection, the write, and the wait for the reply.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	reply, err := client.Do(ctx, "hello")
	fmt.Println(reply, err)

	// Output:
	// HELLO <nil>
}

// Lines that begin with a star are no replies. They go to a function that passes them on, because
// it must not block.
func ExampleWithUnsolicited() {
	address, stop := exampleService(func(number, text string) string {
		return "* somebody asked\n" + shout(number, text)
	})
	defer stop()

	mux, err := plex.New(context.Background(), plex.WithConnector(plex.Dial("tcp", address)))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mux.Close()

	news := make(chan string, 100)
	client, err := request.New(mux, numbered{}, request.WithUnsolicited(func(m message.Message) {
		select {
		case news <- string(m.Data):
		default: // nobody keeps up; losing news is better than delaying replies
		}
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	reply, err := client.Do(context.Background(), "hello")
	fmt.Println(reply, err)
	fmt.Println(<-news)

	// Output:
	// HELLO <nil>
	// * somebody asked
}

// Whether a request that failed can be repeated depends on what it does, and on whether the server
// may have got it.
func ExampleError() {
	hangUp := func(_, _ string) string { return "" } // after it has got the request
	address, stop := exampleService(hangUp)
	defer stop()

	mux, err := plex.New(context.Background(), plex.WithConnector(plex.Dial("tcp", address)))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mux.Close()

	client, err := request.New(mux, numbered{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	for _, text := range []string{"two\nlines", "pay 100"} {
		_, err = client.Do(context.Background(), text)

		var failed *request.Error
		switch {
		case !errors.As(err, &failed):
			fmt.Println("it went well")
		case failed.MaybeSent:
			fmt.Printf("%q: ask whether it was done before repeating it\n", text)
		default:
			fmt.Printf("%q: nothing was sent: %v\n", text, failed.Err)
		}
	}

	// Output:
	// "two\nlines": nothing was sent: a request is one line
	// "pay 100": ask whether it was done before repeating it
}
