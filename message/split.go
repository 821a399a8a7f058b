package message

// Split functions for text, and the one place where a split function is called.

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
)

// Lines is a [bufio.SplitFunc] for lines that end in \n or \r\n, which is not part of the message. Lines may be empty.
// Unlike [bufio.ScanLines] it does not take the beginning of a line for a line because the data ends there: that is
// [io.ErrUnexpectedEOF], and the receiver reports it as cut off.
func Lines(data []byte, atEOF bool) (advance int, token []byte, err error) {
	end := bytes.IndexByte(data, '\n')
	if end < 0 {
		return unfinished(data, atEOF)
	}
	return end + 1, bytes.TrimSuffix(data[:end:end], []byte{'\r'}), nil
}

// Delimiter returns a split function for messages that end in delimiter, which is not part of the message. Messages may
// be empty. What has no delimiter when the data ends is [io.ErrUnexpectedEOF], as for [Lines]. For an empty delimiter
// there is no such function: Delimiter returns nil, which [New] refuses.
//
// The function keeps a copy of delimiter, and may be called from several goroutines.
func Delimiter(delimiter []byte) bufio.SplitFunc {
	if len(delimiter) == 0 {
		return nil
	}
	delimiter = bytes.Clone(delimiter)
	return func(data []byte, atEOF bool) (advance int, token []byte, err error) {
		end := bytes.Index(data, delimiter)
		if end < 0 {
			return unfinished(data, atEOF)
		}
		return end + len(delimiter), data[:end:end], nil
	}
}

// unfinished is the answer to data that is no whole message.
func unfinished(data []byte, atEOF bool) (advance int, token []byte, err error) {
	if atEOF && len(data) > 0 {
		err = io.ErrUnexpectedEOF
	}
	return 0, nil, err
}

// errStuck is about a message that would come again and again.
var errStuck = errors.New("it returned a message without advancing, so it would return the same for ever")

// errExited is about a split function that does not return.
var errExited = errors.New("it ended its goroutine by runtime.Goexit")

// ask calls the split function and checks what it says: a step in the data, a message or nil, and whether that was
// the last, by bufio.ErrFinalToken. Any error is the split function's, which may also panic.
func (r *Receiver) ask(data []byte, atEOF bool) (advance int, token []byte, final bool, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("it panicked: %v\n%s", v, debug.Stack())
		}
	}()
	advance, token, err = r.split(data[:len(data):len(data)], atEOF)
	if err != nil {
		if !errors.Is(err, bufio.ErrFinalToken) {
			return 0, nil, false, err
		}
		final, err = true, nil
	}
	switch {
	case advance < 0:
		err = fmt.Errorf("it advanced by %d bytes: %w", advance, bufio.ErrNegativeAdvance)
	case advance > len(data):
		err = fmt.Errorf("it advanced by %d of %d bytes: %w", advance, len(data), bufio.ErrAdvanceTooFar)
	case len(token) > r.maxSize:
		err = &TooLongError{Size: uint64(len(token)), Max: r.maxSize}
	case token != nil && advance == 0 && len(data) > 0 && !final:
		err = errStuck
	}
	return advance, token, final, err
}
