package message_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/message"
)

// examplePipe is a multiplexer with one connection, to a peer in memory, and without a connector.
func examplePipe() (mux *plex.Multiplexer, peer net.Conn) {
	ours, theirs := net.Pipe()
	mux, err := plex.New(context.Background(), plex.WithConnections(ours))
	if err != nil {
		panic(err)
	}
	return mux, theirs
}

// A consumer kills a connection that it finds out of step. Nothing more from it is delivered.
func ExampleReceiver_Kill() {
	mux, peer := examplePipe()
	defer mux.Close()
	go func() { fmt.Fprint(peer, "+1\n?\n+2\n") }()

	receiver, err := message.New(mux, message.Lines)
	if err != nil {
		fmt.Println(err)
		return
	}
	for m, err := range receiver.All(context.Background()) {
		switch {
		case errors.Is(err, plex.ErrNoConnections):
			fmt.Println("that was the last connection")
		case err != nil:
			fmt.Println(err)
		case !bytes.HasPrefix(m.Data, []byte("+")):
			fmt.Printf("%q makes no sense\n", m.Data)
			receiver.Kill(m.Conn)
		default:
			fmt.Printf("%q\n", m.Data)
		}
	}

	// Output:
	// "+1"
	// "?" makes no sense
	// that was the last connection
}

// When a Receiver is no longer used and its multiplexer goes on, nobody may read on in the middle
// of a message.
func ExampleReceiver_Discard() {
	mux, peer := examplePipe()
	defer mux.Close()
	go func() { fmt.Fprint(peer, "whole\nbegu") }()

	receiver, err := message.New(mux, message.Lines)
	if err != nil {
		fmt.Println(err)
		return
	}
	for m := range receiver.All(context.Background()) {
		fmt.Printf("%q\n", m.Data)
		break // what has been read and not delivered is kept, for another loop
	}
	fmt.Println(mux.Stats().Killed, "killed")
	receiver.Discard() // there is no other loop
	fmt.Println(mux.Stats().Killed, "killed")

	// Output:
	// "whole"
	// 0 killed
	// 1 killed
}

// A CutError has what came of a message whose connection ended.
func ExampleCutError() {
	mux, peer := examplePipe()
	defer mux.Close()
	go func() {
		fmt.Fprint(peer, "\x0aten b") // the length says ten bytes
		_ = peer.Close()
	}()

	receiver, err := message.New(mux, message.Prefix{Bytes: 1}.Split)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, err := range receiver.All(context.Background()) {
		var cut *message.CutError
		if errors.As(err, &cut) {
			fmt.Printf("%q, and the peer was in good order: %v\n", cut.Data, errors.Is(cut, io.ErrUnexpectedEOF))
		}
	}

	// Output:
	// "\nten b", and the peer was in good order: true
}

// Whether a message can be sent again depends on whether the peer may have got something of it.
func ExampleSendError() {
	mux, peer := examplePipe()
	defer mux.Close()
	send := func() {
		err := message.Send(context.Background(), mux, 10*time.Millisecond, []byte("pay 100\n"))
		var failed *message.SendError
		switch {
		case !errors.As(err, &failed):
			fmt.Println("sent")
		case failed.MaybeSent:
			fmt.Println("the peer may have got it: ask before sending it again")
		default:
			fmt.Println("it can be sent again; it timed out:", errors.Is(err, plex.ErrTimeout))
		}
	}

	w, err := mux.Writer(context.Background(), 0) // the only one
	if err != nil {
		fmt.Println(err)
		return
	}
	send()
	if err := w.Close(); err != nil {
		fmt.Println(err)
	}

	go func() {
		_, _ = io.ReadFull(peer, make([]byte, 3)) // "pay", and no more
		_ = peer.Close()
	}()
	send()

	// Output:
	// it can be sent again; it timed out: true
	// the peer may have got it: ask before sending it again
}

// A log shipper: lines are queued by many goroutines and written together. What could not be
// written is handed back.
func ExampleSender() {
	mux, peer := examplePipe()
	defer mux.Close()
	arrived := make(chan string)
	go func() {
		all, _ := io.ReadAll(peer)
		arrived <- string(all)
	}()

	ctx := context.Background()
	sender, err := message.NewSender(mux,
		message.WithQueue(1<<20), message.WithDrop(message.DropOldest),
		message.WithFailed(func(line []byte, err error) { fmt.Printf("%q: %v\n", line, err) }))
	if err != nil {
		fmt.Println(err)
		return
	}
	for i := range 3 {
		line := fmt.Appendf(nil, "line %d\n", i)
		if err := sender.Queue(line); err != nil { // returns at once
			fmt.Println(err)
		}
	}
	if err := sender.Send(ctx, []byte("and the last\n")); err != nil { // returns when it is written
		fmt.Println(err)
	}
	if err := sender.Close(ctx); err != nil { // writes what is queued
		fmt.Println(err)
	}
	fmt.Println(sender.Stats().Messages, "messages written")

	_ = mux.Close()
	fmt.Print(<-arrived)

	// Output:
	// 4 messages written
	// line 0
	// line 1
	// line 2
	// and the last
}
