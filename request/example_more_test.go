package request_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/request"
)

// exampleSlow is a service that reports when it has got a request, and answers all requests when
// answer is closed.
func exampleSlow() (address string, got, answer chan struct{}, stop func()) {
	got, answer = make(chan struct{}, 1), make(chan struct{})
	address, stop = exampleService(func(number, text string) string {
		got <- struct{}{}
		<-answer
		return shout(number, text)
	})
	return address, got, answer, stop
}

// With a bound on the requests in flight, further callers wait for their turn. Their context bounds
// that wait too.
func ExampleWithInFlight() {
	address, got, answer, stop := exampleSlow()
	defer stop()

	mux, err := plex.New(context.Background(), plex.WithConnector(plex.Dial("tcp", address)))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mux.Close()

	client, err := request.New(mux, numbered{}, request.WithInFlight(1))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	replied := make(chan struct{})
	go func() {
		defer close(replied)
		reply, err := client.Do(context.Background(), "first")
		fmt.Println(reply, err)
	}()
	<-got // the first is in flight

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_, err = client.Do(ctx, "second")
	var wait *request.WaitError
	if errors.As(err, &wait) {
		fmt.Printf("%d of %d in flight: %v\n", wait.InFlight, wait.Limit, wait.Err)
	}

	close(answer)
	<-replied

	// Output:
	// 1 of 1 in flight: context deadline exceeded
	// FIRST <nil>
}

// Close fails what is in flight. To shut down cleanly, wait until all calls of Do have returned,
// and then close.
func ExampleClient_Close() {
	address, got, answer, stop := exampleSlow()
	defer stop()
	defer close(answer)

	mux, err := plex.New(context.Background(), plex.WithConnector(plex.Dial("tcp", address)))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mux.Close() // after the client

	client, err := request.New(mux, numbered{})
	if err != nil {
		fmt.Println(err)
		return
	}

	failed := make(chan error)
	go func() {
		_, err := client.Do(context.Background(), "hello")
		failed <- err
	}()
	<-got // it is in flight

	fmt.Println(client.Close())
	fmt.Println(<-failed)
	_, err = client.Do(context.Background(), "hello again")
	fmt.Println(err)

	// Output:
	// <nil>
	// request: may have been sent, no reply: client closed
	// request: not sent: client closed
}
