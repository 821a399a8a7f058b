package message

// Split functions for text.

import (
	"bufio"
	"bytes"
	"io"
)

// Lines is a [bufio.SplitFunc] for lines that end in \n or \r\n, which is not part of the message.
// Lines may be empty. Unlike [bufio.ScanLines] it does not accept an unfinished line at the end of
// the data: that is [io.ErrUnexpectedEOF], and the receiver reports it as cut off.
func Lines(data []byte, atEOF bool) (advance int, token []byte, err error) {
	end := bytes.IndexByte(data, '\n')
	if end < 0 {
		return unfinished(data, atEOF)
	}
	return end + 1, bytes.TrimSuffix(data[:end:end], []byte{'\r'}), nil
}

// Delimiter returns a split function for messages that end in delimiter, which is not part of the
// message. Messages may be empty. Data that ends without a delimiter is [io.ErrUnexpectedEOF], as
// for [Lines]. There is no such function for an empty delimiter: Delimiter returns nil then, which
// [New] refuses.
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

// unfinished is the answer to data that contains no whole message.
func unfinished(data []byte, atEOF bool) (advance int, token []byte, err error) {
	if atEOF && len(data) > 0 {
		err = io.ErrUnexpectedEOF
	}
	return 0, nil, err
}
