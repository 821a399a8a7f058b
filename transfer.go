package plex

// One Read or Write of the transport, and what its error means: for the connection, and for the
// consumer.

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"go.atomizer.io/plex/internal/caller"
	"go.atomizer.io/plex/internal/sock"
)

// read is one Read of the transport, or of what was read before. The caller is busy.
func (h *half) read(p []byte) (n int, err error) {
	if h.reclaim != nil {
		h.takeBack()
	}
	c := h.conn
	if len(h.back) > 0 {
		c.delivers()
		return h.readBack(p), nil
	}
	if h.refusal != nil {
		return 0, h.takeRefusal()
	}
	if c.peer.reached(peerRead) {
		c.peer.turn(peerTold)
		if cause := c.failure(); cause != nil {
			return 0, cause
		}
		return 0, io.EOF
	}
	if cause := c.failure(); cause != nil {
		return 0, cause // the transport is about to be closed
	}
	n, err = c.readOnce(p)
	return n, h.afterRead(n, err)
}

// write is one Write to the transport, and keeps the account of whether it was whole. The caller is
// busy.
func (h *half) write(p []byte) (n int, err error) {
	if cause := h.conn.failure(); cause != nil {
		return 0, cause
	}
	n, err = h.conn.writeOnce(p)
	return n, h.afterWrite(p, n, err)
}

// readOnce and writeOnce call the transport and turn a panic and nonsense into an error.
func (c *conn) readOnce(p []byte) (n int, err error) {
	returned := false
	defer func() {
		if !returned {
			n, err = 0, c.crashed("Read", recover())
		}
	}()
	n, err = c.nc.Read(p)
	returned = true
	return c.saneRead(n, len(p), err)
}

func (c *conn) writeOnce(p []byte) (n int, err error) {
	returned := false
	defer func() {
		if !returned {
			n, err = 0, c.crashed("Write", recover())
		}
	}()
	n, err = c.nc.Write(p)
	returned = true
	return c.saneWrite(n, len(p), err)
}

// crashed is called when the transport's method has not returned: with what it panicked with, nil
// if it has ended its goroutine. In the latter case nobody gets the error, so the connection fails
// here.
func (c *conn) crashed(method string, panicked any) error {
	err := caller.Crash(fmt.Sprintf("the transport's %s", method), panicked)
	c.fail(err)
	return err
}

// saneRead and saneWrite turn a number of bytes that cannot be into an error. What a Read has
// brought is then unknown; a Write that says it has written more than all is taken to have written
// all.
func (c *conn) saneRead(n, size int, err error) (int, error) {
	if 0 <= n && n <= size {
		return n, err
	}
	return 0, nonsense("Read", n, size, err)
}

func (c *conn) saneWrite(n, size int, err error) (int, error) {
	if 0 <= n && n <= size {
		return n, err
	}
	return min(max(n, 0), size), nonsense("Write", n, size, err)
}

func nonsense(method string, n, size int, err error) error {
	return &nonsenseError{fmt.Sprintf("plex: the transport's %s has returned n = %d for %d bytes", method, n, size), err}
}

// nonsenseError is about a transport that breaks the rules of net.Conn.
type nonsenseError struct {
	text string
	err  error // what it returned beside
}

func (e *nonsenseError) Error() string { return e.text }
func (e *nonsenseError) Unwrap() error { return e.err }

// delivers notes that the connection has delivered something.
func (c *conn) delivers() {
	if !c.delivered.Load() {
		c.delivered.Store(true)
		c.noteDelivery()
	}
}

// afterRead sees to what a Read of the transport has brought a lease.
func (h *half) afterRead(n int, err error) error {
	if n > 0 {
		h.conn.delivers()
	}
	if err != nil {
		err = h.failedOperation(err)
	}
	return err
}

// afterWrite keeps the account of whether a Write of p was whole.
func (h *half) afterWrite(p []byte, n int, err error) error {
	switch {
	case n < len(p):
		if err == nil {
			err = io.ErrShortWrite
		}
		if n > 0 && !h.conn.kind.Datagram() {
			h.set(leaseTorn)
		}
	case len(p) > 0 && h.word().is(leaseTorn):
		h.unset(leaseTorn) // the consumer has mended its message
	}
	if err != nil {
		err = h.failedOperation(err)
	}
	return err
}

// failedOperation acts on an error of the transport and returns what the consumer is told.
func (h *half) failedOperation(err error) error {
	c := h.conn
	switch h.verdict(err) {
	case passing:
		if cause := c.failure(); cause != nil {
			return h.told(cause)
		}
		return h.told(err)
	case sawEOF:
		if cause := c.resetBehindEOF(); cause != nil {
			return cause
		}
		c.peerEnded(io.EOF)
		c.peer.turn(peerTold)
		return err
	default:
		// A Write to a connection that has been reset meanwhile only says that the pipe is broken;
		// the kernel has told the other half why.
		if h.writes() && sock.BrokenPipe(err) && c.wasReset() {
			c.letTell(&c.r)
			err = fmt.Errorf("%w: %w", c.resetCause(), err)
		}
		// Whose deadline it was, or whose lease has ended, means nothing to the others on the
		// connection. What it says to them is why there is no connection any more.
		if h.writes() && c.kind.TLS() && h.operation().missed(err) {
			err = fmt.Errorf("%w, which TLS does not survive: %w", ErrPartialWrite, err)
		}
		c.fail(err)
		return h.told(c.failure())
	}
}

// resetBehindEOF returns why the connection has failed, if it has. The kernel tells a reset to one
// half only, and the other one of a clean EOF. So an EOF is believed only of a connection that has
// not failed, and of a reset that nobody has told of, nothing is known but that it was one. Where
// there is no socket to ask, a Write that is under way may be about to tell of it, too.
func (c *conn) resetBehindEOF() error {
	reset := c.wasReset()
	if reset || !c.socket.Exists() {
		c.letTell(&c.w)
	}
	if reset && c.failure() == nil {
		c.fail(c.resetCause())
	}
	return c.failure()
}

// letTell gives an operation of the other half a moment to tell why the connection has failed: the
// kernel may have told it, and nobody else. Plex itself reads, from a half that it holds, and never
// writes.
func (c *conn) letTell(other *half) {
	busy := leaseBusy
	if !other.writes() {
		busy |= poolHeld
	}
	for range tellSteps {
		if c.failure() != nil || !other.word().is(busy) {
			return
		}
		time.Sleep(tellStep)
	}
}

// The moment is short, because an EOF during a long Write is mostly just that. It is made of steps,
// because a process that was stopped has not given the Write the chance to return.
const (
	tellSteps = 20
	tellStep  = time.Millisecond
)

func (h *half) verdict(err error) verdict {
	return judge(err, h.operation())
}

func (h *half) operation() operation {
	c := h.conn
	return operation{write: h.writes(), kind: c.kind, deadline: h.word().is(leaseDeadline), kernel: c.socket.Exists()}
}

// told is what a Read or Write returns for err. If the end of its own lease has interrupted it,
// that is all there is to say.
func (h *half) told(err error) error {
	if w := h.word(); w.is(leaseClosing) && !w.is(leaseStream) && h.isInterrupt(err) {
		return ErrLeaseClosed
	}
	return err
}

// isInterrupt reports whether err can be the consequence of an interrupt.
func (h *half) isInterrupt(err error) bool {
	return err == errUninterruptible || h.operation().missed(err)
}

// operation is what judge has to know beside the error.
type operation struct {
	write    bool
	kind     sock.Kind
	deadline bool // a deadline may have been set, by the consumer or by an interrupt
	kernel   bool // there is a socket beneath
}

// missed reports whether err says that a deadline has passed. A kernel's ETIMEDOUT says Timeout(),
// too, and is no deadline. But a transport without a kernel, such as a stream of a multiplexed
// session, may have an error of its own, and no ETIMEDOUT.
func (op operation) missed(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	var timeout net.Error
	return !op.kernel && errors.As(err, &timeout) && timeout.Timeout() && !errors.Is(err, syscall.ETIMEDOUT)
}

type verdict int

const (
	passing verdict = iota // says nothing about the connection
	sawEOF                 // the peer has sent all that it will send
	fatal                  // the connection is of no more use
)

// judge decides what err, which is not nil, says about the connection.
func judge(err error, op operation) verdict {
	var broken *nonsenseError
	switch {
	case errors.As(err, &broken):
		return fatal
	case op.missed(err):
		// The consumer's own doing, with two exceptions. A TLS connection cannot write after a
		// write that timed out. And if nobody set a deadline, the error is a dead connection's
		// memory of an earlier one, as of a TLS connection inside another type.
		if !op.deadline || op.kind.TLS() && op.write {
			return fatal
		}
		return passing
	case !op.write && errors.Is(err, io.EOF):
		return sawEOF
	case errors.Is(err, io.ErrShortWrite):
		return passing // it leaves a torn message, see afterWrite
	case op.kind.Passing(err):
		return passing
	}
	return fatal
}

// isClosed reports whether err says that a transport is closed, here or, for a pipe, by the peer.
func isClosed(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe)
}

// errPeerClosed is the cause of a loss that plex has seen on an idle connection.
var errPeerClosed = fmt.Errorf("plex: the peer closed the connection: %w", io.EOF)
