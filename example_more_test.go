package plex_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/textproto"
	"os"
	"time"

	"go.atomizer.io/plex"
)

// exampleMail greets like a mail server, and says yes to every command.
func exampleMail(conn net.Conn) {
	_, _ = io.WriteString(conn, "220 ready\r\n")
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		if _, err := fmt.Fprintf(conn, "250 %s is fine\r\n", lines.Text()); err != nil {
			return
		}
	}
}

// examplePool opens connections to an example's service, and nothing else goes wrong in these examples.
func examplePool(connections int, address string, options ...plex.Option) *plex.Multiplexer {
	mux, err := plex.New(context.Background(), append(options,
		plex.WithConnector(plex.Dial("tcp", address)),
		plex.WithMinConnections(connections),
	)...)
	if err != nil {
		panic(err)
	}
	return mux
}

// A whole connection in one lease is a net.Conn, for code that wants one. The connector reads the greeting, so that each
// caller finds the connection ready for a command.
func ExampleMultiplexer_Duplex() {
	address, stop := exampleService(exampleMail)
	defer stop()

	mux, err := plex.New(context.Background(),
		plex.WithMinConnections(1),
		plex.WithConnector(plex.DialFunc(func(ctx context.Context) (net.Conn, error) {
			var dialer net.Dialer
			conn, err := dialer.DialContext(ctx, "tcp", address)
			if err != nil {
				return nil, err
			}
			var greeting [len("220 ready\r\n")]byte
			if _, err := io.ReadFull(conn, greeting[:]); err != nil {
				return nil, errors.Join(err, conn.Close())
			}
			return conn, nil
		})),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mux.Close()

	for _, command := range []string{"NOOP", "RSET"} {
		whole, err := mux.Duplex(context.Background(), time.Second)
		if err != nil {
			fmt.Println(err)
			return
		}
		text := textproto.NewConn(whole)
		if _, err := text.Cmd("%s", command); err != nil {
			fmt.Println(err)
		}
		_, reply, err := text.ReadResponse(250)
		fmt.Println(reply, err)
		if err := text.Close(); err != nil { // puts the connection back
			fmt.Println(err)
		}
	}
	fmt.Println(mux.Stats().Connected, "connection")

	// Output:
	// NOOP is fine <nil>
	// RSET is fine <nil>
	// 1 connection
}

// Detach takes a connection out of the pool, alive: for what is to become of it is not the pool's business any more.
func ExampleDuplex_Detach() {
	address, stop := exampleService(exampleEcho)
	defer stop()
	mux := examplePool(1, address, plex.WithMaxCapacity(2))
	defer mux.Close()

	whole, err := mux.Duplex(context.Background(), time.Second)
	if err != nil {
		fmt.Println(err)
		return
	}
	conn, err := whole.Detach()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close() // which is the caller's from now on

	_, err = io.WriteString(conn, "still here")
	reply := make([]byte, len("still here"))
	_, readErr := io.ReadFull(conn, reply)
	fmt.Printf("%s %v\n", reply, errors.Join(err, readErr))
	_, err = whole.Write(nil)
	fmt.Println(errors.Is(err, plex.ErrLeaseClosed))

	// Output:
	// still here <nil>
	// true
}

// A dialer with options of its own, or one for TLS, or a proxy's, can be the connector's.
func ExampleDialContext() {
	mux, err := plex.New(context.Background(),
		plex.WithConnector(plex.DialContext(&tls.Dialer{
			NetDialer: &net.Dialer{Timeout: 3 * time.Second},
			Config:    &tls.Config{MinVersion: tls.VersionTLS13},
		}, "tcp", "db.example.com:9043")),
		plex.WithMaxCapacity(4), // and no minimum: the first caller makes the pool connect
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mux.Close()
	fmt.Println(mux.Stats().Open, "of", mux.Stats().Capacity, "connections are open")

	// Output:
	// 0 of 4 connections are open
}

// A function that gets a connection from anywhere is a connector.
func ExampleDialFunc() {
	mux, err := plex.New(context.Background(),
		plex.WithMinConnections(1),
		plex.WithConnector(plex.DialFunc(func(context.Context) (net.Conn, error) {
			return nil, errors.New("the tunnel is closed")
		})),
	)
	fmt.Println(mux, err)

	// Output:
	// <nil> plex: WithMinConnections: connecting 1 connections: the tunnel is closed
}

// The pool grows when callers wait for longer than the timeout, up to the capacity.
func ExampleWithAutoScaling() {
	address, stop := exampleService(exampleEcho)
	defer stop()
	mux := examplePool(1, address,
		plex.WithMaxCapacity(3),
		plex.WithAutoScaling(time.Millisecond),
		plex.WithIdleTimeout(time.Hour), // a connection that nobody has needed for so long is closed
	)
	defer mux.Close()

	for range 3 { // three leases at the same time
		w, err := mux.Writer(context.Background(), 0)
		if err != nil {
			fmt.Println(err)
			return
		}
		defer w.Close()
	}
	fmt.Println(mux.Stats().Open, "open,", mux.Stats().ScaledUp, "of them for callers who waited")

	// Output:
	// 3 open, 2 of them for callers who waited
}

// Figures of the pool. Gauges say what is, counters what has been.
func ExampleMultiplexer_Stats() {
	address, stop := exampleService(exampleEcho)
	defer stop()
	mux := examplePool(2, address)
	defer mux.Close()

	w, err := mux.Writer(context.Background(), time.Second)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer w.Close()

	s := mux.Stats()
	fmt.Printf("%d of %d connections open, %d writer leased, %d idle\n", s.Open, s.Capacity, s.LeasedWriters, s.IdleWriters)
	fmt.Println("acquires that waited:", s.Waited, "- lost:", s.Lost, "- last connect error:", s.LastConnectError)

	// Output:
	// 2 of 2 connections open, 1 writer leased, 1 idle
	// acquires that waited: 0 - lost: 0 - last connect error: <nil>
}

// Conns lists the connections, for operators. Each can be looked at, retired or killed.
func ExampleMultiplexer_Conns() {
	address, stop := exampleService(exampleEcho)
	defer stop()
	mux := examplePool(2, address)
	defer mux.Close()

	w, err := mux.Writer(context.Background(), time.Second)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer w.Close()

	for conn := range mux.Conns() {
		info := conn.Info()
		fmt.Println(conn.RemoteAddr().String() == address, info.Writer.State, conn == w.Conn())
	}

	// Unordered output:
	// true idle false
	// true leased true
}

// After a failover all connections are replaced, each before it goes. Callers notice nothing.
func ExampleMultiplexer_Renew() {
	address, stop := exampleService(exampleEcho)
	defer stop()
	mux := examplePool(2, address, plex.WithMaxCapacity(3))
	defer mux.Close()

	if err := mux.Renew(context.Background()); err != nil {
		fmt.Println(err)
	}
	s := mux.Stats()
	fmt.Println(s.Connected, "connected,", s.Retired, "retired,", s.Lost, "lost")

	// Output:
	// 4 connected, 2 retired, 0 lost
}

// A reply that must go back where the question came from is written over the connection of that lease.
func ExampleConn_Writer() {
	replies := make(chan string, 1)
	address, stop := exampleService(func(conn net.Conn) {
		_, _ = io.WriteString(conn, "ping")
		reply := make([]byte, len("pong"))
		_, _ = io.ReadFull(conn, reply)
		replies <- string(reply)
		_, _ = io.Copy(io.Discard, conn) // until plex closes the connection
	})
	defer stop()
	mux := examplePool(1, address)
	defer mux.Close()

	r, err := mux.ReadyReader(context.Background(), time.Second)
	if err != nil {
		fmt.Println(err)
		return
	}
	question := make([]byte, len("ping"))
	_, err = io.ReadFull(r, question)
	from := r.Conn()
	if err := errors.Join(err, r.Close()); err != nil {
		fmt.Println(err)
		return
	}

	w, err := from.Writer(context.Background(), time.Second)
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = io.WriteString(w, "pong")
	if err := errors.Join(err, w.Close()); err != nil {
		fmt.Println(err)
	}
	fmt.Println("the server got", <-replies)

	// Output:
	// the server got pong
}

// An observer is told what happens to connections, one event after the other. It may call the multiplexer.
func ExampleWithObserver() {
	address, stop := exampleService(exampleEcho)
	defer stop()

	healed := make(chan struct{})
	mux := examplePool(1, address, plex.WithName("orders"), plex.WithObserver(func(e plex.Event) {
		fmt.Printf("%s: %s\n", e.Pool, e.Kind)
		if e.Kind == plex.EventHealed {
			close(healed)
		}
	}))
	defer mux.Close()

	for conn := range mux.Conns() {
		conn.Kill()
	}
	<-healed

	// Unordered output:
	// orders: connected
	// orders: lost
	// orders: connected
	// orders: healed
}

// A trace is told of leases, in the goroutine of whoever acquires or closes.
func ExampleWithTrace() {
	address, stop := exampleService(exampleEcho)
	defer stop()
	mux := examplePool(1, address, plex.WithTrace(plex.Trace{
		Acquired: func(_ context.Context, a plex.Acquired) { fmt.Println("acquired a", a.Half, a.Err) },
		Released: func(r plex.Released) { fmt.Println("released a", r.Half, "- killed:", r.Killed) },
	}))
	defer mux.Close()

	w, err := mux.Writer(context.Background(), time.Second)
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := w.Close(); err != nil {
		fmt.Println(err)
	}

	// Output:
	// acquired a writer <nil>
	// released a writer - killed: false
}

// The log has losses and their causes, heals, scaling, and leases that are held for too long.
func ExampleWithLogger() {
	// Times and addresses differ from run to run, so they are left out here.
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			switch a.Key {
			case slog.MessageKey, "cause":
				return a
			}
			return slog.Attr{}
		},
	}))

	ours, theirs := net.Pipe()
	defer theirs.Close()
	mux, err := plex.New(context.Background(), plex.WithConnections(ours), plex.WithLogger(logger))
	if err != nil {
		fmt.Println(err)
		return
	}
	for conn := range mux.Conns() {
		conn.Kill()
	}
	if err := mux.Close(); err != nil { // when it returns, the log is complete
		fmt.Println(err)
	}

	// Output:
	// msg="plex: connection lost" cause="plex: connection killed by its consumer"
}

// A connection that nobody has used for a while is asked whether it lives. One that does not answer is replaced.
func ExampleWithProbe() {
	address, stop := exampleService(exampleEcho)
	defer stop()

	asked := make(chan error, 16)
	mux := examplePool(1, address, plex.WithProbe(10*time.Millisecond, time.Second,
		func(_ context.Context, conn net.Conn) error { // has a deadline already
			_, err := io.WriteString(conn, "PING")
			if err == nil {
				_, err = io.ReadFull(conn, make([]byte, len("PING")))
			}
			select {
			case asked <- err:
			default:
			}
			return err
		}))
	defer mux.Close()
	fmt.Println(<-asked)

	// Output:
	// <nil>
}

// While the service is down, callers need not wait until their timeouts.
func ExampleWithFailFast() {
	mux, err := plex.New(context.Background(),
		plex.WithFailFast(1), // after one connect that has failed
		plex.WithConnector(plex.DialFunc(func(context.Context) (net.Conn, error) {
			return nil, errors.New("connection refused")
		})),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mux.Close()

	_, err = mux.Writer(context.Background(), time.Minute)
	fmt.Println(errors.Is(err, plex.ErrUnavailable), errors.Is(err, plex.ErrTimeout))

	// Output:
	// true false
}

// More callers than are worth keeping are told so at once.
func ExampleWithMaxWaiting() {
	address, stop := exampleService(exampleEcho)
	defer stop()
	mux := examplePool(1, address, plex.WithMaxWaiting(0)) // with 0 nobody waits
	defer mux.Close()

	w, err := mux.Writer(context.Background(), time.Minute)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer w.Close()
	_, err = mux.Writer(context.Background(), time.Minute)
	fmt.Println(err)

	// Output:
	// plex: no writer: too many callers are waiting (capacity 1, open 1, leased 1, connecting 0, waiting 0)
}
