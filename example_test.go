package plex_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"go.atomizer.io/plex"
)

// exampleService listens on loopback and runs handle for every connection, which it closes afterwards. stop waits
// until all of them have ended.
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
		_ = listener.Close() // ends the loop above, which is all that is wanted of it
		wg.Wait()
	}
}

// exampleEcho sends back what it receives.
func exampleEcho(conn net.Conn) { _, _ = io.Copy(conn, conn) }

// Two connections from the start, and never more than eight.
func ExampleNew() {
	address, stop := exampleService(exampleEcho)
	defer stop()

	mux, err := plex.New(context.Background(),
		plex.WithConnector(plex.Dial("tcp", address)),
		plex.WithMinConnections(2),
		plex.WithMaxCapacity(8),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mux.Close()

	stats := mux.Stats()
	fmt.Printf("%d connections open, at most %d\n", stats.Open, stats.Capacity)

	// Output:
	// 2 connections open, at most 8
}

// Connections that the program has already can be given to New. They are plex's from then on.
func ExampleWithConnections() {
	ours, theirs := net.Pipe()

	mux, err := plex.New(context.Background(), plex.WithConnections(ours))
	if err != nil {
		fmt.Println(err)
		return
	}

	if err := mux.Close(); err != nil {
		fmt.Println(err)
	}

	_, err = theirs.Read(make([]byte, 1))
	fmt.Println("the other end reads:", err)

	// Output:
	// the other end reads: EOF
}

// A writer is leased for one message, or as many as belong together, and goes back with Close.
func ExampleMultiplexer_Writer() {
	received := make(chan string, 1)
	address, stop := exampleService(func(conn net.Conn) {
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil {
			line = err.Error()
		}
		received <- line
	})
	defer stop()

	mux, err := plex.New(context.Background(),
		plex.WithConnector(plex.Dial("tcp", address)),
		plex.WithMinConnections(1),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mux.Close()

	// Wait for an idle write half, a second at the most.
	w, err := mux.Writer(context.Background(), time.Second)
	if err != nil {
		fmt.Println(err)
		return
	}

	_, err = w.Write([]byte("temperature 21.5\n"))
	if err := errors.Join(err, w.Close()); err != nil {
		fmt.Println(err)
		return
	}

	fmt.Printf("%q\n", <-received)

	// Output:
	// "temperature 21.5\n"
}

// A reader that is leased for one message reads exactly that message, so that the next lease, whoever's it is,
// starts at the next one. A reader that is to read ahead, through a bufio.Reader for example, keeps its lease.
func ExampleMultiplexer_Reader() {
	address, stop := exampleService(func(conn net.Conn) {
		// Each message is preceded by its length, one byte.
		_, _ = io.WriteString(conn, "\x05hello\x05world")
		_, _ = io.Copy(io.Discard, conn) // until plex closes the connection
	})
	defer stop()

	mux, err := plex.New(context.Background(),
		plex.WithConnector(plex.Dial("tcp", address)),
		plex.WithMinConnections(1),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mux.Close()

	readMessage := func() (string, error) {
		r, err := mux.Reader(context.Background(), time.Second)
		if err != nil {
			return "", err
		}

		var length [1]byte
		if _, err := io.ReadFull(r, length[:]); err != nil {
			return "", errors.Join(err, r.Kill())
		}
		message := make([]byte, length[0])
		if _, err := io.ReadFull(r, message); err != nil {
			// The rest of the message may still come, and the next lease would take it for the start of one.
			return "", errors.Join(err, r.Kill())
		}

		return string(message), r.Close()
	}

	for range 2 {
		message, err := readMessage()
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(message)
	}

	// Output:
	// hello
	// world
}

// Recv turns what arrives into a channel of bytes, which is convenient where single bytes are looked at.
func ExampleReader_Recv() {
	address, stop := exampleService(func(conn net.Conn) {
		_, _ = io.WriteString(conn, "one\ntwo\n")
	})
	defer stop()

	mux, err := plex.New(context.Background(),
		plex.WithConnector(plex.Dial("tcp", address)),
		plex.WithMinConnections(1),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mux.Close()

	r, err := mux.Reader(context.Background(), time.Second)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer r.Close()

	received, err := r.Recv(context.Background(), 64)
	if err != nil {
		fmt.Println(err)
		return
	}

	var lines int
	for b := range received {
		if b == '\n' {
			lines++
		}
	}

	// The channel is closed when the stream ends, and Err says why: nil for an end of the data.
	fmt.Println(lines, "lines, error:", r.Err())

	// Output:
	// 2 lines, error: <nil>
}

// Send takes bytes from a channel. They are written as soon as the channel is momentarily empty.
func ExampleWriter_Send() {
	received := make(chan string, 1)
	address, stop := exampleService(func(conn net.Conn) {
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil {
			line = err.Error()
		}
		received <- line
	})
	defer stop()

	mux, err := plex.New(context.Background(),
		plex.WithConnector(plex.Dial("tcp", address)),
		plex.WithMinConnections(1),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mux.Close()

	w, err := mux.Writer(context.Background(), time.Second)
	if err != nil {
		fmt.Println(err)
		return
	}

	sent, err := w.Send(context.Background(), 64)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, b := range []byte("byte by byte\n") {
		sent <- b
	}
	close(sent)

	// Close waits until all is written. An *UnsentError from it counts the bytes that could not be.
	if err := w.Close(); err != nil {
		fmt.Println(err)
		return
	}

	fmt.Printf("%q\n", <-received)

	// Output:
	// "byte by byte\n"
}

// RecvChunks is Recv for speed: each chunk is what one read brought, and belongs to the receiver.
func ExampleReader_RecvChunks() {
	address, stop := exampleService(func(conn net.Conn) {
		_, _ = io.WriteString(conn, strings.Repeat("0123456789", 100_000))
	})
	defer stop()

	mux, err := plex.New(context.Background(),
		plex.WithConnector(plex.Dial("tcp", address)),
		plex.WithMinConnections(1),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mux.Close()

	r, err := mux.Reader(context.Background(), time.Second)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer r.Close()

	chunks, err := r.RecvChunks(context.Background(), 32<<10)
	if err != nil {
		fmt.Println(err)
		return
	}

	var total int
	for chunk := range chunks {
		total += len(chunk)
	}
	fmt.Println(total, "bytes, error:", r.Err())

	// Output:
	// 1000000 bytes, error: <nil>
}

// SendChunks is Send for speed. A sender that selects on Done too learns at once when the connection has died, and Err
// says why; one that does not is never left hanging. Close returns an *UnsentError that counts what the channel took and
// was not written: nil if that was nothing.
func ExampleWriter_SendChunks() {
	received := make(chan int64, 1)
	address, stop := exampleService(func(conn net.Conn) {
		n, _ := io.CopyN(io.Discard, conn, 500_000)
		received <- n
	})
	defer stop()

	mux, err := plex.New(context.Background(),
		plex.WithConnector(plex.Dial("tcp", address)),
		plex.WithMinConnections(1),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mux.Close()

	w, err := mux.Writer(context.Background(), time.Second)
	if err != nil {
		fmt.Println(err)
		return
	}

	chunks, err := w.SendChunks(context.Background(), 0) // 0 for the default size of a write
	if err != nil {
		fmt.Println(err)
		return
	}

send:
	for range 500 {
		select {
		case chunks <- make([]byte, 1000): // a chunk is plex's once it is sent
		case <-w.Done():
			fmt.Println("the connection has died:", w.Err())
			break send
		}
	}
	close(chunks)

	if err := w.Close(); err != nil {
		fmt.Println(err)
		return
	}

	fmt.Println(<-received, "bytes")

	// Output:
	// 500000 bytes
}

// A Connect that logs in before anyone gets to use the connection. It may run many times, whenever plex needs a
// connection.
func ExampleConnect() {
	address, stop := exampleService(func(conn net.Conn) {
		lines := bufio.NewReader(conn)
		if line, err := lines.ReadString('\n'); err != nil || line != "LOGIN gopher secret\n" {
			_, _ = io.WriteString(conn, "NO\n")
			return
		}
		_, _ = io.WriteString(conn, "OK\n")
		_, _ = io.Copy(conn, lines)
	})
	defer stop()

	var dialer net.Dialer
	connect := func(ctx context.Context, conn net.Conn) error {
		transport, err := dialer.DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}

		// From here on conn runs over transport. plex closes it when an error is returned below.
		if err := plex.Attach(conn, transport); err != nil {
			return err
		}

		// A service that accepts and then says nothing must not hold the login up for ever. plex clears the
		// deadline afterwards.
		if deadline, ok := ctx.Deadline(); ok {
			if err := conn.SetDeadline(deadline); err != nil {
				return err
			}
		}

		if _, err := io.WriteString(conn, "LOGIN gopher secret\n"); err != nil {
			return err
		}

		// Exactly the reply is read: a bufio.Reader might take bytes that belong to the first lease.
		var reply [3]byte
		if _, err := io.ReadFull(conn, reply[:]); err != nil {
			return err
		}
		if string(reply[:]) != "OK\n" {
			return fmt.Errorf("login refused: %q", reply[:])
		}

		return nil
	}

	mux, err := plex.New(context.Background(),
		plex.WithConnector(connect),
		plex.WithMinConnections(3),
		plex.WithMaxCapacity(3),
		plex.WithConnectTimeout(5*time.Second),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mux.Close()

	fmt.Println(mux.Stats().Connected, "logged in")

	// Output:
	// 3 logged in
}

// What a caller gets who asks for a writer while the only one is taken.
func ExampleAcquireError() {
	address, stop := exampleService(exampleEcho)
	defer stop()

	mux, err := plex.New(context.Background(),
		plex.WithConnector(plex.Dial("tcp", address)),
		plex.WithMinConnections(1),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mux.Close()

	w, err := mux.Writer(context.Background(), time.Second)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer w.Close()

	_, err = mux.Writer(context.Background(), -1) // below zero: do not wait
	fmt.Println(err)
	fmt.Println("timed out:", errors.Is(err, plex.ErrTimeout))

	var acquire *plex.AcquireError
	if errors.As(err, &acquire) {
		fmt.Printf("%d of %d %ss leased\n", acquire.Leased, acquire.Open, acquire.Half)
	}

	// Output:
	// plex: no writer: timed out (capacity 1, open 1, leased 1, connecting 0, waiting 0)
	// timed out: true
	// 1 of 1 writers leased
}

// Add gives connections to a running pool, and hands back those that do not fit.
func ExampleMultiplexer_Add() {
	mux, err := plex.New(context.Background(), plex.WithMaxCapacity(2)) // callers wait for connections
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mux.Close()

	var conns []net.Conn
	for range 3 {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		conns = append(conns, ours)
	}

	rest, err := mux.Add(context.Background(), conns...)
	fmt.Println(mux.Stats().Open, "open,", len(rest), "handed back")
	fmt.Println("too many:", errors.Is(err, plex.ErrTooManyConnections))

	for _, conn := range rest { // still open, and the caller's
		if err := conn.Close(); err != nil {
			fmt.Println(err)
		}
	}

	// Output:
	// 2 open, 1 handed back
	// too many: true
}

// Shutdown waits for the leases that are live, for as long as its context allows.
func ExampleMultiplexer_Shutdown() {
	received := make(chan string, 1)
	address, stop := exampleService(func(conn net.Conn) {
		all, err := io.ReadAll(conn)
		received <- fmt.Sprintf("%q %v", all, err)
	})
	defer stop()

	mux, err := plex.New(context.Background(),
		plex.WithConnector(plex.Dial("tcp", address)),
		plex.WithMinConnections(1),
	)
	if err != nil {
		fmt.Println(err)
		return
	}

	w, err := mux.Writer(context.Background(), time.Second)
	if err != nil {
		fmt.Println(err)
		return
	}
	go func() {
		_, err := w.Write([]byte("last words"))
		if err := errors.Join(err, w.Close()); err != nil {
			fmt.Println(err)
		}
	}()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	fmt.Println(mux.Shutdown(ctx)) // the ctx's error if some lease has not ended in time

	_, err = mux.Writer(context.Background(), time.Second)
	fmt.Println("closed:", errors.Is(err, plex.ErrClosed))
	fmt.Println(<-received)

	// Output:
	// <nil>
	// closed: true
	// "last words" <nil>
}
