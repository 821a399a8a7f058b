package plex

// What an error of a transport means, by tables.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// kernelTimeout is a deadline by its Timeout method alone, as the kernel's ETIMEDOUT is.
type kernelTimeout struct{ error }

func (kernelTimeout) Timeout() bool   { return true }
func (kernelTimeout) Temporary() bool { return true }

func TestJudge(t *testing.T) {
	all := func(v verdict) func(operation) verdict { return func(operation) verdict { return v } }
	onlyUDP := func(op operation) verdict {
		if op.udp {
			return passing
		}

		return fatal
	}

	for _, c := range []struct {
		name string
		err  error
		want func(op operation) verdict
	}{
		{"a deadline", os.ErrDeadlineExceeded, func(op operation) verdict {
			if op.deadline && (!op.tls || !op.write) {
				return passing
			}

			return fatal
		}},
		{"EOF", io.EOF, func(op operation) verdict {
			if op.write {
				return fatal
			}

			return peerClosed
		}},
		{"a short write", io.ErrShortWrite, all(passing)},
		{"an unexpected EOF", io.ErrUnexpectedEOF, all(fatal)},
		{"a reset", syscall.ECONNRESET, all(fatal)},
		{"an abort", syscall.ECONNABORTED, all(fatal)},
		{"a broken pipe", syscall.EPIPE, all(fatal)},
		{"the kernel's timeout", syscall.ETIMEDOUT, all(fatal)},
		{"a timeout that is no deadline", kernelTimeout{errors.New("timeout")}, all(fatal)},
		{"a context's deadline", context.DeadlineExceeded, all(fatal)},
		{"closed", net.ErrClosed, all(fatal)},
		{"a closed pipe", io.ErrClosedPipe, all(fatal)},
		{"plex could not interrupt it", errUninterruptible, all(fatal)},
		{"anything else", errors.New("anything else"), all(fatal)},
		{"refused", datagramErrnos[0], onlyUDP},
		{"too large", datagramErrnos[1], onlyUDP},
		{"no buffer or the like", datagramErrnos[2], onlyUDP},
		{"no route or the like", datagramErrnos[len(datagramErrnos)-1], onlyUDP},
	} {
		t.Run(c.name, func(t *testing.T) {
			for i := range 16 {
				op := operation{write: i&1 != 0, udp: i&2 != 0, tls: i&4 != 0, deadline: i&8 != 0}

				for _, err := range []error{
					c.err,
					fmt.Errorf("wrapped: %w", c.err),
					&net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", c.err)},
					errors.Join(errors.New("another"), c.err),
				} {
					require.Equal(t, c.want(op), judge(err, op), "%v of %+v", err, op)
				}
			}
		})
	}
}

func TestTheErrorsThatPlexMakesUpAreWhatTheyStandFor(t *testing.T) {
	require.ErrorIs(t, errReset, syscall.ECONNRESET)
	require.ErrorIs(t, errPeerClosed, io.EOF)
	require.Equal(t, fatal, judge(errReset, operation{}))
	require.Equal(t, peerClosed, judge(errPeerClosed, operation{}))
}
