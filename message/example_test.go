package message_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/message"
)

// exampleService runs handle for each connection on loopback and closes it then. stop waits for all
// of them.
func exampleService(handle func(conn net.Conn)) (address string, stop func()) {
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
				handle(conn)
				_ = conn.Close() // the handler has seen how the connection ended
			})
		}
	})
	return listener.Addr().String(), func() {
		_ = listener.Close() // ends the loop above; an error would not matter
		wg.Wait()
	}
}

// exampleMultiplexer makes a multiplexer with so many connections to a service that runs handle.
func exampleMultiplexer(connections int, handle func(conn net.Conn)) (mux *plex.Multiplexer, stop func()) {
	address, stopService := exampleService(handle)
	mux, err := plex.New(context.Background(), plex.WithConnector(plex.Dial("tcp", address)),
		plex.WithMinConnections(connections), plex.WithMaxCapacity(connections))
	if err != nil {
		panic(err)
	}
	return mux, func() {
		_ = mux.Close() // returns nil
		stopService()
	}
}

// Two connections bring readings, which come out of one loop.
func ExampleNew() {
	mux, stop := exampleMultiplexer(2, func(conn net.Conn) {
		fmt.Fprint(conn, "20 degrees\n22 deg")
		fmt.Fprint(conn, "rees\n")
		_, _ = io.Copy(io.Discard, conn) // until the client hangs up
	})
	defer stop()

	receiver, err := message.New(mux, message.Lines)
	if err != nil {
		fmt.Println(err)
		return
	}

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	readings := 0
	for m, err := range receiver.All(ctx) {
		if err != nil {
			fmt.Println(err) // about one connection; the last one ends the loop
			continue
		}
		fmt.Printf("%s\n", m.Data)
		if readings++; readings == 4 {
			break
		}
	}

	// Unordered output:
	// 20 degrees
	// 20 degrees
	// 22 degrees
	// 22 degrees
}

// An error about one connection does not end the loop. A message that is cut off is never taken for
// a whole one.
func ExampleReceiver_All() {
	client, server := net.Pipe()
	mux, err := plex.New(context.Background(), plex.WithConnections(client))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mux.Close()
	go func() {
		fmt.Fprint(server, "whole\nbegu")
		_ = server.Close() // in the middle of a line
	}()

	receiver, err := message.New(mux, message.Lines)
	if err != nil {
		fmt.Println(err)
		return
	}
	for m, err := range receiver.All(context.Background()) {
		var cut *message.CutError
		switch {
		case err == nil:
			fmt.Printf("message %q\n", m.Data)
		case errors.As(err, &cut):
			fmt.Printf("cut off: %q, by %v\n", cut.Data, cut.Err)
		case errors.Is(err, plex.ErrNoConnections):
			fmt.Println("that was the last connection") // there is no connector
		}
	}

	// Output:
	// message "whole"
	// cut off: "begu", by unexpected EOF
	// that was the last connection
}

// As a channel, beside others in a select.
func ExampleReceiver_Channel() {
	mux, stop := exampleMultiplexer(1, func(conn net.Conn) {
		fmt.Fprint(conn, "one\ntwo\n")
		_, _ = io.Copy(io.Discard, conn)
	})
	defer stop()
	receiver, err := message.New(mux, message.Lines)
	if err != nil {
		fmt.Println(err)
		return
	}

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel() // ends the goroutine behind the channel
	messages := receiver.Channel(ctx, 16)
	for range 2 {
		select {
		case m := <-messages:
			fmt.Printf("%s %v\n", m.Data, m.Err)
		case <-time.After(10 * time.Second):
			fmt.Println("nothing for a long time")
		}
	}

	// Output:
	// one <nil>
	// two <nil>
}

// A service that echoes frames: Append makes them, Send writes them, Split finds them.
func ExamplePrefix() {
	mux, stop := exampleMultiplexer(2, func(conn net.Conn) { _, _ = io.Copy(conn, conn) })
	defer stop()
	frame := message.Prefix{Bytes: 4, Order: binary.BigEndian}
	receiver, err := message.New(mux, frame.Split)
	if err != nil {
		fmt.Println(err)
		return
	}

	p, err := frame.Append(nil, []byte("hello"))
	if err != nil {
		fmt.Println(err) // too long for the prefix, or for frame.Max
		return
	}
	fmt.Printf("%q\n", p)
	if err := message.Send(context.Background(), mux, time.Second, p); err != nil {
		fmt.Println(err)
		return
	}
	for m := range receiver.All(context.Background()) {
		fmt.Printf("%q\n", m.Data)
		break
	}

	// Output:
	// "\x00\x00\x00\x05hello"
	// "hello"
}

// Split functions work with a bufio.Scanner, too: here in a server.
func ExamplePrefix_scanner() {
	client, server := net.Pipe()
	frame := message.Prefix{Bytes: 2}
	go func() {
		var p []byte
		for _, word := range []string{"one", "", "three"} {
			p, _ = frame.Append(p, []byte(word)) // none is too long
		}
		_, _ = client.Write(p)
		_ = client.Close()
	}()
	frames := bufio.NewScanner(server)
	frames.Split(frame.Split)
	for frames.Scan() {
		fmt.Printf("%q\n", frames.Bytes())
	}
	fmt.Println(frames.Err())

	// Output:
	// "one"
	// ""
	// "three"
	// <nil>
}

func ExampleLines() {
	advance, line, err := message.Lines([]byte("GET /\r\nHost: "), false)
	fmt.Printf("%d %q %v\n", advance, line, err)
	_, line, err = message.Lines([]byte("Host: "), true) // there will be no more
	fmt.Printf("%q %v\n", line, err)

	// Output:
	// 7 "GET /" <nil>
	// "" unexpected EOF
}

func ExampleDelimiter() {
	split := message.Delimiter([]byte("\x00"))
	data := []byte("one\x00\x00three")
	for {
		advance, m, _ := split(data, false)
		if m == nil {
			break
		}
		fmt.Printf("%q\n", m)
		data = data[advance:]
	}
	fmt.Printf("and %q, whose end has not arrived yet\n", data)

	// Output:
	// "one"
	// ""
	// and "three", whose end has not arrived yet
}

// Many goroutines write whole lines over two connections.
func ExampleSend() {
	arrived := make(chan string, 100)
	mux, stop := exampleMultiplexer(2, func(conn net.Conn) {
		for s := bufio.NewScanner(conn); s.Scan(); {
			arrived <- s.Text()
		}
	})
	defer stop()

	for i := range 100 {
		go func() {
			err := message.Send(context.Background(), mux, 10*time.Second, fmt.Appendf(nil, "line %d\n", i))
			var failed *message.SendError
			if errors.As(err, &failed) && !failed.MaybeSent {
				fmt.Println("it can be sent again:", err)
			}
		}()
	}
	lines := map[string]bool{}
	for range 100 {
		lines[<-arrived] = true
	}
	fmt.Println(len(lines), "different lines")

	// Output:
	// 100 different lines
}

// A message may be longer than 1 MiB if both the Receiver and the Prefix say so.
func ExampleWithMaxSize() {
	mux, stop := exampleMultiplexer(1, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	defer stop()
	const longest = 64 << 20
	frame := message.Prefix{Bytes: 4, Max: longest}
	_, err := message.New(mux, frame.Split, message.WithMaxSize(longest))
	fmt.Println(err)
	_, err = message.New(mux, frame.Split, message.WithMaxSize(0))
	fmt.Println(err)

	// Output:
	// <nil>
	// message: WithMaxSize(0): a message cannot be that short; give at least 1 byte
}
