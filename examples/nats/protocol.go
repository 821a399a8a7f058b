package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// The protocol of NATS, as far as the client needs it. Everything is lines that end in \r\n, and some are followed by a
// payload with a \r\n of its own. From the server come
//
//	INFO {...}                                      first of all, and whenever there is news
//	MSG <subject> <sid> [<reply-to>] <size>         and the payload
//	PING                                            to be answered with PONG, over the same connection
//	PONG, +OK
//	-ERR '<why>'
//
// and to the server go
//
//	CONNECT {...}                                   first of all
//	PING, PONG
//	SUB <subject> [<queue group>] <sid>
//	PUB <subject> [<reply-to>] <size>               and the payload

const (
	maxLine    = 64 << 10 // more than any line: an INFO that lists a large cluster is the longest
	maxSubject = 1 << 10
)

var crlf = []byte("\r\n")

// split is a bufio.SplitFunc for what the server sends. A message is its line and, of a MSG, the payload behind it, with
// every \r\n but the last.
func split(data []byte, atEOF bool) (advance int, token []byte, err error) {
	end := bytes.Index(data, crlf)
	switch {
	case end > maxLine, end < 0 && len(data) > maxLine:
		return 0, nil, fmt.Errorf("nats: a line of more than %d bytes, which begins with %q", maxLine, data[:64])
	case end < 0 && atEOF && len(data) > 0:
		return 0, nil, io.ErrUnexpectedEOF
	case end < 0:
		return 0, nil, nil
	}

	size := end + len(crlf)
	if isMSG(data[:end]) {
		n, err := payloadSize(data[:end])
		if err != nil {
			return 0, nil, err
		}
		size += n + len(crlf)
		switch {
		case len(data) >= size:
			if !bytes.HasSuffix(data[:size], crlf) {
				return 0, nil, fmt.Errorf("nats: a payload that does not end where %q says", data[:end])
			}
		case atEOF:
			return 0, nil, io.ErrUnexpectedEOF
		default:
			return 0, nil, nil
		}
	}

	return size, data[: size-len(crlf) : size-len(crlf)], nil
}

func isMSG(line []byte) bool { return bytes.HasPrefix(line, []byte("MSG ")) }

// payloadSize is the last number of a MSG line.
func payloadSize(line []byte) (int, error) {
	size := line[bytes.LastIndexByte(line, ' ')+1:]
	n, err := strconv.ParseUint(string(size), 10, 31)
	if err != nil {
		return 0, fmt.Errorf("nats: %q has no size of a payload: %w", line, err)
	}

	return int(n), nil
}

// Msg is one message.
type Msg struct {
	Subject string
	Reply   string // the subject that an answer is wanted on; empty if none is
	Data    []byte
}

// parseMSG takes a MSG apart that split has found. The data of the message is in frame.
func parseMSG(frame []byte) (sid int, m Msg, err error) {
	line, payload, _ := bytes.Cut(frame, crlf)
	fields := bytes.Fields(line)
	if len(fields) != 4 && len(fields) != 5 {
		return 0, Msg{}, fmt.Errorf("nats: %q has %d words, want MSG, subject, sid, perhaps a reply subject, and size",
			line, len(fields))
	}
	if sid, err = strconv.Atoi(string(fields[2])); err != nil {
		return 0, Msg{}, fmt.Errorf("nats: %q has no number of a subscription: %w", line, err)
	}
	m = Msg{Subject: string(fields[1]), Data: payload}
	if len(fields) == 5 {
		m.Reply = string(fields[3])
	}

	return sid, m, nil
}

// appendPUB appends a message to be published.
func appendPUB(dst []byte, m Msg) []byte {
	dst = slices.Grow(dst, len(m.Subject)+len(m.Reply)+len(m.Data)+32)
	dst = append(append(append(dst, "PUB "...), m.Subject...), ' ')
	if m.Reply != "" {
		dst = append(append(dst, m.Reply...), ' ')
	}
	dst = strconv.AppendInt(dst, int64(len(m.Data)), 10)
	dst = append(append(dst, crlf...), m.Data...)

	return append(dst, crlf...)
}

// checkSubject refuses what the server would take for something else, or for the end of the line. Wildcards are for
// those who subscribe.
func checkSubject(subject string, wildcards bool) error {
	switch {
	case subject == "":
		return errors.New("an empty subject")
	case len(subject) > maxSubject:
		return fmt.Errorf("a subject of %d bytes, want at most %d", len(subject), maxSubject)
	}
	if err := checkWord("subject", subject); err != nil {
		return err
	}

	tokens := strings.Split(subject, ".")
	for i, token := range tokens {
		switch {
		case token == "":
			return fmt.Errorf("the subject %q has an empty part, want one between any two dots", subject)
		case token != "*" && token != ">":
		case !wildcards:
			return fmt.Errorf("the subject %q has the wildcard %s, which only a subscription may have", subject, token)
		case token == ">" && i < len(tokens)-1:
			return fmt.Errorf("the subject %q goes on behind >, which stands for all that may follow", subject)
		}
	}

	return nil
}

// checkWord refuses what would end a word.
func checkWord(what, word string) error {
	if i := strings.IndexFunc(word, func(r rune) bool { return r <= ' ' || r == 0x7f }); i >= 0 {
		return fmt.Errorf("the %s %q has byte %#x, want no blanks and no control characters", what, word, word[i])
	}

	return nil
}

// serverInfo is what the client wants to know of an INFO.
type serverInfo struct {
	ID          string `json:"server_id"`
	Version     string `json:"version"`
	MaxPayload  int64  `json:"max_payload"`
	TLSRequired bool   `json:"tls_required"`
}

// parseINFO takes an INFO line apart.
func parseINFO(line []byte) (serverInfo, error) {
	var info serverInfo
	text, ok := bytes.CutPrefix(line, []byte("INFO "))
	if !ok {
		return info, fmt.Errorf("nats: the server begins with %.100q, want INFO: is it a NATS server?", line)
	}
	if err := json.Unmarshal(text, &info); err != nil {
		return info, fmt.Errorf("nats: the server begins with %.100q: %w", line, err)
	}

	return info, nil
}
