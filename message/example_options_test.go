package message_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/message"
)

// A protocol that begins with a line and goes on with lengths needs a split function that knows, for each connection,
// what came before.
func ExampleNewFor() {
	mux, stop := exampleMultiplexer(2, func(conn net.Conn) {
		_, _ = io.WriteString(conn, "hello\n\x03one\x03two")
		_, _ = io.Copy(io.Discard, conn) // until plex closes the connection
	})
	defer stop()

	receiver, err := message.NewFor(mux, func(plex.Conn) bufio.SplitFunc {
		greeted := false
		return func(data []byte, atEOF bool) (int, []byte, error) {
			if greeted {
				return message.Prefix{Bytes: 1}.Split(data, atEOF)
			}
			advance, token, err := message.Lines(data, atEOF)
			greeted = token != nil
			return advance, token, err
		}
	})
	if err != nil {
		fmt.Println(err)
		return
	}

	left := 6
	for m, err := range receiver.All(context.Background()) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s\n", m.Data)
		if left--; left == 0 {
			break
		}
	}

	// Unordered output:
	// hello
	// hello
	// one
	// one
	// two
	// two
}

// What a Sender could not write is handed back, with whether the peer may have got something of it.
func ExampleWithFailed() {
	mux, peer := examplePipe()
	_ = mux.Close() // the service is gone for good
	_ = peer.Close()

	sender, err := message.NewSender(mux, message.WithFailed(func(line []byte, err error) {
		var failed *message.SendError
		fmt.Printf("%q can be sent elsewhere: %v\n", line, errors.As(err, &failed) && !failed.MaybeSent)
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = sender.Queue([]byte("line\n")) // whether it is written, WithFailed tells
	_ = sender.Close(context.Background())
	fmt.Println(sender.Stats().Failed, "failed")

	// Output:
	// "line\n" can be sent elsewhere: true
	// 1 failed
}

// The queue is bounded. A caller who finds it full is told so at once, and decides.
func ExampleWithQueue() {
	mux, err := plex.New(context.Background(), plex.WithMaxCapacity(1)) // nothing is connected yet
	if err != nil {
		fmt.Println(err)
		return
	}
	sender, err := message.NewSender(mux, message.WithQueue(10))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(sender.Queue([]byte("seven b")))
	err = sender.Queue([]byte("too many"))
	fmt.Println(errors.Is(err, message.ErrFull))

	_ = mux.Close() // the end of the queue, too
	_ = sender.Close(context.Background())

	// Output:
	// <nil>
	// true
}
