// Command quic pools streams of a QUIC connection: many callers make requests over a few of them, while the server closes
// the QUIC connection again and again. The server is in the same process.
//
//	go run .
//
// Package streams, beside it, is what plex needs to pool streams.
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/examples/internal/selfsigned"
	"go.atomizer.io/plex/examples/quic/streams"
	"go.atomizer.io/plex/request"
)

const pooled, callers, requests, closes = 8, 32, 20_000, 5

func main() {
	limited, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := run(limited); err != nil {
		log.Fatal("quic: ", err)
	}
}

func run(limited context.Context) error {
	serverTLS, clientTLS, err := selfsigned.Configs("plex-example") // QUIC wants a name for what is spoken over it
	if err != nil {
		return err
	}
	listener, err := quic.ListenAddr("127.0.0.1:0", serverTLS, nil)
	if err != nil {
		return err
	}
	defer listener.Close()
	go accept(listener)

	dialer := streams.NewDialer(listener.Addr().String(), clientTLS, &quic.Config{KeepAlivePeriod: time.Second})
	pool, err := plex.New(limited, plex.WithConnector(plex.DialFunc(dialer.DialStream)),
		plex.WithMinConnections(pooled), plex.WithMaxCapacity(pooled))
	if err != nil {
		return errors.Join(err, dialer.Close())
	}
	client, err := request.New(pool, protocol{})
	if err != nil {
		return errors.Join(err, pool.Close(), dialer.Close())
	}

	ctx, fail := context.WithCancelCause(limited)
	defer fail(nil)
	var next, again atomic.Uint64
	var calling sync.WaitGroup
	for range callers {
		calling.Go(func() {
			for n := next.Add(1); n <= requests && ctx.Err() == nil; n = next.Add(1) {
				square, err := client.Do(ctx, n)
				for ; err != nil && ctx.Err() == nil; square, err = client.Do(ctx, n) {
					again.Add(1) // the connection is gone; to ask this server twice does no harm
				}
				if err == nil && square != n*n {
					fail(fmt.Errorf("the square of %d is not %d", n, square))
				}
			}
		})
	}
	calling.Wait()
	stats := pool.Stats()
	if err := errors.Join(context.Cause(ctx), client.Close(), pool.Close(), dialer.Close()); err != nil {
		return err
	}
	fmt.Printf("%8d requests over %d streams, each with the right reply; %d were made again\n", requests, pooled, again.Load())
	fmt.Printf("%8d QUIC connections were dialled for %d streams; %d streams were lost, and %d healed\n",
		dialer.Dials(), stats.Connected, stats.Lost, stats.Healed)
	return nil
}

// accept serves the connections of a client. The first ones it closes soon.
func accept(listener *quic.Listener) {
	for n := 1; ; n++ {
		conn, err := listener.Accept(context.Background())
		if err != nil {
			return
		}
		if n <= closes {
			time.AfterFunc(50*time.Millisecond, func() { _ = conn.CloseWithError(1, "closed by the example") })
		}
		go func() {
			for s, err := conn.AcceptStream(context.Background()); err == nil; s, err = conn.AcceptStream(context.Background()) {
				go square(streams.Conn(conn, s))
			}
		}()
	}
}

// square answers the requests of one stream.
func square(conn net.Conn) {
	defer conn.Close()
	for message := make([]byte, 16); ; {
		if _, err := io.ReadFull(conn, message); err != nil {
			return
		}
		n := binary.BigEndian.Uint64(message[8:])
		if _, err := conn.Write(binary.BigEndian.AppendUint64(message[:8:8], n*n)); err != nil {
			return
		}
	}
}

// protocol tells package request what a message looks like, in both directions: an identifier and a number.
type protocol struct{}

func (protocol) Append(dst []byte, id, n uint64) ([]byte, error) {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(dst, id), n), nil
}

func (protocol) Split(data []byte, _ bool) (advance int, token []byte, err error) {
	if len(data) < 16 {
		return 0, nil, nil
	}
	return 16, data[:16:16], nil
}

func (protocol) Parse(message []byte) (id, n uint64, err error) {
	return binary.BigEndian.Uint64(message), binary.BigEndian.Uint64(message[8:]), nil
}
