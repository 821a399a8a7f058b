package message

// The one place where the user's split function is called. Whatever it does costs its own
// connection alone: what it returns is checked, and its errors are looked into, under one recover.

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
)

var (
	// errStuck is about a message that would be returned again and again.
	errStuck = errors.New("it returned a message without advancing, so it would return the same one forever")

	// errExited is about a split function that does not return.
	errExited = errors.New("it ended its goroutine with runtime.Goexit")

	errNilTooLong = errors.New("it returned a nil *TooLongError")
)

// ask calls the split function and checks its answer: how far to advance, a message or nil, and
// whether it was the last, by bufio.ErrFinalToken. err is a *CutError, *TooLongError or *SplitError,
// to be delivered as it is.
func (r *Receiver) ask(h *hand) (advance int, token []byte, final bool, err error) {
	b := &h.backlog
	defer func() {
		if v := recover(); v != nil {
			err = &SplitError{Conn: b.conn, Err: fmt.Errorf("it panicked: %v\n%s", v, debug.Stack())}
		}
	}()
	if h.split == nil {
		if h.split, err = r.splitOf(h.conn); err != nil {
			return 0, nil, false, &SplitError{Conn: b.conn, Err: err}
		}
	}
	advance, token, err = h.split(b.data[:len(b.data):len(b.data)], b.atEOF)
	if err != nil {
		if !errors.Is(err, bufio.ErrFinalToken) {
			return 0, nil, false, splitFailure(b, err)
		}
		final = true
	}
	return advance, token, final, r.check(b, advance, token, final)
}

// check returns what is wrong with an answer that is no error.
func (r *Receiver) check(b *backlog, advance int, token []byte, final bool) error {
	var err error
	switch {
	case advance < 0:
		err = fmt.Errorf("it advanced by %d bytes: %w", advance, bufio.ErrNegativeAdvance)
	case advance > len(b.data):
		err = fmt.Errorf("it advanced by %d of %d bytes: %w", advance, len(b.data), bufio.ErrAdvanceTooFar)
	case len(token) > r.maxSize:
		return &TooLongError{Conn: b.conn, Size: uint64(len(token)), Max: r.maxSize}
	case token != nil && advance == 0 && len(b.data) > 0 && !final:
		err = errStuck
	default:
		return nil
	}
	return &SplitError{Conn: b.conn, Err: err}
}

// splitFailure is what to deliver for an error of the split function; nil if there is nothing
// wrong.
func splitFailure(b *backlog, err error) error {
	var tooLong *TooLongError
	switch {
	case b.cause != nil && errors.Is(err, io.ErrUnexpectedEOF):
		return cut(b, err)
	case errors.As(err, &tooLong):
		if tooLong == nil {
			return &SplitError{Conn: b.conn, Err: errNilTooLong} // without the nil in it
		}
		return &TooLongError{Conn: b.conn, Size: tooLong.Size, Max: tooLong.Max}
	default:
		return &SplitError{Conn: b.conn, Err: err}
	}
}

// cut is what to deliver for data that its end cuts off; nil if there is none.
func cut(b *backlog, err error) error {
	if len(b.data) == 0 {
		return nil
	}
	if b.cause != io.EOF {
		err = b.cause
	}
	return &CutError{Conn: b.conn, Data: bytes.Clone(b.data), Err: err}
}
