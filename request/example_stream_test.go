package request_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/request"
)

// searching is the protocol numbered with several lines to a request: a line that does not end with
// "." is not the last.
type searching struct{ numbered }

func (p searching) ParsePart(line []byte) (id uint64, text string, last bool, err error) {
	id, text, err = p.Parse(bytes.TrimSuffix(line, []byte(".")))

	return id, text, bytes.HasSuffix(line, []byte(".")), err
}

// AppendCancel tells the server that nobody wants the rest.
func (searching) AppendCancel(dst []byte, id uint64, _ string) ([]byte, error) {
	return fmt.Appendf(dst, "%d stop\n", id), nil
}

func ExampleClient_Stream() {
	address, stop := exampleService(func(number, text string) string {
		if text == "stop" {
			return number + " stopped.\n"
		}

		return strings.ReplaceAll("N oak\nN beech\nN elm.\n", "N", number)
	})
	defer stop()
	mux, err := plex.New(context.Background(), plex.WithConnector(plex.Dial("tcp", address)))
	if err != nil {
		panic(err)
	}
	defer mux.Close()
	client, err := request.New(mux, searching{})
	if err != nil {
		panic(err)
	}
	defer client.Close()

	for tree, err := range client.Stream(context.Background(), "trees") {
		if err != nil {
			fmt.Println(err)

			return
		}
		fmt.Println(tree)
	}

	for tree := range client.Stream(context.Background(), "trees") {
		fmt.Println("the first is", tree)

		break // which sends what AppendCancel returns
	}
	// Output:
	// oak
	// beech
	// elm
	// the first is oak
}
