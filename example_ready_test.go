package plex_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex"
)

// Two goroutines read whatever arrives on any of eight connections, a message of four bytes in each lease.
func ExampleMultiplexer_ReadyReader() {
	var conns []net.Conn
	var peers []net.Conn
	for range 8 {
		ours, theirs := net.Pipe()
		conns, peers = append(conns, ours), append(peers, theirs)
	}
	mux, err := plex.New(context.Background(), plex.WithConnections(conns...))
	if err != nil {
		fmt.Println(err)
		return
	}

	messages := make(chan string)
	var consumers sync.WaitGroup
	for range 2 {
		consumers.Go(func() {
			for {
				r, err := mux.ReadyReader(context.Background(), 0) // any of them
				if err != nil {
					return // the multiplexer is closed
				}
				var b [4]byte
				_, err = io.ReadFull(r, b[:])
				if err := errors.Join(err, r.Close()); err != nil {
					fmt.Println(err)
					return
				}
				messages <- string(b[:])
			}
		})
	}

	for i, peer := range peers {
		if _, err := fmt.Fprintf(peer, "no %d", i); err != nil {
			fmt.Println(err)
		}
		fmt.Println(<-messages)
	}
	_ = mux.Close() // which returns nil
	consumers.Wait()

	// Output:
	// no 0
	// no 1
	// no 2
	// no 3
	// no 4
	// no 5
	// no 6
	// no 7
}

// Whoever waits for a reply that can come over one connection only is told when it cannot come any more.
func ExampleConn_AfterEnd() {
	address, stop := exampleService(func(conn net.Conn) {
		_, _ = bufio.NewReader(conn).ReadString('\n') // takes the question, and hangs up
	})
	defer stop()

	mux, err := plex.New(context.Background(), plex.WithConnector(plex.Dial("tcp", address)), plex.WithMinConnections(1))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mux.Close()

	w, err := mux.Writer(context.Background(), 0)
	if err != nil {
		fmt.Println(err)
		return
	}
	ended := make(chan error, 1)
	forget := w.Conn().AfterEnd(func(cause error) { ended <- cause })
	defer forget() // for a reply that comes in time

	_, err = io.WriteString(w, "anyone?\n")
	if err := errors.Join(err, w.Close()); err != nil {
		fmt.Println(err)
	}
	fmt.Println("no reply:", <-ended)

	// Output:
	// no reply: EOF
}

// A connection of which a reply is expected is not retired for its age before that has come.
func ExampleConn_Pin() {
	var connections atomic.Int32
	replaced := make(chan struct{})
	address, stop := exampleService(func(conn net.Conn) {
		if connections.Add(1) == 2 {
			close(replaced) // the first one has become too old
		}
		if question, _ := bufio.NewReader(conn).ReadString('\n'); question != "" {
			<-replaced
			_, _ = io.WriteString(conn, "42\n")
			_, _ = io.Copy(io.Discard, conn) // until plex closes the connection
		}
	})
	defer stop()

	mux, err := plex.New(context.Background(),
		plex.WithConnector(plex.Dial("tcp", address)),
		plex.WithMinConnections(1),
		plex.WithMaxCapacity(2),
		plex.WithMaxLifetime(50*time.Millisecond),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mux.Close()

	w, err := mux.Writer(context.Background(), 0)
	if err != nil {
		fmt.Println(err)
		return
	}
	conn := w.Conn()
	unpin := conn.Pin() // while the lease keeps the connection
	ended := make(chan error, 1)
	conn.AfterEnd(func(cause error) { ended <- cause })

	_, err = io.WriteString(w, "what is it?\n")
	if err := errors.Join(err, w.Close()); err != nil {
		fmt.Println(err)
	}

	r, err := mux.ReadyReader(context.Background(), 0)
	if err != nil {
		fmt.Println(err)
		return
	}
	var reply [3]byte
	_, err = io.ReadFull(r, reply[:])
	if err := errors.Join(err, r.Close()); err != nil {
		fmt.Println(err)
	}
	fmt.Printf("%q, over the connection that was asked: %v\n", reply, r.Conn() == conn)

	unpin() // nothing more is expected
	fmt.Println(<-ended)

	// Output:
	// "42\n", over the connection that was asked: true
	// plex: connection retired, for its age or because nobody needed it
}
