package faulttest_test

// The network and the peer's buffers: what is slow, cut to pieces, full, or arrives when nobody reads.

import (
	"context"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/check"
	"go.atomizer.io/plex/faulttest/oracle"
	"go.atomizer.io/plex/faulttest/proxy"
)

// Row "zero window (peer stops reading)": only that writer blocks.
// Catches: a lock held across Write; the other half, the other connections, Stats or acquires waiting for the writer.
func TestFaultZeroWindow(t *testing.T) {
	var stalled recorder
	start := make(chan struct{})
	w := newWorld(t, 2, proxy.Config{Handler: func(c *proxy.Conn) {
		if c.Number == 0 {
			select {
			case <-start:
				stalled.serve(c)
			case <-c.Done():
			}
			return
		}
		_, _ = io.Copy(c, c)
	}})
	m := w.mux()
	one, two := writer(t, m), writer(t, m)
	if one.LocalAddr().String() != w.server(0).RemoteAddr().String() {
		one, two = two, one
	}
	const size = 16 << 20
	blocked := w.book.Writer(one)
	done := make(chan error, 1)
	go func() {
		_, err := blocked.WriteNext(make([]byte, size))
		done <- err
	}()
	select {
	case err := <-done:
		require.FailNow(t, "16 MiB fit into the buffers of a peer that does not read", "%v", err)
	case <-time.After(50 * time.Millisecond):
	}

	within(t, "something beside the blocked writer", func() {
		write(t, w.server(0), "still") // the other half of the blocked connection
		seen := 0
		for range 100 {
			rd := reader(t, m)
			switch rd.LocalAddr().String() {
			case two.LocalAddr().String():
				write(t, two, "echo")
				require.Equal(t, "echo", read(t, rd, 4))
			default:
				if seen++; seen == 1 {
					require.Equal(t, "still", read(t, rd, 5))
				}
			}
			require.NoError(t, rd.Close())
			require.Equal(t, 2, m.Stats().LeasedWriters)
		}
		require.Positive(t, seen)
		require.NoError(t, two.Close())
		require.NoError(t, writer(t, m).Close())
	})
	close(start)
	within(t, "the writer after the window has opened", func() { require.NoError(t, <-done) })
	require.NoError(t, blocked.Close())
	eventually(t, func() bool { got, _ := stalled.of(0); return len(got) == size }, "all of it")
	got, _ := stalled.of(0)
	require.NoError(t, oracle.NewChecker(blocked.Conn.Out.ID()).Check([]byte(got)))
	require.Zero(t, m.Stats().Lost)
}

// Row "latency, single-byte segments": slower, same bytes.
// Catches: a short read taken for an end, chunks put together in the wrong order, a byte dropped between two leases.
func TestFaultLatencyAndSingleByteSegments(t *testing.T) {
	w := oracled(t, 2, proxy.Config{Script: func(k int) proxy.Script {
		return proxy.Script{Steps: []proxy.Step{
			{Dir: proxy.Down, Do: proxy.Slice, Size: 1},
			{Dir: proxy.Down, Do: proxy.Delay, For: 20 * time.Microsecond},
			{Dir: proxy.Up, Do: proxy.Slice, Size: 1},
		}}
	}}, func(p *check.Peer) { p.Bytes = func(uint32) uint64 { return 3000 } })
	m := w.mux()
	var wg sync.WaitGroup
	rng := random(t)
	for range 2 {
		wr, rd := w.book.Writer(writer(t, m)), w.book.Reader(reader(t, m))
		first, size := 1+rng.IntN(1000), 1+rng.IntN(100)
		wg.Go(func() {
			for range 30 {
				if _, err := wr.WriteNext(make([]byte, 100)); err != nil {
					t.Errorf("write: %v", err)
				}
			}
			wr.Close()
		})
		wg.Go(func() {
			// A third by Read, a third byte by byte, the rest in chunks.
			for rd.Conn.In.Received() < uint64(first) {
				if _, err := rd.Read(make([]byte, min(size, first-int(rd.Conn.In.Received())))); err != nil {
					t.Errorf("read: %v", err)
					break
				}
			}
			ctx, cancel := context.WithCancel(context.Background())
			bytes, err := rd.Recv(ctx, size)
			if err != nil {
				t.Errorf("Recv: %v", err)
			}
			for range 1000 {
				rd.Took([]byte{<-bytes})
			}
			cancel()
			for b := range bytes {
				rd.Took([]byte{b})
			}
			chunks, err := rd.RecvChunks(context.Background(), size)
			if err != nil {
				t.Errorf("RecvChunks: %v", err)
			}
			for chunk := range chunks {
				rd.Took(chunk)
			}
			if err := rd.Conn.In.Whole(3000); err != nil || rd.Err() != nil {
				t.Errorf("%v, %v", err, rd.Err())
			}
			rd.Close()
		})
	}
	within(t, "reading and writing", wg.Wait)
	eventually(t, func() bool { return w.peer.Total() == 2*3000 }, "the peer has everything")
}

// Row "partial write": n reported; the connection never reused after it.
// Catches: the next consumer's message read by the peer as the rest of the torn one.
func TestFaultPartialWrite(t *testing.T) {
	t.Run("torn", func(t *testing.T) {
		var rec recorder
		start := make(chan struct{})
		w := newWorld(t, 1, proxy.Config{Handler: func(c *proxy.Conn) {
			if c.Number == 0 {
				select {
				case <-start:
				case <-c.Done():
				}
			}
			rec.serve(c)
		}})
		m := w.mux()
		rd, wr := reader(t, m), w.book.Writer(writer(t, m))
		buf := make([]byte, 16<<20) // more than the buffers of both sides take
		wr.Conn.Out.Fill(buf)
		n := cutShort(t, wr.SetWriteDeadline, func() (int, error) { return wr.WriteFilled(buf) })
		require.Less(t, n, 16<<20)
		require.Zero(t, m.Stats().Lost, "the lease may still mend it")
		require.NoError(t, wr.Close())
		_ = rd.SetReadDeadline(time.Now().Add(patience)) // it fails if the connection is gone, as it should be
		_, err := rd.Read(make([]byte, 1))
		require.ErrorIs(t, err, plex.ErrPartialWrite, "the other half is told why")
		require.NoError(t, rd.Close())
		w.healed(m, 1)
		next := writer(t, m)
		write(t, next, "whole")
		require.NoError(t, next.Close())
		eventually(t, func() bool { got, _ := rec.of(1); return got == "whole" }, "the next message")
		close(start)
		eventually(t, func() bool { _, end := rec.of(0); return end != nil }, "the torn connection has ended")
		got, _ := rec.of(0)
		require.LessOrEqual(t, len(got), n, "nothing behind the torn message")
		require.NoError(t, oracle.NewChecker(wr.Conn.Out.ID()).Check([]byte(got)))
	})
	t.Run("mended", func(t *testing.T) {
		var rec recorder
		start := make(chan struct{})
		w := newWorld(t, 1, proxy.Config{Handler: func(c *proxy.Conn) {
			select {
			case <-start:
			case <-c.Done():
			}
			rec.serve(c)
		}})
		m := w.mux()
		wr := w.book.Writer(writer(t, m))
		buf := make([]byte, 16<<20) // more than the buffers of both sides take
		wr.Conn.Out.Fill(buf)
		n := cutShort(t, wr.SetWriteDeadline, func() (int, error) { return wr.WriteFilled(buf) })
		close(start)
		require.NoError(t, wr.SetWriteDeadline(time.Time{}))
		_, err := wr.WriteNext(buf[n:])
		require.NoError(t, err)
		require.NoError(t, wr.Close())
		eventually(t, func() bool { got, _ := rec.of(0); return len(got) == 16<<20 }, "all of it")
		require.Zero(t, m.Stats().Lost)
	})
	t.Run("nothing written is not torn", func(t *testing.T) {
		w := newWorld(t, 1, proxy.Config{})
		m := w.mux()
		wr := writer(t, m)
		require.NoError(t, wr.SetWriteDeadline(time.Unix(1, 0)))
		n, err := wr.Write([]byte("x"))
		require.True(t, isTimeout(err), "%v", err)
		require.Zero(t, n)
		require.NoError(t, wr.Close())
		require.NoError(t, writer(t, m).Close())
		require.Zero(t, m.Stats().Lost)
	})
}

// cutShort has a deadline cut a write short, and returns how many bytes of it were written: one at least.
func cutShort(t *testing.T, deadline func(time.Time) error, write func() (int, error)) (n int) {
	t.Helper()
	eventually(t, func() bool { // the deadline may have passed before the write begins
		require.NoError(t, deadline(time.Now().Add(20*time.Millisecond)))
		var err error
		n, err = write()
		require.True(t, isTimeout(err), "%v", err)
		return n > 0
	}, "something is written")
	return n
}

// Row "partial write" against a peer that never reads again: what plex has given up must be gone at the peer, too.
// Catches: a connection closed by FIN behind bytes that the peer does not take, so that the kernel holds it open for
// minutes and the peer collects more of them than the capacity.
func TestFaultPartialWritesDoNotPileUpAtAStalledPeer(t *testing.T) {
	w := newWorld(t, 1, proxy.Config{}) // which does not read
	m := w.mux()
	buf := make([]byte, 16<<20)
	for i := range 3 {
		wr := writer(t, m)
		cutShort(t, wr.SetWriteDeadline, func() (int, error) { return wr.Write(buf) })
		require.NoError(t, wr.Close())
		w.healed(m, i+1)
	}
	w.server(3) // the last one has come
	eventually(t, func() bool {
		all := 0
		for _, c := range w.Conns() {
			if proxy.Established(c.TCPConn) {
				all++
			}
		}
		return all == 1
	}, "the peer holds one connection for open, with a capacity of 1")
}

// Row "data arrives while nobody reads": left for the next reader.
// Catches: unread data taken for a broken connection (redis clients do), or eaten by a check for liveness.
func TestFaultDataArrivesWhileNobodyReads(t *testing.T) {
	const size = 50000
	w := newWorld(t, 2, proxy.Config{Handler: func(c *proxy.Conn) {
		go func() { _, _ = io.Copy(io.Discard, struct{ io.Reader }{c}) }()
		src, buf := oracle.NewSource(uint32(c.Number)), make([]byte, 1000)
		for range size / 1000 {
			if _, err := src.WriteNext(c, buf); err != nil {
				return
			}
			time.Sleep(100 * time.Microsecond)
		}
		<-c.Done()
	}})
	m := w.mux()
	for end := time.Now().Add(50 * time.Millisecond); time.Now().Before(end); {
		wr := writer(t, m)
		write(t, wr, "write only")
		require.NoError(t, wr.Close())
	}
	// Readers that take a little each time, by turns.
	rng := random(t)
	total := 0
	for total < 2*size {
		r := w.book.Reader(reader(t, m))
		if r.Conn.In.Received() < size {
			n, err := r.Read(make([]byte, 1+rng.IntN(5000)))
			require.NoError(t, err)
			total += n
		}
		require.NoError(t, r.Close())
	}
	require.Zero(t, m.Stats().Lost)
}

// A stalled peer beside healthy ones, with everybody going on: the sum of the rows of this file.
// Catches: a fault of one connection that delays the others.
func TestFaultStallsDelayOnlyTheirOwnConnection(t *testing.T) {
	w := oracled(t, 4, proxy.Config{Script: func(k int) (s proxy.Script) {
		if k == 0 {
			s.Steps = []proxy.Step{{Dir: proxy.Down, After: 1000, Do: proxy.Stall}, {Dir: proxy.Up, After: 1000, Do: proxy.Stall}}
		}
		return s
	}}, nil)
	m := w.mux()
	var wg sync.WaitGroup
	for range 3 { // fewer than connections: one may be stuck
		wg.Go(func() {
			buf := make([]byte, 10000)
			for range 100 {
				rd, err := m.Reader(t.Context(), patience)
				if err != nil {
					t.Error(err)
					return
				}
				r := w.book.Reader(rd)
				_ = r.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
				if _, err := r.Read(buf); err != nil && !isTimeout(err) {
					t.Error(err)
				}
				_ = r.Close()
			}
		})
	}
	within(t, "readers beside a stalled connection", wg.Wait)
	require.Zero(t, m.Stats().Lost)
}
