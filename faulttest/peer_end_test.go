package faulttest_test

// The peer ends the connection: FIN, RST and half close, with the connection idle, being read or about to be written to.

import (
	"context"
	"io"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/check"
	"go.atomizer.io/plex/faulttest/oracle"
	"go.atomizer.io/plex/faulttest/proxy"
)

// Row "FIN while idle": replaced before anyone leases it.
// Catches: an end that is only found by whoever leases the connection next.
func TestFaultFINWhileIdle(t *testing.T) { idleEnd(t, (*proxy.Conn).FIN) }

// Row "RST while idle": replaced.
// Catches: a watcher that sees FIN only; a reset that is taken for data to be read.
func TestFaultRSTWhileIdle(t *testing.T) { idleEnd(t, (*proxy.Conn).Reset) }

func idleEnd(t *testing.T, end func(*proxy.Conn)) {
	w := newWorld(t, 3, proxy.Config{})
	m := w.mux()
	for _, round := range []int{1, 2, 3} { // one of three, two, all of them at once
		w.everyone(3)
		before := m.Stats().Lost
		n := 0
		for _, c := range w.Conns() {
			if n < round && proxy.Established(c.TCPConn) {
				n++
				end(c)
			}
		}
		require.Equal(t, round, n)
		w.healed(m, int(before)+round)
		require.EqualValues(t, 0, m.Stats().Acquired-uint64(6*(round-1)), "healed before anyone asked")

		for range 3 {
			r, wr := reader(t, m), writer(t, m)
			for _, c := range []*check.Conn{check.Of(r), check.Of(wr)} {
				require.NoError(t, r.Err())
				require.NoError(t, wr.Err())
				require.True(t, proxy.Established(c.TCPConn), "a dead connection was leased")
			}
			require.NoError(t, r.Close())
			require.NoError(t, wr.Close())
		}
	}
	w.alive(m)
}

// Row "FIN behind unread data": data, then EOF; replaced meanwhile.
// Catches: data dropped with the connection, an early EOF, a replacement that waits for a reader.
func TestFaultFINBehindUnreadData(t *testing.T) {
	for name, read := range map[string]func(*testing.T, *check.Reader){
		"Read": func(t *testing.T, r *check.Reader) {
			buf := make([]byte, 1000)
			for {
				if _, err := r.Read(buf); err != nil {
					require.Equal(t, io.EOF, err)
					return
				}
			}
		},
		"RecvChunks": func(t *testing.T, r *check.Reader) {
			ch, err := r.RecvChunks(t.Context(), 777)
			require.NoError(t, err)
			for chunk := range ch {
				r.Took(chunk)
			}
			require.NoError(t, r.Err(), "a clean end")
		},
		"Recv": func(t *testing.T, r *check.Reader) {
			ch, err := r.Recv(t.Context(), 10)
			require.NoError(t, err)
			for b := range ch {
				r.Took([]byte{b})
			}
			require.NoError(t, r.Err(), "a clean end")
		},
		"many leases": func(t *testing.T, r *check.Reader) {
			_, err := r.Read(make([]byte, 10)) // the rest is for the second reader
			require.NoError(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, size := range []uint64{10, 1000, 60 << 10, 100 << 10} { // the last is more than plex keeps in memory
				w := newWorld(t, 1, proxy.Config{Handler: func(c *proxy.Conn) {
					if c.Number == 0 {
						if oracle.NewSource(1).Send(c, size+1, make([]byte, 64<<10)) == nil {
							t.Error("the step did not happen")
						}
						return
					}
					<-c.Done()
				}, Script: func(k int) (s proxy.Script) {
					if k == 0 {
						s.Steps = []proxy.Step{{Do: proxy.FIN, After: size}}
					}
					return s
				}})
				m := w.mux()
				w.healed(m, 1)
				require.Zero(t, m.Stats().Acquired, "replaced before anyone has read")

				var old *check.Conn
				eventually(t, func() bool { // the remains are somewhere in the queue, or being looked at
					r := w.book.Reader(reader(t, m))
					if r.Conn.Number == 1 {
						old = r.Conn
						read(t, r)
					}
					require.NoError(t, r.Close())
					return old != nil
				}, "what the dead connection has left is leased")
				if name == "many leases" {
					drain(t, w, m, old, size)
				}
				require.NoError(t, old.In.Whole(size))
				require.EqualValues(t, 1, m.Stats().Lost)
				w.alive(m)
			}
		})
	}
}

// drain reads the rest of a connection's remains, a little more with each lease.
func drain(t *testing.T, w *world, m *plex.Multiplexer, old *check.Conn, size uint64) {
	for n := 20; old.In.Received() < size; {
		r := w.book.Reader(reader(t, m))
		if r.Conn == old {
			_, err := r.Read(make([]byte, n))
			require.NoError(t, err)
			n += n / 2
		}
		require.NoError(t, r.Close())
	}
}

// Row "RST in the middle of a read": what had arrived, then the error, on both halves.
// Catches: the second half told of a clean EOF, since the kernel tells a reset only once; bytes dropped in front of it.
func TestFaultRSTInTheMiddleOfARead(t *testing.T) {
	t.Run("what had arrived comes first", func(t *testing.T) {
		w := newWorld(t, 1, proxy.Config{})
		m := w.mux()
		for i := range 10 {
			rd, wr := w.book.Reader(reader(t, m)), w.book.Writer(writer(t, m))
			s := w.server(i)
			require.NoError(t, oracle.NewSource(uint32(i)).Send(s, 10000, make([]byte, 10000)))
			buf := make([]byte, 1000)
			_, err := rd.Read(buf)
			require.NoError(t, err)
			s.Reset()
			for err == nil {
				_, err = rd.Read(buf)
			}
			require.ErrorIs(t, err, syscall.ECONNRESET)
			require.EqualValues(t, 10000, rd.Conn.In.Received(), "what had arrived")
			_, again := rd.Read(buf)
			require.Equal(t, err, again, "the first cause, however often one asks")
			_, werr := wr.WriteNext(buf)
			require.ErrorIs(t, werr, syscall.ECONNRESET)
			require.Equal(t, rd.Err(), wr.Err(), "the first cause")
			require.NoError(t, rd.Close())
			require.NoError(t, wr.Close())
			w.healed(m, i+1)
		}
	})
	t.Run("both blocked", func(t *testing.T) {
		w := newWorld(t, 1, proxy.Config{})
		m := w.mux()
		fastest := patience
		for i := range 20 {
			began := time.Now()
			rd, wr := reader(t, m), writer(t, m)
			s := w.server(i)
			errs := make(chan error, 2)
			go func() {
				_, err := rd.Read(make([]byte, 1))
				errs <- err
			}()
			go func() {
				_, err := wr.Write(make([]byte, 16<<20)) // the server does not read
				errs <- err
			}()
			time.Sleep(time.Millisecond) // mostly, both are blocked by then; if not, it must be right as well
			s.Reset()
			within(t, "Read or Write", func() {
				require.ErrorIs(t, <-errs, syscall.ECONNRESET)
				require.ErrorIs(t, <-errs, syscall.ECONNRESET)
			})
			require.Equal(t, rd.Err(), wr.Err(), "the first cause")
			require.NoError(t, rd.Close())
			require.NoError(t, wr.Close())
			w.healed(m, i+1)
			fastest = min(fastest, time.Since(began))
		}
		// Of twenty, a busy machine does not delay each.
		require.Less(t, fastest, time.Second, "a dead connection's slot is free at once, whatever it had to send")
	})
	t.Run("told to somebody else", func(t *testing.T) {
		// The kernel tells of a reset once. Whoever asks next is told of a clean end, which it was not.
		w := newWorld(t, 1, proxy.Config{})
		m := w.mux()
		rd, wr := w.book.Reader(reader(t, m)), writer(t, m) // the latter would be the one who has been told
		w.server(0).Reset()
		eventually(t, func() bool { return proxy.State(rd.Conn.TCPConn) == proxy.Closed }, "the reset is here")
		require.ErrorIs(t, proxy.TakeError(rd.Conn.TCPConn), syscall.ECONNRESET)
		_, err := rd.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		require.NoError(t, rd.Close())
		require.NoError(t, wr.Close())
		w.healed(m, 1)
	})
	t.Run("streams", func(t *testing.T) {
		w := newWorld(t, 1, proxy.Config{})
		m := w.mux()
		rd, wr := w.book.Reader(reader(t, m)), writer(t, m)
		in, err := rd.RecvChunks(t.Context(), 0)
		require.NoError(t, err)
		out, err := wr.SendChunks(t.Context(), 0)
		require.NoError(t, err)
		s := w.server(0)
		require.NoError(t, oracle.NewSource(1).Send(s, 10000, make([]byte, 10000)))
		for rd.Conn.In.Received() < 10000 {
			rd.Took(<-in)
		}
		s.Reset()
		within(t, "a stream", func() {
			_, more := <-in
			require.False(t, more)
			<-wr.Done()
			close(out)
		})
		require.ErrorIs(t, rd.Err(), syscall.ECONNRESET)
		require.ErrorIs(t, wr.Err(), syscall.ECONNRESET)
		require.NoError(t, rd.Close())
		require.NoError(t, wr.Close(), "nothing had been sent")
		w.healed(m, 1)
	})
}

// Row "peer closes between check and first write": n and the error; nothing resent silently.
// Catches: a write that is tried again on another connection; a loss that nobody is told of.
func TestFaultPeerClosesBetweenCheckAndFirstWrite(t *testing.T) {
	for name, end := range map[string]func(*proxy.Conn){"FIN": (*proxy.Conn).FIN, "RST": (*proxy.Conn).Reset} {
		t.Run(name, func(t *testing.T) {
			var rec recorder
			w := newWorld(t, 1, proxy.Config{Handler: rec.serve})
			m := w.mux()
			wr := writer(t, m) // the check has been passed
			end(w.server(0))

			// The kernel takes what it takes; sooner or later it tells.
			total := 0
			var err error
			eventually(t, func() bool {
				var n int
				n, err = wr.Write([]byte("first."))
				require.Equal(t, err == nil, n == 6, "%d of 6 and %v", n, err)
				total += n
				return err != nil
			}, "the write fails")
			require.ErrorIs(t, wr.Err(), err)
			require.False(t, isTimeout(err))
			require.NoError(t, wr.Close())
			w.healed(m, 1)

			wr = writer(t, m)
			write(t, wr, "second")
			require.NoError(t, wr.Close())
			eventually(t, func() bool { got, _ := rec.of(1); return got == "second" }, "the second message")
			got, _ := rec.of(0)
			require.LessOrEqual(t, len(got), total)
		})
	}
}

// Row "half close by the peer": the reader gets EOF; a live write lease may finish.
// Catches: the write lease cut off with the peer's FIN; a new write lease on the connection; one that is never closed.
func TestFaultHalfCloseByThePeer(t *testing.T) {
	var rec recorder
	w := newWorld(t, 1, proxy.Config{Handler: rec.serve})
	m := w.mux()
	rd, wr := reader(t, m), w.book.Writer(writer(t, m))
	s := w.server(0)
	write(t, s, "bye")
	s.HalfClose()
	require.Equal(t, "bye", read(t, rd, 3))
	_, err := rd.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)
	require.NoError(t, rd.Close())

	buf := make([]byte, 10000)
	for range 10 {
		_, err := wr.WriteNext(buf)
		require.NoError(t, err, "the peer is still reading")
	}
	_, err = m.Writer(context.Background(), -1)
	require.ErrorIs(t, err, plex.ErrTimeout, "it is leased")
	eventually(t, func() bool { return m.Stats().Lost == 1 }, "the peer's end is a loss")
	require.NoError(t, wr.Close())
	eventually(t, func() bool { _, end := rec.of(0); return end == io.EOF }, "the server gets our end")
	got, _ := rec.of(0)
	require.NoError(t, oracle.NewChecker(oracle.ID(1, false)).Check([]byte(got)))
	require.Len(t, got, 100000)
	w.healed(m, 1)
	wr = w.book.Writer(writer(t, m))
	require.EqualValues(t, 2, wr.Conn.Number, "no new lease on the old connection")
	require.NoError(t, wr.Close())
}
