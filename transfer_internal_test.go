package plex

// What one Read or Write of a transport means.

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex/internal/fakenet"
	"go.atomizer.io/plex/internal/sock"
)

// kernelTimeout is a deadline by its Timeout method alone, as the kernel's ETIMEDOUT is.
type kernelTimeout struct{ error }

func (kernelTimeout) Timeout() bool   { return true }
func (kernelTimeout) Temporary() bool { return true }

func TestJudge(t *testing.T) {
	nc, _ := fakenet.Pair()
	stream := sock.KindOf(nc)
	udp := sock.KindOf(fakenet.NewDatagrams())
	secured := sock.KindOf(tlsLike{nc})
	require.False(t, stream.Datagram() || stream.TLS())
	require.True(t, udp.Datagram())
	require.True(t, secured.TLS())

	all := func(v verdict) func(operation) verdict { return func(operation) verdict { return v } }
	onlyUDP := func(op operation) verdict {
		if op.kind.Datagram() {
			return passing
		}
		return fatal
	}
	deadline := func(op operation) verdict {
		if op.deadline && (!op.kind.TLS() || !op.write) {
			return passing
		}
		return fatal
	}
	foreign := func(op operation) verdict {
		if op.kernel {
			return fatal
		}
		return deadline(op)
	}
	for _, c := range []struct {
		name string
		err  error
		want func(op operation) verdict
	}{
		{"a deadline", os.ErrDeadlineExceeded, deadline},
		{"EOF", io.EOF, func(op operation) verdict {
			if op.write {
				return fatal
			}
			return sawEOF
		}},
		{"a short write", io.ErrShortWrite, all(passing)},
		{"an unexpected EOF", io.ErrUnexpectedEOF, all(fatal)},
		{"a reset", syscall.ECONNRESET, all(fatal)},
		{"an abort", syscall.ECONNABORTED, all(fatal)},
		{"a broken pipe", syscall.EPIPE, all(fatal)},
		{"the kernel's timeout", syscall.ETIMEDOUT, all(fatal)},
		// Only a transport without a kernel has no other way to say that a deadline has passed.
		{"a timeout of the transport's own", kernelTimeout{errors.New("timeout")}, foreign},
		{"a context's deadline", context.DeadlineExceeded, foreign},
		{"closed", net.ErrClosed, all(fatal)},
		{"a closed pipe", io.ErrClosedPipe, all(fatal)},
		{"plex could not interrupt it", errUninterruptible, all(fatal)},
		{"anything else", errors.New("anything else"), all(fatal)},
		{"nonsense", &nonsenseError{"nonsense", io.EOF}, all(fatal)},
		{"nonsense with a deadline", &nonsenseError{"nonsense", os.ErrDeadlineExceeded}, all(fatal)},
		{"refused", syscall.ECONNREFUSED, onlyUDP},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, kind := range []sock.Kind{stream, udp, secured} {
				for i := range 8 {
					op := operation{write: i&1 != 0, deadline: i&2 != 0, kernel: i&4 != 0, kind: kind}
					for _, err := range []error{
						c.err,
						fmt.Errorf("wrapped: %w", c.err),
						&net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", c.err)},
						errors.Join(errors.New("another"), c.err),
					} {
						require.Equal(t, c.want(op), judge(err, op), "%v of %+v", err, op)
					}
				}
			}
		})
	}
}

func TestErrorsThatPlexMakesUpAreWhatTheyStandFor(t *testing.T) {
	require.ErrorIs(t, sock.ErrReset, syscall.ECONNRESET)
	require.ErrorIs(t, errPeerClosed, io.EOF)
	require.Equal(t, fatal, judge(sock.ErrReset, operation{}))
	require.Equal(t, sawEOF, judge(errPeerClosed, operation{}))
}

// tlsLike is a transport that says it is TLS.
type tlsLike struct{ net.Conn }

func (tlsLike) ConnectionState() tls.ConnectionState { return tls.ConnectionState{} }

// faulty is a transport whose Read and Write do what the test says.
func faulty(do fakenet.IO) *fakenet.Conn {
	c, _ := fakenet.Pair()
	c.OnRead(do)
	c.OnWrite(do)
	return c
}

func TestTransportThatBreaksTheRulesLosesItsConnection(t *testing.T) {
	const size = 4
	for name, c := range map[string]struct {
		do    fakenet.IO
		want  string
		is    error
		wrote int
	}{
		"panics":              {fakenet.Panics(io.ErrNoProgress), " panicked: ", io.ErrNoProgress, 0},
		"returns too much":    {fakenet.TooMany(1), "n = 5 for 4 bytes", nil, size},
		"returns less than 0": {fakenet.Returns(-1, io.EOF), "n = -1 for 4 bytes", io.EOF, 0},
	} {
		for _, write := range []bool{false, true} {
			t.Run(fmt.Sprint(name, write), func(t *testing.T) {
				m, err := New(t.Context(), WithConnections(faulty(c.do)))
				require.NoError(t, err)
				defer m.Close()
				var n int
				if write {
					w, err1 := m.Writer(t.Context(), 0)
					require.NoError(t, err1)
					n, err = w.Write(make([]byte, size))
				} else {
					r, err1 := m.Reader(t.Context(), 0)
					require.NoError(t, err1)
					n, err = r.Read(make([]byte, size))
				}
				if write {
					require.Equal(t, c.wrote, n)
				} else {
					require.Zero(t, n)
				}
				require.ErrorContains(t, err, c.want)
				if c.is != nil {
					require.ErrorIs(t, err, c.is)
				}
				requireOneLost(t, m)
			})
		}
	}
}

// requireOneLost checks that the only connection is lost, and that nobody has it or can get it.
func requireOneLost(t *testing.T, m *Multiplexer) {
	t.Helper()
	s := m.Stats()
	require.EqualValues(t, 1, s.Lost)
	require.Zero(t, s.IdleReaders+s.IdleWriters)
}

func TestTransportThatEndsItsGoroutineLosesItsConnection(t *testing.T) {
	for name, use := range map[string]func(m *Multiplexer) (close func() error, operate func([]byte) (int, error), err error){
		"Read": func(m *Multiplexer) (func() error, func([]byte) (int, error), error) {
			r, err := m.Reader(t.Context(), 0)
			return r.Close, r.Read, err
		},
		"Write": func(m *Multiplexer) (func() error, func([]byte) (int, error), error) {
			w, err := m.Writer(t.Context(), 0)
			return w.Close, w.Write, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := muxOf(t, faulty(fakenet.Goexits()))
			c := m.roster.all()[0]
			end, operate, err := use(m)
			require.NoError(t, err)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				defer func() { _ = end() }()
				_, _ = operate(make([]byte, 1))
				t.Error("it has returned")
			}()
			<-ended
			require.ErrorContains(t, c.failure(), "Goexit")
			requireOneLost(t, m)
			require.Zero(t, m.Stats().LeasedReaders+m.Stats().LeasedWriters)
		})
	}
}

// streams are streams over a transport that does not work. Each returns its lease's Err when the stream has
// ended, and what the lease's Close returned.
var streams = map[string]func(t *testing.T, m *Multiplexer) (told, closed error){
	"Recv": func(t *testing.T, m *Multiplexer) (told, closed error) {
		r, err := m.Reader(t.Context(), 0)
		require.NoError(t, err)
		ch, err := r.Recv(t.Context(), 0)
		require.NoError(t, err)
		for range ch {
			t.Error("there was nothing to receive")
		}
		told = r.Err()
		return told, r.Close()
	},
	"RecvChunks": func(t *testing.T, m *Multiplexer) (told, closed error) {
		r, err := m.Reader(t.Context(), 0)
		require.NoError(t, err)
		ch, err := r.RecvChunks(t.Context(), 0)
		require.NoError(t, err)
		for range ch {
			t.Error("there was nothing to receive")
		}
		told = r.Err()
		return told, r.Close()
	},
	"Send": func(t *testing.T, m *Multiplexer) (told, closed error) {
		w, err := m.Writer(t.Context(), 0)
		require.NoError(t, err)
		ch, err := w.Send(t.Context(), 0)
		require.NoError(t, err)
		for range 100 { // which must not hang
			ch <- 0
		}
		close(ch)
		<-w.Done()
		closed = w.Close()
		return w.Err(), closed
	},
	"SendChunks": func(t *testing.T, m *Multiplexer) (told, closed error) {
		w, err := m.Writer(t.Context(), 0)
		require.NoError(t, err)
		ch, err := w.SendChunks(t.Context(), 0)
		require.NoError(t, err)
		for range 100 {
			ch <- []byte{0}
		}
		close(ch)
		<-w.Done()
		closed = w.Close()
		return w.Err(), closed
	},
}

func TestStreamOfATransportThatBreaksTheRulesEnds(t *testing.T) {
	for name, c := range map[string]struct {
		do   fakenet.IO
		says string
	}{
		"panics":              {fakenet.Panics(io.ErrNoProgress), " panicked: "},
		"returns too much":    {fakenet.TooMany(1), " has returned n = "},
		"returns less than 0": {fakenet.Returns(-1, nil), " has returned n = -1 for "},
		"ends the goroutine":  {fakenet.Goexits(), "Goexit"},
	} {
		for stream, run := range streams {
			t.Run(name+" "+stream, func(t *testing.T) {
				m := muxOf(t, faulty(c.do))
				told, closed := run(t, m)
				require.ErrorContains(t, told, c.says)
				var unsent *UnsentError
				if errors.As(told, &unsent) {
					require.ErrorIs(t, closed, error(unsent))
					if name == "ends the goroutine" {
						require.EqualValues(t, 100, unsent.Unsent)
					}
				}
				requireOneLost(t, m)
				require.Zero(t, m.Stats().LeasedReaders+m.Stats().LeasedWriters)
			})
		}
	}
}
