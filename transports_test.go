package plex_test

// The real transports: TCP, TLS, Unix, UDP, net.Pipe and a connection that refuses deadlines. Each is used by many
// goroutines at once under the byte oracle, torn down at every awkward moment, and afterwards the process has the
// goroutines and descriptors that it had.

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
)

// ---------------------------------------------------------------------------------------------------------------
// Load

// TestTransportLosesNoByteUnderLoad has more goroutines than connections read and write through short leases that end
// in every way that does no harm, until each stream has passed in full.
func TestTransportLosesNoByteUnderLoad(t *testing.T) {
	forEachTransport(t, anyTransport, func(t *testing.T, books *ledger, tr transport) {
		const (
			connections = 4
			workers     = 7           // for each direction
			total       = int64(96e3) // bytes for each connection and direction
			all         = total * connections
			downSize    = 700 // of the peers' writes
		)
		ls := openLinks(t, books, tr, connections)
		mux := books.mux(plex.WithConnections(ls.clients()...))
		bounded := soon(t)
		ctx, cancel := context.WithCancel(bounded)
		defer cancel()

		var peers, readers, writers sync.WaitGroup
		for _, l := range ls {
			peers.Go(func() {
				assert.NoError(t, writeOracle(l.server, l.down, 0, total, downSize), "the peer's stream to the client")
			})
			peers.Go(func() {
				n, err := readOracle(l.server, l.up, total)
				assert.NoError(t, err, "the client's stream to its peer")
				assert.Equal(t, total, n)
			})
		}

		// While all goes well a reader ends when there is nothing more to read, which it cannot tell from a peer that
		// takes its time; the last one to get bytes therefore cancels ctx.
		var left atomic.Int64
		left.Store(all)
		deliver := func(l *link, lease int, data []byte) {
			l.deliver(lease, data)
			if left.Add(-int64(len(data))) <= 0 {
				cancel()
			}
		}
		for range workers {
			readers.Go(func() {
				for {
					r, err := mux.Reader(ctx, 0)
					if err != nil {
						assert.ErrorIs(t, err, context.Canceled, "readers end because everything was read")
						return
					}
					l := ls.of(r.LocalAddr())
					lease := l.begin()
					readSomehow(ctx, t, tr, r, func(data []byte) { deliver(l, lease, data) })
				}
			})
		}
		var unfinished atomic.Int64
		unfinished.Store(connections)
		for range workers {
			writers.Go(func() {
				for unfinished.Load() > 0 {
					w, err := mux.Writer(bounded, 0)
					if !assert.NoError(t, err) {
						return
					}
					l := ls.of(w.LocalAddr())
					n := min(total-l.written, 1+rand.Int64N(2000))
					if n == 0 {
						assert.NoError(t, w.Close())
						continue
					}
					from := l.written
					l.written += n
					if l.written == total {
						unfinished.Add(-1)
					}
					if !assert.NoError(t, writeSomehow(t, w, l.up, from, n)) {
						return
					}
				}
			})
		}
		finish(t, "the load", func() {
			writers.Wait()
			peers.Wait()
			if tr.deadlines {
				readers.Wait()
			} else { // some still read where nothing will come
				<-ctx.Done()
				assert.NoError(t, mux.Close())
				readers.Wait()
			}
		})
		for _, l := range ls {
			n, err := l.checkReceived()
			assert.NoError(t, err)
			assert.Equal(t, total, n, "all that the peer sent was read")
		}
		if tr.deadlines {
			stats := mux.Stats()
			assert.Zero(t, stats.Lost, "nothing that the consumers did is a fault")
			assert.Equal(t, connections, stats.IdleReaders)
			assert.Equal(t, connections, stats.IdleWriters)
		}
	})
}

// readSomehow uses r in a random way and closes it.
func readSomehow(ctx context.Context, t *testing.T, tr transport, r plex.Reader, deliver func([]byte)) {
	way := rand.IntN(6)
	if !tr.deadlines { // no way to end a read that waits
		way = 0
	}
	buf := make([]byte, 1+rand.IntN(1500))
	moment := time.Duration(rand.IntN(400)) * time.Microsecond
	// An interrupted read is how many of these leases end.
	harmless := func(err error) bool {
		return err == nil || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, plex.ErrLeaseClosed) ||
			(!tr.deadlines && errors.Is(err, plex.ErrClosed))
	}
	switch way {
	case 0: // a read without more
		if tr.deadlines {
			assert.NoError(t, r.SetReadDeadline(time.Now().Add(moment)))
		}
		n, err := r.Read(buf)
		deliver(buf[:n])
		assert.True(t, harmless(err), "%v", err)
	case 1: // a read that the lease's end interrupts, or that it finds to be over
		closed := make(chan struct{})
		time.AfterFunc(moment, func() {
			defer close(closed)
			_ = r.Close()
		})
		for {
			n, err := r.Read(buf)
			deliver(buf[:n])
			if err != nil {
				assert.ErrorIs(t, err, plex.ErrLeaseClosed)
				break
			}
		}
		<-closed // the second Close below does not wait for the first
	case 2: // a stream of bytes that its ctx ends, ranged over to its end
		ctx, cancel := context.WithTimeout(ctx, moment)
		defer cancel()
		bytes, err := r.Recv(ctx, rand.IntN(64))
		if assert.NoError(t, ignore(err, context.DeadlineExceeded, context.Canceled)) && err == nil {
			for b := range bytes {
				deliver([]byte{b})
			}
			assert.Error(t, r.Err())
			assert.True(t, errors.Is(r.Err(), context.DeadlineExceeded) || errors.Is(r.Err(), context.Canceled), "%v", r.Err())
		}
	case 3: // a stream of chunks that its ctx ends, ranged over to its end, and a read after it
		ctx, cancel := context.WithTimeout(ctx, moment)
		defer cancel()
		chunks, err := r.RecvChunks(ctx, len(buf))
		if assert.NoError(t, ignore(err, context.DeadlineExceeded, context.Canceled)) && err == nil {
			for chunk := range chunks {
				assert.LessOrEqual(t, len(chunk), len(buf))
				deliver(chunk)
			}
			assert.NoError(t, r.SetReadDeadline(time.Now().Add(moment)))
			n, err := r.Read(buf)
			deliver(buf[:n])
			assert.True(t, harmless(err), "%v", err)
		}
	case 4: // a stream of bytes that is left alone with some of it taken
		bytes, err := r.Recv(t.Context(), rand.IntN(64))
		if assert.NoError(t, err) {
			taking := time.After(moment)
			for taken := false; !taken; {
				select {
				case b := <-bytes:
					deliver([]byte{b})
				case <-taking:
					taken = true
				}
			}
			assert.NoError(t, r.Close())
			for b := range bytes {
				t.Errorf("a closed lease's stream still held %x", b)
			}
		}
	case 5: // a stream of chunks that is left alone with some of it taken
		chunks, err := r.RecvChunks(t.Context(), len(buf))
		if assert.NoError(t, err) {
			select {
			case chunk := <-chunks:
				deliver(chunk)
			case <-time.After(moment):
			}
			assert.NoError(t, r.Close())
			for chunk := range chunks {
				t.Errorf("a closed lease's stream still held %x", chunk)
			}
		}
	}
	if err := r.Close(); err != nil {
		assert.ErrorIs(t, err, plex.ErrLeaseClosed)
	}
}

// writeSomehow writes n bytes of the stream in a random way and closes w.
func writeSomehow(t *testing.T, w plex.Writer, stream int, from, n int64) error {
	buf := make([]byte, n)
	oracle(buf, stream, from)
	switch rand.IntN(5) {
	case 0: // a single write
		if m, err := w.Write(buf); err != nil {
			return fmt.Errorf("%d of %d bytes written: %w", m, n, err)
		}
	case 1: // several
		if err := writeOracle(w, stream, from, n, 1+rand.IntN(500)); err != nil {
			return err
		}
	case 2: // a stream that its channel ends
		bytes, err := w.Send(t.Context(), rand.IntN(64))
		if err != nil {
			return err
		}
		for _, b := range buf {
			bytes <- b
		}
		close(bytes)
	case 3: // a stream that the lease ends, which flushes it
		bytes, err := w.Send(t.Context(), rand.IntN(64))
		if err != nil {
			return err
		}
		for _, b := range buf {
			bytes <- b
		}
		defer close(bytes)
	case 4: // chunks
		chunks, err := w.SendChunks(t.Context(), 1+rand.IntN(1000))
		if err != nil {
			return err
		}
		for len(buf) > 0 {
			k := min(1+rand.IntN(300), len(buf))
			chunks <- buf[:k:k]
			buf = buf[k:]
		}
		close(chunks)
	}
	return w.Close()
}

// TestTransportCloseUnderLoad closes the multiplexer while every kind of call is under way, and all of them return.
func TestTransportCloseUnderLoad(t *testing.T) {
	forEachTransport(t, anyTransport, func(t *testing.T, books *ledger, tr transport) {
		for range 3 {
			ls := openLinks(t, books, tr, 3)
			mux := books.mux(plex.WithConnections(ls.clients()...))
			var peers, users sync.WaitGroup
			for _, l := range ls {
				peers.Go(func() { _, _ = io.Copy(io.Discard, l.server) })
				peers.Go(func() {
					for {
						if _, err := l.server.Write(make([]byte, 512)); err != nil {
							return
						}
					}
				})
			}
			busy := make(chan struct{}, 200)
			user := func(lease func() (io.Closer, error), use func(io.Closer) error) {
				users.Go(func() {
					for {
						c, err := lease()
						if err != nil {
							assert.ErrorIs(t, err, plex.ErrClosed)
							return
						}
						if err = use(c); err != nil {
							assert.ErrorIs(t, err, net.ErrClosed)
						}
						_ = c.Close()
						assert.ErrorIs(t, c.Close(), plex.ErrLeaseClosed)
						select {
						case busy <- struct{}{}:
						default:
						}
					}
				})
			}
			reader := func() (io.Closer, error) { return mux.Reader(context.Background(), 0) }
			writer := func() (io.Closer, error) { return mux.Writer(context.Background(), 0) }
			for range 2 {
				user(reader, func(c io.Closer) error {
					_, err := io.ReadFull(c.(plex.Reader), make([]byte, 2000))
					return err
				})
				user(writer, func(c io.Closer) error {
					_, err := c.(plex.Writer).Write(make([]byte, 100_000))
					return err
				})
				user(writer, func(c io.Closer) error {
					bytes, err := c.(plex.Writer).Send(context.Background(), 16)
					if err == nil {
						for range 1000 {
							bytes <- 1
						}
						close(bytes)
					}
					return err
				})
				user(writer, func(c io.Closer) error {
					chunks, err := c.(plex.Writer).SendChunks(context.Background(), 0)
					if err == nil {
						for range 20 {
							chunks <- make([]byte, 5000)
						}
						close(chunks)
					}
					return err
				})
				if !tr.deadlines { // a stream that waits costs the connection
					continue
				}
				user(reader, func(c io.Closer) error {
					bytes, err := c.(plex.Reader).Recv(context.Background(), 16)
					if err == nil {
						for range 1000 {
							<-bytes
						}
					}
					return err
				})
				user(reader, func(c io.Closer) error {
					chunks, err := c.(plex.Reader).RecvChunks(context.Background(), 300)
					if err == nil {
						for range 20 {
							<-chunks
						}
					}
					return err
				})
			}
			finish(t, "the multiplexer's close", func() {
				for range 50 {
					<-busy
				}
				assert.NoError(t, mux.Close())
				users.Wait()
			})
			for _, l := range ls {
				assert.NoError(t, ignore(l.server.Close(), net.ErrClosed, syscall.EPIPE, syscall.ECONNRESET))
			}
			finish(t, "the peers' end", peers.Wait)
			assert.Zero(t, mux.Stats().Open)
		}
	})
}

// TestTransportCloseEndsStreamsThatNobodyUses: one whose bytes nobody takes and one on which nobody sends.
func TestTransportCloseEndsStreamsThatNobodyUses(t *testing.T) {
	forEachTransport(t, anyTransport, func(t *testing.T, books *ledger, tr transport) {
		mux, l := openOne(t, books, tr)
		var peer sync.WaitGroup
		peer.Go(func() {
			for {
				if _, err := l.server.Write(make([]byte, 512)); err != nil {
					return
				}
			}
		})
		r, w := leaseReader(t, mux), leaseWriter(t, mux)
		in, err := r.Recv(context.Background(), 0)
		require.NoError(t, err)
		out, err := w.SendChunks(context.Background(), 0)
		require.NoError(t, err)
		takeFrom(t, in) // now it has more than anybody takes
		finish(t, "the multiplexer's close", func() { assert.NoError(t, mux.Close()) })
		finish(t, "the end of the stream", func() {
			for range in {
			}
			<-w.Done()
		})
		assert.ErrorIs(t, r.Err(), plex.ErrClosed)
		assert.ErrorIs(t, w.Err(), plex.ErrClosed)
		assert.NoError(t, r.Close())
		assert.NoError(t, w.Close())
		close(out)
		require.NoError(t, ignore(l.server.Close(), net.ErrClosed, syscall.EPIPE, syscall.ECONNRESET))
		finish(t, "the peer's end", peer.Wait)
	})
}

// ignore returns err unless it is one of those.
func ignore(err error, those ...error) error {
	for _, e := range those {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}

// ---------------------------------------------------------------------------------------------------------------
// Faults

// reset makes the peer send an RST.
func reset(t *testing.T, l *link) {
	t.Helper()
	require.NoError(t, l.server.(*net.TCPConn).SetLinger(0))
	require.NoError(t, l.server.Close())
}

func resets(tr transport) bool { return tr.resets }

func TestTransportResetInTheMiddleOfARead(t *testing.T) {
	forEachTransport(t, resets, func(t *testing.T, books *ledger, tr transport) {
		mux, l := openOne(t, books, tr)
		r, w := leaseReader(t, mux), leaseWriter(t, mux)
		data := make([]byte, 4096)
		oracle(data, l.down, 0)

		// With a part of what was written the rest is there too.
		_, err := l.server.Write(data)
		require.NoError(t, err)
		buf := make([]byte, 1000)
		n, err := io.ReadFull(r, buf)
		require.NoError(t, err)
		l.deliver(0, buf[:n])
		reset(t, l)

		finish(t, "reading after the reset", func() {
			for err == nil {
				n, err = r.Read(buf)
				l.deliver(0, buf[:n])
			}
		})
		require.ErrorIs(t, err, syscall.ECONNRESET)
		got, wrong := l.checkReceived()
		assert.NoError(t, wrong)
		if runtime.GOOS == "linux" {
			assert.Equal(t, int64(len(data)), got, "what had arrived was read")
		}
		_, err = w.Write([]byte("late"))
		assert.ErrorIs(t, err, syscall.ECONNRESET, "the other half reports the first cause")
		assert.ErrorIs(t, r.Err(), syscall.ECONNRESET)
		assert.ErrorIs(t, w.Err(), syscall.ECONNRESET)
		_ = r.Close()
		_ = w.Close()
		assertLost(t, mux)
	})
}

// assertLost checks that the only connection of mux was lost and that this is told at once to who wants another.
func assertLost(t *testing.T, mux *plex.Multiplexer) {
	t.Helper()
	assert.EqualValues(t, 1, mux.Stats().Lost)
	_, err := mux.Reader(soon(t), 0)
	assert.ErrorIs(t, err, plex.ErrNoConnections)
	_, err = mux.Writer(soon(t), 0)
	assert.ErrorIs(t, err, plex.ErrNoConnections)
	assert.Zero(t, mux.Stats().Open)
}

// TestTransportResetWakesBothHalves resets while a Read and a Write are blocked, or streams are under way.
func TestTransportResetWakesBothHalves(t *testing.T) {
	forEachTransport(t, resets, func(t *testing.T, books *ledger, tr transport) {
		for _, streams := range []bool{false, true} {
			t.Run(fmt.Sprintf("streams=%v", streams), func(t *testing.T) {
				mux, l := openOne(t, books, tr)
				r, w := leaseReader(t, mux), leaseWriter(t, mux)
				var both sync.WaitGroup
				var readErr, writeErr error
				if streams {
					chunks, err := r.RecvChunks(t.Context(), 0)
					require.NoError(t, err)
					bytes, err := w.Send(t.Context(), 0)
					require.NoError(t, err)
					both.Go(func() {
						for range chunks {
						}
						readErr = r.Err()
					})
					both.Go(func() {
						for stopped := false; !stopped; {
							select {
							case bytes <- 1:
							case <-w.Done():
								stopped = true
							}
						}
						close(bytes)
						writeErr = w.Err()
					})
				} else {
					both.Go(func() { _, readErr = r.Read(make([]byte, 10)) })
					both.Go(func() {
						for writeErr == nil {
							_, writeErr = w.Write(make([]byte, 1<<20))
						}
					})
				}
				// One byte shows that the writer is at it.
				_, err := io.ReadFull(l.server, make([]byte, 1))
				require.NoError(t, err)
				reset(t, l)
				finish(t, "waking both halves", both.Wait)
				shared := func(cause error) bool { return errors.Is(readErr, cause) && errors.Is(writeErr, cause) }
				assert.True(t, shared(syscall.ECONNRESET) || shared(syscall.EPIPE), "both halves report one cause: %v; %v", readErr, writeErr)
				if streams {
					var unsent *plex.UnsentError
					if errors.As(w.Close(), &unsent) {
						assert.Positive(t, unsent.Unsent)
					}
				} else {
					_ = w.Close()
				}
				_ = r.Close()
				assertLost(t, mux)
			})
		}
	})
}

// endStream ends the peer's stream, and only that where the transport can.
func endStream(t *testing.T, tr transport, l *link) {
	t.Helper()
	if tr.halfCloses {
		require.NoError(t, l.server.(interface{ CloseWrite() error }).CloseWrite())
	} else {
		require.NoError(t, l.server.Close())
	}
}

func TestTransportPeerEndsItsStream(t *testing.T) {
	forEachTransport(t, anyTransport, func(t *testing.T, books *ledger, tr transport) {
		mux, l := openOne(t, books, tr)
		r, w := leaseReader(t, mux), leaseWriter(t, mux)
		const n = 5000
		var peer sync.WaitGroup
		peer.Go(func() {
			assert.NoError(t, writeOracle(l.server, l.down, 0, n, 999))
			endStream(t, tr, l)
		})
		finish(t, "reading to the end", func() {
			got, err := readOracle(r, l.down, -1)
			assert.Equal(t, io.EOF, err)
			assert.EqualValues(t, n, got, "what was sent before the end is read before it")
			peer.Wait()
		})
		_, err := r.Read(make([]byte, 1))
		assert.ErrorIs(t, err, io.EOF, "the end stays")
		assert.NoError(t, r.Close())

		// The peer may still be reading: a live write lease finishes, and is the last.
		_, err = mux.Writer(t.Context(), -1)
		assert.Error(t, err)
		if tr.halfCloses {
			require.NoError(t, writeOracle(w, l.up, 0, n, 777))
			finish(t, "the peer's reading", func() {
				got, err := readOracle(l.server, l.up, n)
				assert.NoError(t, err)
				assert.EqualValues(t, n, got)
			})
		}
		assert.NoError(t, w.Close())
		if tr.halfCloses {
			finish(t, "the connection's end at the peer", func() {
				_, err := io.ReadFull(l.server, make([]byte, 1))
				assert.Equal(t, io.EOF, err)
			})
		}
		assertLost(t, mux)
	})
}

// TestTransportEndOfStreamEndsStreamsCleanly reads to the end through streams, with a new lease now and then.
func TestTransportEndOfStreamEndsStreamsCleanly(t *testing.T) {
	forEachTransport(t, func(tr transport) bool { return tr.deadlines }, func(t *testing.T, books *ledger, tr transport) {
		mux, l := openOne(t, books, tr)
		const n = 3000
		var peer sync.WaitGroup
		peer.Go(func() {
			assert.NoError(t, writeOracle(l.server, l.down, 0, n, 500))
			endStream(t, tr, l)
		})
		{
			for round := 0; ; round++ {
				r, err := mux.Reader(soon(t), 0)
				if errors.Is(err, plex.ErrNoConnections) { // the last lease stopped just where the stream ends
					break
				}
				require.NoError(t, err)
				lease, taken, ended := l.begin(), 0, true
				if round%2 == 0 {
					bytes, err := r.Recv(t.Context(), 10)
					require.NoError(t, err)
					for b := range bytes {
						l.deliver(lease, []byte{b})
						if taken++; taken == 333 {
							ended = false
							break
						}
					}
				} else {
					chunks, err := r.RecvChunks(t.Context(), 100)
					require.NoError(t, err)
					for chunk := range chunks {
						l.deliver(lease, chunk)
						if taken++; taken == 3 {
							ended = false
							break
						}
					}
				}
				assert.NoError(t, r.Err(), "an end of the stream is no error, nor is one under way")
				assert.NoError(t, r.Close())
				if ended {
					break
				}
			}
		}
		finish(t, "the peer", peer.Wait)
		got, err := l.checkReceived()
		assert.NoError(t, err)
		assert.EqualValues(t, n, got)
		assertLost(t, mux)
	})
}

// ---------------------------------------------------------------------------------------------------------------
// Interrupts

func TestTransportCloseInterruptsRead(t *testing.T) {
	forEachTransport(t, anyTransport, func(t *testing.T, books *ledger, tr transport) {
		mux, l := openOne(t, books, tr)
		for i := range 20 {
			r := leaseReader(t, mux)
			returned := make(chan error, 1)
			go func() {
				_, err := r.Read(make([]byte, 100))
				returned <- err
			}()
			for range i % 4 { // sometimes before it is blocked
				runtime.Gosched()
			}
			finish(t, "Close", func() { _ = r.Close() })
			assert.ErrorIs(t, <-returned, plex.ErrLeaseClosed, "Close waits until the Read is out")
			assert.ErrorIs(t, r.Close(), plex.ErrLeaseClosed)
			if mux.Stats().Lost > 0 {
				break
			}

			// Nothing of the interrupt is left for the next lease.
			next := leaseReader(t, mux)
			go func() { _, _ = l.server.Write([]byte("8 bytes.")) }()
			buf := make([]byte, 8)
			_, err := io.ReadFull(next, buf)
			require.NoError(t, err)
			assert.Equal(t, "8 bytes.", string(buf))
			require.NoError(t, next.Close())
		}
		if tr.deadlines {
			assert.Zero(t, mux.Stats().Lost)
			return
		}
		// Closing it was the only way to interrupt the Read. Make sure that one was blocked.
		if mux.Stats().Lost == 0 {
			r := leaseReader(t, mux)
			returned := make(chan error, 1)
			go func() {
				_, err := r.Read(make([]byte, 100))
				returned <- err
			}()
			eventually(t, func() bool { return blockedIn("net.(*conn).Read(") }, "a blocked Read")
			finish(t, "Close", func() { _ = r.Close() })
			assert.ErrorIs(t, <-returned, plex.ErrLeaseClosed)
		}
		assertLost(t, mux)
	})
}

// TestTransportInterruptedWriteIsNeverReused has a lease end while its Write is cut short by a peer that does not
// read: the peer got what the Write reports and nothing comes after it.
func TestTransportInterruptedWriteIsNeverReused(t *testing.T) {
	for _, way := range []string{"deadline", "close"} {
		t.Run(way, func(t *testing.T) {
			forEachTransport(t, func(tr transport) bool { return tr.deadlines || way == "close" }, func(t *testing.T, books *ledger, tr transport) {
				mux, l := openOne(t, books, tr)
				w, r := leaseWriter(t, mux), leaseReader(t, mux)
				data := make([]byte, 16<<20) // more than the buffers between the two take
				oracle(data, l.up, 0)
				type result struct {
					n   int
					err error
				}
				wrote := make(chan result, 1)
				go func() {
					n, err := w.Write(data)
					wrote <- result{n, err}
				}()
				head := make([]byte, 1000)
				_, err := io.ReadFull(l.server, head) // the Write is under way
				require.NoError(t, err)
				require.NoError(t, checkOracle(head, l.up, 0))
				var got result
				if way == "deadline" {
					require.NoError(t, w.SetWriteDeadline(time.Now()))
					got = <-wrote
					assert.ErrorIs(t, got.err, os.ErrDeadlineExceeded)
					_ = w.Close()
				} else {
					finish(t, "Close", func() { _ = w.Close() })
					got = <-wrote
					assert.ErrorIs(t, got.err, plex.ErrLeaseClosed)
				}
				assert.Less(t, got.n, len(data))
				assert.GreaterOrEqual(t, got.n, len(head))
				finish(t, "the peer's reading", func() {
					rest, _ := io.ReadAll(l.server) // however the connection ends
					assert.NoError(t, checkOracle(rest, l.up, int64(len(head))))
					assert.Equal(t, got.n, len(head)+len(rest), "Write reports what the peer gets")
				})
				_, err = r.Read(head)
				assert.Error(t, err, "the other half is lost too")
				assert.NotErrorIs(t, err, io.EOF)
				_ = r.Close()
				assertLost(t, mux)
			})
		})
	}
}

// TestTransportForgetsDeadlines leaves deadlines on leases, passed and pending, used and unused.
func TestTransportForgetsDeadlines(t *testing.T) {
	forEachTransport(t, func(tr transport) bool { return tr.deadlines }, func(t *testing.T, books *ledger, tr transport) {
		mux, l := openOne(t, books, tr)
		go echo(l.server)
		for i := range 12 {
			moment := time.Now().Add(time.Duration(i%3-1) * time.Millisecond)
			r, w := leaseReader(t, mux), leaseWriter(t, mux)
			require.NoError(t, r.SetReadDeadline(moment))
			require.NoError(t, w.SetWriteDeadline(moment))
			if i%2 == 0 {
				_, err := r.Read(make([]byte, 1))
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				var timeout net.Error
				require.ErrorAs(t, err, &timeout)
				assert.True(t, timeout.Timeout())
			}
			if i%2 == 0 && tr.writeTimeouts {
				require.NoError(t, w.SetWriteDeadline(past))
				_, err := w.Write(make([]byte, 1))
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			}
			require.NoError(t, r.Close())
			require.NoError(t, w.Close())

			r, w = leaseReader(t, mux), leaseWriter(t, mux)
			finish(t, "an echo", func() {
				_, err := w.Write([]byte("echo"))
				assert.NoError(t, err)
				buf := make([]byte, 4)
				_, err = io.ReadFull(r, buf)
				assert.NoError(t, err)
				assert.Equal(t, "echo", string(buf))
			})
			require.NoError(t, r.Close())
			require.NoError(t, w.Close())
		}
		assert.Zero(t, mux.Stats().Lost)
	})
}

func TestTransportWithoutDeadlinesSaysSoAndLives(t *testing.T) {
	books := newLedger(t)
	mux, l := openOne(t, books, transport{open: stubbornPair})
	r, w := leaseReader(t, mux), leaseWriter(t, mux)
	assert.ErrorIs(t, r.SetReadDeadline(time.Now()), os.ErrNoDeadline)
	assert.ErrorIs(t, w.SetWriteDeadline(time.Now()), os.ErrNoDeadline)
	_, err := w.Write([]byte("up"))
	require.NoError(t, err)
	_, err = l.server.Write([]byte("down"))
	require.NoError(t, err)
	buf := make([]byte, 4)
	_, err = io.ReadFull(r, buf)
	require.NoError(t, err)
	_, err = io.ReadFull(l.server, buf[:2])
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.NoError(t, w.Close())
	stats := mux.Stats()
	assert.Zero(t, stats.Lost)
	assert.Equal(t, 1, stats.IdleReaders)
	assert.Equal(t, 1, stats.IdleWriters)
}

// TestTransportWithoutDeadlinesIsClosedToEndAStream: closing it is the only way to end a stream that waits, whether
// its ctx or its lease ends.
func TestTransportWithoutDeadlinesIsClosedToEndAStream(t *testing.T) {
	for _, way := range []string{"ctx", "close", "kill"} {
		t.Run(way, func(t *testing.T) {
			books := newLedger(t)
			mux, l := openOne(t, books, transport{open: stubbornPair})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r := leaseReader(t, mux)
			bytes, err := r.Recv(ctx, 1)
			require.NoError(t, err)
			_, err = l.server.Write([]byte("x"))
			require.NoError(t, err)
			assert.Equal(t, byte('x'), <-bytes)
			eventually(t, func() bool { return blockedIn("net.(*conn).Read(") }, "a blocked Read")
			finish(t, "the stream's end", func() {
				switch way {
				case "ctx":
					cancel()
					for range bytes {
					}
					assert.ErrorIs(t, r.Err(), context.Canceled)
				case "kill":
					assert.NoError(t, r.Kill())
				}
				_ = r.Close()
				for range bytes {
				}
			})
			assertLost(t, mux)
			finish(t, "the connection's end at the peer", func() { _, _ = io.Copy(io.Discard, l.server) })
		})
	}
}

func TestTransportKill(t *testing.T) {
	forEachTransport(t, anyTransport, func(t *testing.T, books *ledger, tr transport) {
		mux, l := openOne(t, books, tr)
		r, w := leaseReader(t, mux), leaseWriter(t, mux)
		returned := make(chan error, 1)
		go func() {
			_, err := r.Read(make([]byte, 1))
			returned <- err
		}()
		finish(t, "Kill", func() { assert.NoError(t, w.Kill()) })
		assert.ErrorIs(t, <-returned, plex.ErrKilled)
		_, err := w.Write([]byte("x"))
		assert.ErrorIs(t, err, plex.ErrLeaseClosed)
		_ = r.Close()
		finish(t, "the connection's end at the peer", func() { _, _ = io.Copy(io.Discard, l.server) })
		assertLost(t, mux)
		assert.EqualValues(t, 1, mux.Stats().Killed)
	})
}

// TestTransportClosedAtItsEndGivesBackWhatWasRead: with the peer's end read and no writer, plex closes the transport,
// whose deadlines can then no longer be set. A stream that is interrupted just then must not lose what it has read.
func TestTransportClosedAtItsEndGivesBackWhatWasRead(t *testing.T) {
	for _, closing := range []string{"begun", "done"} {
		for _, way := range []string{"close", "ctx", "deadline"} {
			t.Run(fmt.Sprintf("%s/%s", closing, way), func(t *testing.T) {
				bubble(t, func(t *testing.T, l *ledger) {
					m, c, peer := l.single()
					proceed := make(chan struct{})
					if closing == "begun" {
						c.Hooks.Close = func() { <-proceed }
					} else {
						c.AfterClose(func() { <-proceed })
					}
					peer.Send("abc")
					peer.CloseWrite()
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					r := readerOf(t, m)
					if way == "deadline" { // which is to be cleared
						require.NoError(t, r.SetReadDeadline(time.Now().Add(time.Hour)))
					}
					bytes, err := r.Recv(ctx, 10)
					require.NoError(t, err)
					synctest.Wait() // the stream has all, and is about to end
					require.Equal(t, byte('a'), <-bytes)
					switch way {
					case "ctx":
						cancel()
						synctest.Wait()
					case "deadline":
						close(proceed)
						synctest.Wait()
					}
					closed := later(r.Close)
					synctest.Wait()
					if way != "deadline" {
						close(proceed)
					}
					require.NoError(t, <-closed)

					r = readerOf(t, m)
					assert.Equal(t, "bc", readN(t, r, 2))
					_, err = r.Read(make([]byte, 1))
					assert.Equal(t, io.EOF, err)
					requireClosed(t, r)
					assertLost(t, m)
				})
			})
		}
	}
}

// ---------------------------------------------------------------------------------------------------------------
// TLS

func tlsTransport() transport { return transport{name: "tls", open: tlsPair} }

// TestTLSReadTimeoutIsHarmless: unlike a timeout of a write or a handshake.
func TestTLSReadTimeoutIsHarmless(t *testing.T) {
	mux, l := openOne(t, newLedger(t), tlsTransport())
	for range 10 {
		r := leaseReader(t, mux)
		require.NoError(t, r.SetReadDeadline(time.Now().Add(time.Millisecond)))
		_, err := r.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.NoError(t, r.Close())
	}
	_, err := l.server.Write([]byte("after"))
	require.NoError(t, err)
	r := leaseReader(t, mux)
	buf := make([]byte, 5)
	_, err = io.ReadFull(r, buf)
	require.NoError(t, err)
	assert.Equal(t, "after", string(buf))
	require.NoError(t, r.Close())
	w := leaseWriter(t, mux)
	_, err = w.Write(buf)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	assert.Zero(t, mux.Stats().Lost)
}

// TestTLSWriteTimeoutLosesTheConnection: crypto/tls refuses every later write, so the connection is of no more use,
// though nothing at all may have been sent.
func TestTLSWriteTimeoutLosesTheConnection(t *testing.T) {
	for _, way := range []string{"nothing sent", "cut short", "stream's ctx", "stream's lease"} {
		t.Run(way, func(t *testing.T) {
			mux, l := openOne(t, newLedger(t), tlsTransport())
			w, other := leaseWriter(t, mux), leaseReader(t, mux)
			underWay := func() {
				_, err := io.ReadFull(l.server, make([]byte, 1))
				require.NoError(t, err)
			}
			switch way {
			case "nothing sent":
				require.NoError(t, w.SetWriteDeadline(time.Now().Add(-time.Second)))
				n, err := w.Write([]byte("x"))
				assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
				assert.Zero(t, n)
				_ = w.Close()
			case "cut short":
				require.NoError(t, w.SetWriteDeadline(time.Now().Add(20*time.Millisecond)))
				n, err := w.Write(make([]byte, 16<<20))
				assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
				assert.Less(t, n, 16<<20)
				_ = w.Close()
			case "stream's ctx":
				ctx, cancel := context.WithCancel(t.Context())
				chunks, err := w.SendChunks(ctx, 16<<20)
				require.NoError(t, err)
				chunks <- make([]byte, 16<<20)
				underWay()
				cancel()
				finish(t, "the stream's end", func() { <-w.Done() })
				var unsent *plex.UnsentError
				if assert.ErrorAs(t, w.Close(), &unsent) {
					assert.ErrorIs(t, unsent, context.Canceled)
					assert.Positive(t, unsent.Unsent)
				}
				close(chunks)
			case "stream's lease":
				chunks, err := w.SendChunks(t.Context(), 16<<20)
				require.NoError(t, err)
				chunks <- make([]byte, 16<<20)
				underWay()
				require.NoError(t, w.SetWriteDeadline(time.Now().Add(20*time.Millisecond)))
				var unsent *plex.UnsentError
				finish(t, "Close", func() { // its flush is bounded by the write deadline
					if assert.ErrorAs(t, w.Close(), &unsent) {
						assert.ErrorIs(t, unsent, os.ErrDeadlineExceeded)
						assert.Positive(t, unsent.Unsent)
					}
				})
				close(chunks)
			}
			eventually(t, func() bool { return mux.Stats().Lost == 1 }, "the loss")
			assert.ErrorIs(t, other.Err(), plex.ErrPartialWrite, "the deadline was none of the other half's doing")
			_ = other.Close()
			// Its good-bye takes 5 s behind a full send buffer.
			var drained sync.WaitGroup
			drained.Go(func() { _, _ = io.Copy(io.Discard, l.server) })
			assertLost(t, mux)
			finish(t, "the connection's end at the peer", drained.Wait)
		})
	}
}

// TestTLSDeadlineWithoutAWriteIsHarmless: it is the timeout that does the harm.
func TestTLSDeadlineWithoutAWriteIsHarmless(t *testing.T) {
	mux, l := openOne(t, newLedger(t), tlsTransport())
	for range 5 {
		w := leaseWriter(t, mux)
		require.NoError(t, w.SetWriteDeadline(time.Now().Add(-time.Second)))
		require.NoError(t, w.Close())
	}
	w := leaseWriter(t, mux)
	_, err := w.Write([]byte("x"))
	require.NoError(t, err)
	_, err = io.ReadFull(l.server, make([]byte, 1))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	assert.Zero(t, mux.Stats().Lost)
}

// TestTLSHiddenInAnotherTypeIsLostWhenItRefuses: plex cannot know that there is TLS beneath, but a write that times
// out without a deadline says that the connection is of no more use.
func TestTLSHiddenInAnotherTypeIsLostWhenItRefuses(t *testing.T) {
	books := newLedger(t)
	hidden := transport{open: func(t *testing.T) (client, server net.Conn) {
		client, server = tlsPair(t)
		return &counted{Conn: client}, server
	}}
	mux, _ := openOne(t, books, hidden)
	w := leaseWriter(t, mux)
	require.NoError(t, w.SetWriteDeadline(time.Now().Add(-time.Second)))
	_, err := w.Write([]byte("x"))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	_ = w.Close()
	if mux.Stats().Lost == 0 {
		w = leaseWriter(t, mux)
		_, err = w.Write([]byte("x"))
		require.Error(t, err)
		_ = w.Close()
	}
	assertLost(t, mux)
}

// TestTLSHandshakeIsFinishedBeforeTheFirstLease has a tls.Conn come in by each door with its handshake still to be
// done. A deadline of the first lease would cut the handshake, for good.
func TestTLSHandshakeIsFinishedBeforeTheFirstLease(t *testing.T) {
	for _, way := range []string{"WithConnections", "Add", "Attach", "DialFunc"} {
		t.Run(way, func(t *testing.T) {
			books := newLedger(t)
			client, server := tlsEnds(t)
			var peer sync.WaitGroup
			peer.Go(func() { assert.NoError(t, server.HandshakeContext(soon(t))) })
			t.Cleanup(func() { server.Close() })

			var mux *plex.Multiplexer
			finish(t, way, func() {
				switch way {
				case "WithConnections":
					mux = books.mux(plex.WithConnections(client))
				case "Add":
					mux = books.mux()
					rest, err := mux.Add(t.Context(), client)
					assert.NoError(t, err)
					assert.Empty(t, rest)
				case "Attach":
					mux = books.mux(plex.WithMinConnections(1), plex.WithConnector(func(_ context.Context, conn net.Conn) error {
						return plex.Attach(conn, client)
					}))
				case "DialFunc":
					mux = books.mux(plex.WithMinConnections(1), plex.WithConnector(plex.DialFunc(func(context.Context) (net.Conn, error) {
						return client, nil
					})))
				}
			})
			r, w := leaseReader(t, mux), leaseWriter(t, mux)
			assert.True(t, client.ConnectionState().HandshakeComplete)
			require.NoError(t, r.SetReadDeadline(time.Now().Add(-time.Second)))
			_, err := r.Read(make([]byte, 1))
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.NoError(t, r.SetReadDeadline(time.Time{}))
			finish(t, "the handshake", peer.Wait)
			_, err = server.Write([]byte("hello"))
			require.NoError(t, err)
			_, err = io.ReadFull(r, make([]byte, 5))
			require.NoError(t, err)
			_, err = w.Write([]byte("hello"))
			require.NoError(t, err)
			_, err = io.ReadFull(server, make([]byte, 5))
			require.NoError(t, err)
			require.NoError(t, r.Close())
			require.NoError(t, w.Close())
			assert.Zero(t, mux.Stats().Lost)
		})
	}
}

// TestTLSHandshakeThatFails: what was given stays open and the giver's, what was connected is closed.
func TestTLSHandshakeThatFails(t *testing.T) {
	for _, way := range []string{"WithConnections", "Add", "Attach", "DialFunc"} {
		for _, how := range []string{"plaintext", "silence"} {
			t.Run(way+"/"+how, func(t *testing.T) {
				books := newLedger(t)
				raw, server := tcpPair(t)
				tcp := &counted{Conn: raw}
				books.Watch(tcp)
				_, config := tlsConfigs(t)
				client := tls.Client(tcp, config)
				t.Cleanup(func() { server.Close() })
				if how == "plaintext" {
					_, err := server.Write([]byte("220 hello, I speak no TLS\r\n"))
					require.NoError(t, err)
				}
				timeout := patience
				if how == "silence" {
					timeout = 50 * time.Millisecond
				}
				options := []plex.Option{plex.WithConnectTimeout(timeout)}
				connector := func(c plex.Connect) []plex.Option {
					return append(options, plex.WithMinConnections(1), plex.WithConnector(c))
				}
				var err error
				finish(t, way, func() {
					switch way {
					case "WithConnections":
						books.HandedBack(tcp)
						_, err = plex.New(context.Background(), append(options, plex.WithConnections(client))...)
					case "Add":
						books.HandedBack(tcp)
						var rest []net.Conn
						rest, err = books.mux(options...).Add(context.Background(), client)
						assert.Equal(t, []net.Conn{client}, rest)
					case "Attach":
						_, err = plex.New(context.Background(), connector(func(_ context.Context, conn net.Conn) error {
							return plex.Attach(conn, client)
						})...)
					case "DialFunc":
						_, err = plex.New(context.Background(), connector(plex.DialFunc(func(context.Context) (net.Conn, error) {
							return client, nil
						}))...)
					}
				})
				if how == "plaintext" {
					var header tls.RecordHeaderError
					assert.ErrorAs(t, err, &header)
				} else {
					assert.True(t, errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded), "%v", err)
				}
				if way == "WithConnections" || way == "Add" {
					t.Cleanup(func() { raw.Close() })
				}
			})
		}
	}
}

// ---------------------------------------------------------------------------------------------------------------
// UDP

// udpOne is a multiplexer over one connected UDP socket.
func udpOne(t *testing.T, books *ledger) (*plex.Multiplexer, *net.UDPConn, *net.UDPAddr) {
	t.Helper()
	client, server := udpPair(t)
	t.Cleanup(func() { server.Close() })
	return books.mux(plex.WithConnections(client)), server, client.LocalAddr().(*net.UDPAddr)
}

func TestUDPDatagramsStayWhole(t *testing.T) {
	mux, server, client := udpOne(t, newLedger(t))
	sizes := []int{0, 1, 1400, 0, 0, 9000, 2, 60_000, 0}
	datagram := func(i int) []byte {
		p := make([]byte, sizes[i])
		oracle(p, i, 0)
		return p
	}
	buf := make([]byte, 64<<10)

	t.Run("Write", func(t *testing.T) {
		w := leaseWriter(t, mux)
		for i := range sizes {
			n, err := w.Write(datagram(i))
			require.NoError(t, err)
			assert.Equal(t, sizes[i], n)
			m, err := server.Read(buf)
			require.NoError(t, err)
			assert.Equal(t, datagram(i), buf[:m])
		}
		require.NoError(t, w.Close())
	})
	t.Run("SendChunks", func(t *testing.T) {
		w := leaseWriter(t, mux)
		chunks, err := w.SendChunks(t.Context(), 64<<10) // which would take several
		require.NoError(t, err)
		for i := range sizes {
			chunks <- datagram(i)
		}
		close(chunks)
		require.NoError(t, w.Close())
		for i := range sizes {
			m, err := server.Read(buf)
			require.NoError(t, err)
			assert.Equal(t, datagram(i), buf[:m])
		}
	})
	t.Run("Send", func(t *testing.T) {
		w := leaseWriter(t, mux)
		bytes, err := w.Send(t.Context(), 0)
		require.NoError(t, err)
		for _, b := range []byte("bytes") {
			bytes <- b
		}
		close(bytes)
		require.NoError(t, w.Close())
		got := ""
		for len(got) < len("bytes") {
			m, err := server.Read(buf)
			require.NoError(t, err)
			got += string(buf[:m])
		}
		assert.Equal(t, "bytes", got)
	})
	send := func(t *testing.T) {
		t.Helper()
		for i := range sizes {
			_, err := server.WriteToUDP(datagram(i), client)
			require.NoError(t, err)
		}
	}
	t.Run("Read", func(t *testing.T) {
		send(t)
		for i := range sizes {
			r := leaseReader(t, mux)
			m, err := r.Read(buf)
			require.NoError(t, err, "an empty datagram is no end")
			assert.Equal(t, datagram(i), buf[:m])
			require.NoError(t, r.Close())
		}
	})
	t.Run("RecvChunks", func(t *testing.T) {
		send(t)
		r := leaseReader(t, mux)
		chunks, err := r.RecvChunks(t.Context(), 0)
		require.NoError(t, err)
		for i := range sizes {
			chunk := takeFrom(t, chunks)
			assert.Len(t, chunk, sizes[i])
			assert.NoError(t, checkOracle(chunk, i, 0))
		}
		require.NoError(t, r.Close())
	})
	t.Run("RecvChunks and back", func(t *testing.T) {
		// Whatever a stream has read ahead when its lease ends goes back as the datagrams that it was.
		send(t)
		for i := range sizes {
			r := leaseReader(t, mux)
			if i%2 == 0 {
				chunks, err := r.RecvChunks(t.Context(), 0)
				require.NoError(t, err)
				chunk := takeFrom(t, chunks)
				assert.Len(t, chunk, sizes[i])
				assert.NoError(t, checkOracle(chunk, i, 0))
			} else {
				m, err := r.Read(buf)
				require.NoError(t, err)
				assert.Equal(t, datagram(i), buf[:m])
			}
			require.NoError(t, r.Close())
		}
	})
	t.Run("Recv", func(t *testing.T) {
		send(t)
		r := leaseReader(t, mux)
		bytes, err := r.Recv(t.Context(), 100)
		require.NoError(t, err)
		for i := range sizes {
			got := make([]byte, sizes[i])
			for j := range got {
				got[j] = takeFrom(t, bytes)
			}
			assert.NoError(t, checkOracle(got, i, 0))
		}
		require.NoError(t, r.Err(), "an empty datagram is no end")
		require.NoError(t, r.Close())
	})
	t.Run("truncated", func(t *testing.T) {
		// What does not fit is gone, as it is without plex.
		for _, s := range []string{"truncated", "next"} {
			_, err := server.WriteToUDP([]byte(s), client)
			require.NoError(t, err)
		}
		r := leaseReader(t, mux)
		small := make([]byte, 5)
		m, err := r.Read(small)
		if err == nil && m == 0 { // the stream has not come to the last, empty datagram
			m, err = r.Read(small)
		}
		require.NoError(t, err)
		assert.Equal(t, "trunc", string(small[:m]))
		m, err = r.Read(small)
		require.NoError(t, err)
		assert.Equal(t, "next", string(small[:m]))
		require.NoError(t, r.Close())
	})
	assert.Zero(t, mux.Stats().Lost)
}

// takeFrom takes one element from ch, which must not be closed.
func takeFrom[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v, ok := <-ch:
		require.True(t, ok, "the stream ended")
		return v
	case <-time.After(patience):
		require.FailNow(t, "nothing came")
		panic("unreachable")
	}
}

// TestUDPRefusedIsPassing closes the server's socket under a client that goes on sending, and opens it again.
func TestUDPRefusedIsPassing(t *testing.T) {
	mux, server, client := udpOne(t, newLedger(t))
	address := server.LocalAddr().(*net.UDPAddr)
	for round := range 3 {
		require.NoError(t, server.Close())

		// The first write after it is refused by the other side's kernel; the next call is told.
		w := leaseWriter(t, mux)
		_, err := w.Write([]byte("into the void"))
		require.NoError(t, err)
		var refused error
		switch round {
		case 0: // by the writer
			eventually(t, func() bool {
				_, refused = w.Write([]byte("into the void"))
				return refused != nil
			}, "a refused write")
		case 1: // by the reader
			r := leaseReader(t, mux)
			finish(t, "a refused read", func() { _, refused = r.Read(make([]byte, 10)) })
			require.NoError(t, r.Close())
		case 2: // by an earlier lease than the one that goes on
			eventually(t, func() bool {
				_, refused = w.Write([]byte("into the void"))
				return refused != nil
			}, "a refused write")
			require.NoError(t, w.Close())
			w = leaseWriter(t, mux)
		}
		assert.ErrorIs(t, refused, syscall.ECONNREFUSED)

		server, err = net.ListenUDP("udp", address)
		require.NoError(t, err)
		t.Cleanup(func() { server.Close() })
		buf := make([]byte, 100)
		_, _ = w.Write([]byte("again")) // which may be told of what was refused before
		_, err = w.Write([]byte("again"))
		require.NoError(t, err, "the same lease goes on")
		m, from, err := server.ReadFromUDP(buf)
		require.NoError(t, err)
		assert.Equal(t, "again", string(buf[:m]))
		assert.Equal(t, client.Port, from.Port, "the same socket")
		require.NoError(t, w.Close())

		r := leaseReader(t, mux)
		_, err = server.WriteToUDP([]byte("and back"), client)
		require.NoError(t, err)
		m, err = r.Read(buf)
		if errors.Is(err, syscall.ECONNREFUSED) {
			m, err = r.Read(buf)
		}
		require.NoError(t, err)
		assert.Equal(t, "and back", string(buf[:m]))
		require.NoError(t, r.Close())
	}
	stats := mux.Stats()
	assert.Zero(t, stats.Lost)
	assert.Equal(t, 1, stats.Open)
}

// TestUDPStreamsLiveOnAfterARefusal: what the kernel tells of one datagram is no end of a stream's connection.
func TestUDPStreamsLiveOnAfterARefusal(t *testing.T) {
	mux, server, client := udpOne(t, newLedger(t))
	address := server.LocalAddr().(*net.UDPAddr)
	require.NoError(t, server.Close())
	w := leaseWriter(t, mux)
	chunks, err := w.SendChunks(t.Context(), 0)
	require.NoError(t, err)
	r := leaseReader(t, mux)
	in, err := r.RecvChunks(t.Context(), 0)
	require.NoError(t, err)
	for range 5 {
		select {
		case chunks <- []byte("into the void"):
		case <-w.Done():
		}
	}
	close(chunks)
	// Whether the streams went on or were ended by the refusal, the leases and the connection did not.
	_ = w.Close()
	_ = r.Close()
	for range in {
	}
	server, err = net.ListenUDP("udp", address)
	require.NoError(t, err)
	t.Cleanup(func() { server.Close() })
	w = leaseWriter(t, mux)
	eventually(t, func() bool { _, err := w.Write([]byte("again")); return err == nil }, "a write")
	require.NoError(t, w.Close())
	buf := make([]byte, 100)
	m, from, err := server.ReadFromUDP(buf)
	require.NoError(t, err)
	assert.Equal(t, "again", string(buf[:m]))
	assert.Equal(t, client.Port, from.Port)
	assert.Zero(t, mux.Stats().Lost)
}

func TestUDPTooLargeIsPassing(t *testing.T) {
	mux, server, _ := udpOne(t, newLedger(t))
	w := leaseWriter(t, mux)
	n, err := w.Write(make([]byte, 100_000))
	assert.ErrorIs(t, err, syscall.EMSGSIZE)
	assert.Zero(t, n)
	require.NoError(t, w.Close())

	w = leaseWriter(t, mux)
	chunks, err := w.SendChunks(t.Context(), 0)
	require.NoError(t, err)
	chunks <- make([]byte, 100_000)
	close(chunks)
	var unsent *plex.UnsentError
	if assert.ErrorAs(t, w.Close(), &unsent) {
		assert.ErrorIs(t, unsent, syscall.EMSGSIZE)
		assert.EqualValues(t, 100_000, unsent.Unsent)
	}

	w = leaseWriter(t, mux)
	_, err = w.Write([]byte("small"))
	require.NoError(t, err)
	buf := make([]byte, 100)
	m, err := server.Read(buf)
	require.NoError(t, err)
	assert.Equal(t, "small", string(buf[:m]))
	require.NoError(t, w.Close())
	assert.Zero(t, mux.Stats().Lost)
}

// TestDatagramsUnderLoad has many leases send numbered datagrams to peers that echo them, a few at a time, which the
// sockets' buffers hold. Over a Unix socket none may be lost. Of UDP the kernel may drop some, on the loopback too when
// the machine is busy, so there it is only told that none comes twice or torn.
func TestDatagramsUnderLoad(t *testing.T) {
	t.Run("udp", func(t *testing.T) { datagramsUnderLoad(t, true, udpPacketPair) })
	t.Run("unixgram", func(t *testing.T) { datagramsUnderLoad(t, false, unixgramPair) })
}

func datagramsUnderLoad(t *testing.T, lossy bool, open func(t *testing.T) (client net.Conn, server net.PacketConn)) {
	const (
		connections = 3
		workers     = 6
		window      = 30
		rounds      = 25
	)
	books := newLedger(t)
	var conns []net.Conn
	var peers sync.WaitGroup
	t.Cleanup(peers.Wait)
	for range connections {
		client, server := open(t)
		conns = append(conns, client)
		peers.Go(func() {
			buf := make([]byte, 2048)
			for {
				n, from, err := server.ReadFrom(buf)
				if err != nil {
					return
				}
				if _, err = server.WriteTo(buf[:n], from); !assert.NoError(t, err) {
					return
				}
			}
		})
		t.Cleanup(func() { assert.NoError(t, server.Close()) })
	}
	mux := books.mux(plex.WithConnections(conns...))
	ctx, cancel := context.WithCancel(soon(t))
	defer cancel()

	// A datagram is its number and as many bytes of the oracle's stream of that number as follow from it.
	datagram := func(number int) []byte {
		p := make([]byte, 8+number%7*100)
		oracle(p, number, 0)
		return p
	}
	received := make(chan int, window)
	deliver := func(p []byte) {
		if !assert.GreaterOrEqual(t, len(p), 8) {
			return
		}
		number := int(p[0])<<8 | int(p[1])
		assert.Len(t, p, len(datagram(number)), "datagram %d", number)
		assert.NoError(t, checkOracle(p, number, 0))
		received <- number
	}
	var readers sync.WaitGroup
	for range workers {
		readers.Go(func() {
			for {
				r, err := mux.Reader(ctx, 0)
				if err != nil {
					assert.ErrorIs(t, err, context.Canceled)
					return
				}
				readDatagramSomehow(ctx, t, r, deliver)
			}
		})
	}
	dropped := map[int]bool{} // by the kernel
	finish(t, "the load", func() {
		for round := range rounds {
			var writers sync.WaitGroup
			var next atomic.Int64
			for range workers {
				writers.Go(func() {
					for {
						i := int(next.Add(1)) - 1
						if i >= window {
							return
						}
						w, err := mux.Writer(ctx, 0)
						if !assert.NoError(t, err) {
							return
						}
						if p := datagram(round*window + i); i%2 == 0 {
							_, err = w.Write(p)
							assert.NoError(t, err)
						} else if chunks, err := w.SendChunks(t.Context(), 0); assert.NoError(t, err) {
							chunks <- p
							close(chunks)
						}
						assert.NoError(t, w.Close())
					}
				})
			}
			writers.Wait()
			got := map[int]bool{}
			for silent := false; len(got) < window && !silent; {
				var silence <-chan time.Time
				if lossy {
					silence = time.After(time.Second)
				}
				select {
				case number := <-received:
					if !dropped[number] { // else it was only late
						assert.Equal(t, round, number/window)
						assert.False(t, got[number], "datagram %d came twice", number)
						got[number] = true
					}
				case <-silence:
					silent = true
				}
			}
			for number := round * window; number < (round+1)*window; number++ {
				dropped[number] = !got[number]
			}
		}
		cancel()
		readers.Wait()
	})
	assert.Zero(t, mux.Stats().Lost)
}

func readDatagramSomehow(ctx context.Context, t *testing.T, r plex.Reader, deliver func([]byte)) {
	buf := make([]byte, 2048)
	moment := time.Duration(rand.IntN(400)) * time.Microsecond
	switch rand.IntN(3) {
	case 0:
		assert.NoError(t, r.SetReadDeadline(time.Now().Add(moment)))
		n, err := r.Read(buf)
		if assert.NoError(t, ignore(err, os.ErrDeadlineExceeded)) && err == nil {
			deliver(buf[:n])
		}
	case 1:
		closed := make(chan struct{})
		time.AfterFunc(moment, func() {
			defer close(closed)
			_ = r.Close()
		})
		for {
			n, err := r.Read(buf)
			if err != nil {
				assert.ErrorIs(t, err, plex.ErrLeaseClosed)
				break
			}
			deliver(buf[:n])
		}
		<-closed // the second Close below does not wait for the first
	case 2:
		ctx, cancel := context.WithTimeout(ctx, moment)
		defer cancel()
		chunks, err := r.RecvChunks(ctx, 0)
		if assert.NoError(t, ignore(err, context.DeadlineExceeded, context.Canceled)) && err == nil {
			select {
			case chunk, ok := <-chunks:
				if ok {
					deliver(chunk)
				}
			case <-ctx.Done():
			}
			if rand.IntN(2) == 0 {
				for chunk := range chunks { // its ctx ends it
					deliver(chunk)
				}
			}
		}
	}
	if err := r.Close(); err != nil {
		assert.ErrorIs(t, err, plex.ErrLeaseClosed)
	}
}

// A Read of nothing takes no datagram, whether the kernel has it or a stream has left it.
func TestAnEmptyReadTakesNoDatagram(t *testing.T) {
	l := newLedger(t)
	client, server := udpPair(t)
	defer server.Close() //nolint:errcheck // the test is over
	c := &counted{Conn: client}
	l.Watch(c)
	m := l.mux(plex.WithConnections(c))
	_, err := server.WriteToUDP([]byte("one"), client.LocalAddr().(*net.UDPAddr))
	require.NoError(t, err)
	r := leaseReader(t, m)
	ctx, cancel := context.WithCancel(t.Context())
	_, err = r.RecvChunks(ctx, 0)
	require.NoError(t, err)
	time.Sleep(20 * time.Millisecond) // it is read
	cancel()
	requireClosed(t, r)
	r = leaseReader(t, m)
	n, err := r.Read(nil)
	require.NoError(t, err)
	require.Zero(t, n)
	require.NoError(t, r.SetReadDeadline(time.Now().Add(patience)))
	b := make([]byte, 8)
	n, err = r.Read(b)
	require.NoError(t, err)
	require.Equal(t, "one", string(b[:n]))
	requireClosed(t, r)
}
