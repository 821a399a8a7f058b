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
	"runtime"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex/internal/sock"
)

// kernelTimeout is a deadline by its Timeout method alone, as the kernel's ETIMEDOUT is.
type kernelTimeout struct{ error }

func (kernelTimeout) Timeout() bool   { return true }
func (kernelTimeout) Temporary() bool { return true }

// fakeAddr is an address of a network.
type fakeAddr string

func (a fakeAddr) Network() string { return string(a) }
func (a fakeAddr) String() string  { return string(a) }

func TestJudge(t *testing.T) {
	stream := sock.KindOf(&kindConn{network: "tcp"})
	udp := sock.KindOf(&kindConn{network: "udp"})
	secured := sock.KindOf(&tlsKindConn{kindConn{network: "tcp"}})
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

// kindConn is a transport of a network whose Read and Write are the test's.
type kindConn struct {
	walkConn
	network string
	do      func(p []byte) (int, error)
}

func (c *kindConn) LocalAddr() net.Addr         { return fakeAddr(c.network) }
func (c *kindConn) Read(p []byte) (int, error)  { return c.do(p) }
func (c *kindConn) Write(p []byte) (int, error) { return c.do(p) }

func TestTransportThatBreaksTheRulesLosesItsConnection(t *testing.T) {
	const size = 4
	for name, c := range map[string]struct {
		do    func(p []byte) (int, error)
		want  string
		is    error
		wrote int
	}{
		"panics":              {func([]byte) (int, error) { panic(io.ErrNoProgress) }, " panicked: ", io.ErrNoProgress, 0},
		"returns too much":    {func(p []byte) (int, error) { return len(p) + 1, nil }, "n = 5 for 4 bytes", nil, size},
		"returns less than 0": {func([]byte) (int, error) { return -1, io.EOF }, "n = -1 for 4 bytes", io.EOF, 0},
	} {
		for _, write := range []bool{false, true} {
			t.Run(fmt.Sprint(name, write), func(t *testing.T) {
				m, err := New(t.Context(), WithConnections(&kindConn{network: "tcp", do: c.do}))
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
			m := muxOf(t, &kindConn{network: "tcp", do: goexit})
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

// goexit is a Read or Write that ends its goroutine.
func goexit([]byte) (int, error) {
	runtime.Goexit()
	return 0, nil
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
		do   func(p []byte) (int, error)
		says string
	}{
		"panics":              {func([]byte) (int, error) { panic(io.ErrNoProgress) }, " panicked: "},
		"returns too much":    {func(p []byte) (int, error) { return len(p) + 1, nil }, " has returned n = "},
		"returns less than 0": {func([]byte) (int, error) { return -1, nil }, " has returned n = -1 for "},
		"ends the goroutine":  {goexit, "Goexit"},
	} {
		for stream, run := range streams {
			t.Run(name+" "+stream, func(t *testing.T) {
				m := muxOf(t, &kindConn{network: "tcp", do: c.do})
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

// tlsKindConn is a transport that says it is TLS.
type tlsKindConn struct{ kindConn }

func (*tlsKindConn) ConnectionState() tls.ConnectionState { return tls.ConnectionState{} }
