package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"

	"go.atomizer.io/plex"
)

// The meta commands, as far as the client needs them:
//
//	mg <key> O<token> v\r\n                              get
//	ms <key> <size> O<token> T<seconds>\r\n<value>\r\n   set
//	md <key> O<token>\r\n                                delete
//
// and what comes back:
//
//	VA <size> O<token>\r\n<value>\r\n   the value
//	HD O<token>\r\n                     done
//	EN O<token>\r\n                     get: there is no such key
//	NF O<token>\r\n                     delete: there is no such key
//	NS O<token>\r\n, EX O<token>\r\n    not stored, which a plain set does not get
//
// ERROR, CLIENT_ERROR and SERVER_ERROR are lines without a token. Nobody can say what they are about, so they count as
// the end of all understanding: the connection is killed, and every request on it fails with that line for its cause.
// The client sends nothing that memcached answers like that, as long as it is not out of memory.

// command is a request.
type command struct {
	name    string // mg, ms or md
	key     string
	value   []byte // of ms
	expires int64  // of ms
}

// reply is what comes back.
type reply struct {
	status string // two letters
	value  []byte // of VA
}

// protocol tells package request what memcached looks like.
type protocol struct{}

// Append appends the command with its token.
func (protocol) Append(dst []byte, id uint64, c command) ([]byte, error) {
	dst = slices.Grow(dst, len(c.key)+len(c.value)+64)
	dst = append(append(append(dst, c.name...), ' '), c.key...)
	if c.name == "ms" {
		dst = strconv.AppendInt(append(dst, ' '), int64(len(c.value)), 10)
	}
	dst = strconv.AppendUint(append(dst, " O"...), id, 10)
	switch c.name {
	case "mg":
		dst = append(dst, " v"...)
	case "ms":
		dst = strconv.AppendInt(append(dst, " T"...), c.expires, 10)
		dst = append(append(dst, "\r\n"...), c.value...)
	}

	return append(dst, "\r\n"...), nil
}

// maxLine is more than any line that a server sends to this client: an error with its text is the longest.
const maxLine = 2048

var crlf = []byte("\r\n")

// Split finds the end of a reply: of its line, or of the value behind it.
func (protocol) Split(data []byte, _ bool) (advance int, token []byte, err error) {
	end := bytes.Index(data, crlf)
	switch {
	case end > maxLine, end < 0 && len(data) > maxLine:
		return 0, nil, fmt.Errorf("memcached: a line of more than %d bytes, which begins with %q", maxLine, data[:64])
	case end < 0:
		return 0, nil, nil
	}

	size := end + len(crlf)
	if bytes.HasPrefix(data, []byte("VA ")) {
		n, err := valueSize(data[:end])
		if err != nil {
			return 0, nil, err
		}
		size += n + len(crlf)
		if len(data) < size {
			return 0, nil, nil
		}
		if !bytes.HasSuffix(data[:size], crlf) {
			return 0, nil, fmt.Errorf("memcached: a value that does not end where %q says", data[:end])
		}
	}

	return size, data[:size], nil
}

// valueSize is the size in a line that begins with "VA ".
func valueSize(line []byte) (int, error) {
	text, _, _ := bytes.Cut(line[len("VA "):], []byte(" "))
	n, err := strconv.ParseUint(string(text), 10, 31)
	if err != nil {
		return 0, fmt.Errorf("memcached: %q has no size of a value: %w", line, err)
	}

	return int(n), nil
}

// Parse finds out which request a reply belongs to. An error of it ends the connection.
func (protocol) Parse(message []byte) (id uint64, r reply, err error) {
	line, rest, _ := bytes.Cut(message, crlf)
	status, flags, _ := bytes.Cut(line, []byte(" "))
	if len(status) != 2 {
		return 0, reply{}, fmt.Errorf("memcached: the server says %q, not to which request", line)
	}

	r.status = string(status)
	if r.status == "VA" {
		r.value = bytes.TrimSuffix(rest, crlf)
	}
	for flag := range bytes.FieldsSeq(flags) {
		if flag[0] == 'O' {
			id, err = strconv.ParseUint(string(flag[1:]), 10, 64)
			if err != nil {
				return 0, reply{}, fmt.Errorf("memcached: %q has a token that no request had: %w", line, err)
			}

			return id, r, nil
		}
	}

	return 0, reply{}, fmt.Errorf("memcached: %q does not say which request it answers", line)
}

// connect dials the server, and finds out whether it repeats the token with every reply. The first releases of 1.6 did
// not, when there was no such key: "EN" was all they said.
func connect(address string) plex.Connect {
	dial := plex.Dial("tcp", address)

	return func(ctx context.Context, conn net.Conn) error {
		if err := dial(ctx, conn); err != nil {
			return err
		}
		// Whatever accepts and then says nothing must not hold this up for ever. plex clears the deadline afterwards.
		if deadline, ok := ctx.Deadline(); ok {
			if err := conn.SetDeadline(deadline); err != nil {
				return err
			}
		}

		if _, err := io.WriteString(conn, "mg plex:hello O1\r\n"); err != nil {
			return err
		}
		line, err := readLine(conn)
		if err != nil {
			return fmt.Errorf("memcached: the server answers mg with %q: %w", line, err)
		}
		// EN, or HD should somebody have that key.
		if _, r, err := (protocol{}).Parse(line); err != nil || r.status != "EN" && r.status != "HD" {
			return fmt.Errorf("memcached: the server answers mg with %q, want EN O1: "+
				"is it memcached, and recent enough to repeat the token of a miss?", line)
		}

		return nil
	}
}

// readLine reads the only line that the server has to send, so that there is nothing behind it that it could take from
// the first lease.
func readLine(conn net.Conn) ([]byte, error) {
	line := make([]byte, 0, maxLine)
	for !bytes.HasSuffix(line, crlf) {
		if len(line) == cap(line) {
			return line[:64], fmt.Errorf("a line of more than %d bytes", maxLine)
		}
		n, err := conn.Read(line[len(line):cap(line)])
		line = line[:len(line)+n]
		if err != nil {
			return line, err
		}
	}

	return line, nil
}
