package request_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/message"
	"go.atomizer.io/plex/request"
)

// lines is a protocol without identifiers: each line is answered by a line, in order. A line that
// begins with a star is news that nobody asked for.
type lines struct{}

func (lines) Append(dst []byte, text string) ([]byte, error) {
	if strings.Contains(text, "\n") {
		return dst, errors.New("a request is one line")
	}
	return fmt.Appendln(dst, text), nil
}

func (lines) Split(data []byte, atEOF bool) (int, []byte, error) { return message.Lines(data, atEOF) }

func (lines) Parse(line []byte, _ string) (string, error) {
	if bytes.HasPrefix(line, []byte("*")) {
		return "", request.ErrNotReply
	}
	return string(line), nil
}

// Replies come in the order of the requests.
func ExampleNewOrdered() {
	address, stop := exampleService(func(first, rest string) string {
		return "*news\n" + strings.ToUpper(first+" "+rest) + "\n"
	})
	defer stop()

	mux, err := plex.New(context.Background(), plex.WithConnector(plex.Dial("tcp", address)),
		plex.WithMinConnections(1), plex.WithMaxCapacity(4))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mux.Close()

	news := make(chan string, 1)
	client, err := request.NewOrdered(mux, lines{}, request.WithDepth(100),
		request.WithUnsolicited(func(m message.Message) { news <- string(m.Data) }))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close() // before the multiplexer

	reply, err := client.Do(context.Background(), "hello there")
	fmt.Println(reply, err)
	fmt.Println(<-news)

	// Output:
	// HELLO THERE <nil>
	// *news
}
