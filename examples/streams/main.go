// Command streams sends bytes through a channel and gets them back from another: in chunks, and one by one; and shows what
// a sender is told when its peer dies in the middle.
//
//	go run ./examples/streams
package main

import (
	"bufio"
	"bytes"
	"context"
	crand "crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/examples/internal/timeline"
)

const (
	chunked  = 64 << 20 // bytes that go in chunks
	single   = 4 << 20  // bytes that go one by one
	survived = 10 << 20 // bytes that the peer takes before it dies
	patience = time.Minute
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "streams:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	srv, err := startServer()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, srv.close()) }()

	// With one connection, what goes out through its write half comes back through its read half. A pool with more could
	// not say over which it comes.
	mux, err := plex.New(ctx, plex.WithConnector(plex.Dial("tcp", srv.addr())), plex.WithMinConnections(1))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mux.Close()) }()
	fmt.Printf("Bytes go to %s through one channel, and come back through another.\n\n", srv.addr())

	if err := there(ctx, mux, "in chunks", chunked, sendChunks, recvChunks); err != nil {
		return err
	}
	if err := there(ctx, mux, "byte by byte", single, sendBytes, recvBytes); err != nil {
		return err
	}
	return dies(ctx, mux, srv)
}

// random is so many random bytes.
func random(size int64) io.Reader {
	var seed [32]byte
	_, _ = crand.Read(seed[:]) // it never fails
	return io.LimitReader(rand.NewChaCha8(seed), size)
}

// there sends bytes there and back again.
func there(ctx context.Context, mux *plex.Multiplexer, how string, size int64,
	send func(context.Context, plex.Writer, io.Reader) error,
	recv func(context.Context, plex.Reader, int64, io.Writer) error,
) error {
	w, err := mux.Writer(ctx, 0)
	if err != nil {
		return err
	}
	r, err := mux.Reader(ctx, 0)
	if err != nil {
		return errors.Join(err, w.Close())
	}

	began := time.Now()
	want, got := sha256.New(), sha256.New()
	sent := make(chan error, 1)
	go func() {
		err := send(ctx, w, io.TeeReader(random(size), want))
		sent <- errors.Join(err, w.Close()) // which returns when all is written, or says how much is not
	}()
	err = recv(ctx, r, size, got)
	if err = errors.Join(err, <-sent, r.Close()); err != nil {
		return fmt.Errorf("%s: %w", how, err)
	}
	took := time.Since(began)
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		return fmt.Errorf("%s: the checksum was %x, and is now %x", how, want.Sum(nil), got.Sum(nil))
	}
	fmt.Printf("  %-14s%11s bytes there and back, %6.1f MB/s each way, checksum %x…: the same\n",
		how, timeline.Count(size), float64(size)/1e6/took.Seconds(), got.Sum(nil)[:8])
	return nil
}

// sendChunks sends what it reads in chunks. A chunk belongs to the stream once it is sent, so each is a new one.
func sendChunks(ctx context.Context, w plex.Writer, from io.Reader) error {
	chunks, err := w.SendChunks(ctx, 0)
	if err != nil {
		return err
	}
	defer close(chunks)
	for {
		chunk := make([]byte, 64<<10)
		n, err := from.Read(chunk)
		if n > 0 {
			select {
			case chunks <- chunk[:n]:
			case <-w.Done(): // the connection is gone; without this case, the rest would be taken and dropped
				return nil // the lease's Close says what was not written
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// recvChunks receives until it has size bytes.
func recvChunks(ctx context.Context, r plex.Reader, size int64, to io.Writer) error {
	chunks, err := r.RecvChunks(ctx, 0)
	if err != nil {
		return err
	}
	for chunk := range chunks {
		if _, err := to.Write(chunk); err != nil {
			return err
		}
		if size -= int64(len(chunk)); size <= 0 {
			return nil
		}
	}
	return errors.Join(fmt.Errorf("%d bytes are missing", size), r.Err())
}

// sendBytes sends what it reads byte by byte.
func sendBytes(ctx context.Context, w plex.Writer, from io.Reader) error {
	channel, err := w.Send(ctx, 4<<10)
	if err != nil {
		return err
	}
	defer close(channel)
	in := bufio.NewReader(from)
	for {
		b, err := in.ReadByte()
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		channel <- b // never for ever: when the stream has ended, this is taken and dropped
	}
}

// recvBytes receives until it has size bytes.
func recvBytes(ctx context.Context, r plex.Reader, size int64, to io.Writer) error {
	channel, err := r.Recv(ctx, 4<<10)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(to)
	for b := range channel {
		if err := out.WriteByte(b); err != nil {
			return err
		}
		if size--; size == 0 {
			return out.Flush()
		}
	}
	return errors.Join(fmt.Errorf("%d bytes are missing", size), r.Err())
}

// dies sends bytes to a peer that takes part of them and dies.
func dies(ctx context.Context, mux *plex.Multiplexer, srv *server) error {
	// Another connection is needed, one that dies.
	srv.dieAfter(survived)
	w, err := mux.Writer(ctx, 0)
	if err != nil {
		return err
	}
	if err := w.Kill(); err != nil {
		return err
	}
	w, err = mux.Writer(ctx, 0) // waits until the killed one is replaced
	if err != nil {
		return err
	}

	data := random(chunked)
	err = sendChunks(ctx, w, data)
	why := w.Err()                        // the connection's error, or an *UnsentError with it
	rest, _ := io.Copy(io.Discard, data)  // what the sender has not even tried
	closed, unsent := w.Close(), int64(0) // nil if all that the channel had taken was written before it died
	if counted := new(plex.UnsentError); errors.As(closed, &counted) {
		closed, unsent = nil, counted.Unsent
	}
	if err = errors.Join(err, closed); err != nil {
		return err
	}
	if why == nil {
		return errors.New("a stream to a peer that has died ended as if all were well")
	}
	if soFar := new(plex.UnsentError); errors.As(why, &soFar) {
		why = soFar.Err
	}
	written := chunked - rest - unsent
	fmt.Printf("\nA peer that takes %s of %s bytes, and dies:\n",
		timeline.Count(int64(survived)), timeline.Count(int64(chunked)))
	fmt.Printf("  written      %11s bytes: the system has taken them, and whoever has got them can only say so himself\n",
		timeline.Count(written))
	fmt.Printf("  unsent       %11s bytes: the channel had taken them, and they were not written\n",
		timeline.Count(unsent))
	fmt.Printf("  not tried    %11s bytes: Done had told the sender to stop\n", timeline.Count(rest))
	fmt.Printf("Why, by the lease's Err:\n%s\n", timeline.Wrap(why.Error(), "  ", 100))
	if written < survived {
		return fmt.Errorf("%d bytes were written, and the peer has got %d", written, int64(survived))
	}
	return nil
}
