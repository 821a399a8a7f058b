package store

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	"go.atomizer.io/plex/request"
)

// Value is a reply, or a part of one, in RESP2 or RESP3.
type Value struct {
	Kind  byte    // the byte that it begins with; '_' also for the nulls of RESP2
	Text  string  // of a simple one: its bytes. Of a verbatim string ('='): without its format
	Items []Value // of an array, a set or a push; of a map the keys and the values in turn
}

// Null reports that there is nothing.
func (v Value) Null() bool { return v.Kind == '_' }

const (
	maxLine  = 64 << 10 // more than any line
	maxItems = 1 << 24  // more than MaxReply has room for
	maxDepth = 32       // of values within values. Redis's own have a few
)

var crlf = []byte("\r\n")

// protocol tells package request what RESP looks like.
type protocol struct{}

// Append appends a command: an array of strings.
func (protocol) Append(dst []byte, command []string) ([]byte, error) {
	dst = append(strconv.AppendInt(append(dst, '*'), int64(len(command)), 10), crlf...)
	for _, word := range command {
		dst = append(strconv.AppendInt(append(dst, '$'), int64(len(word)), 10), crlf...)
		dst = append(append(dst, word...), crlf...)
	}
	return dst, nil
}

// Split finds the end of a value. One that has items ends where the last of them does, however deep they are.
func (protocol) Split(data []byte, _ bool) (advance int, token []byte, err error) {
	at := 0
	for left := 1; left > 0; left-- {
		h, err := readHead(data[at:])
		if err != nil || h.size == 0 {
			return 0, nil, err
		}
		if at += h.size + h.bytes; at > len(data) {
			return 0, nil, nil // more has to come
		}
		if left += h.items; left > maxItems {
			return 0, nil, fmt.Errorf("redis: a value of more than %d items", maxItems)
		}
	}
	return at, data[:at:at], nil
}

// Parse takes a value apart. A push answers no command.
func (protocol) Parse(data []byte, _ []string) (Value, error) {
	if data[0] == '>' {
		return Value{}, request.ErrNotReply
	}
	return parse(data)
}

// head is the line that a value begins with, and what has to follow it.
type head struct {
	kind  byte
	text  []byte
	size  int // of the line with its end; 0: it has not come yet
	bytes int // of the string that follows, with its end
	items int // that follow
}

func readHead(data []byte) (h head, err error) {
	line, _, whole := bytes.Cut(data, crlf)
	if !whole {
		if len(data) > maxLine {
			err = fmt.Errorf("redis: the line %.20q... does not end", data)
		}
		return h, err
	}
	if len(line) == 0 {
		return h, errors.New("redis: an empty line, where a value should begin")
	}
	h = head{kind: line[0], text: line[1:], size: len(line) + len(crlf)}
	switch h.kind {
	case '+', '-', ':', '_', '#', ',', '(':
		return h, nil
	case '$', '!', '=', '*', '~', '>', '%', '|':
	default:
		return h, fmt.Errorf("redis: %.20q is no value", line)
	}
	n, err := strconv.ParseInt(string(h.text), 10, 32)
	switch {
	case err != nil, n < -1, n < 0 && h.kind != '$' && h.kind != '*', n > maxItems && h.kind != '$':
		return h, fmt.Errorf("redis: %.20q has a size that cannot be", line)
	case n < 0: // the nulls of RESP2
		h.kind, h.text = '_', nil
	case h.kind == '$', h.kind == '!', h.kind == '=':
		h.bytes = int(n) + len(crlf)
	case h.kind == '%':
		h.items = 2 * int(n)
	case h.kind == '|': // attributes of the value behind them, which is an item more
		h.items = 2*int(n) + 1
	default:
		h.items = int(n)
	}
	return h, nil
}

// parse takes a value apart that Split has found.
func parse(data []byte) (Value, error) {
	v, rest, err := take(data, maxDepth)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("redis: %d bytes behind a value", len(rest))
	}
	return v, err
}

// take takes the first value from data.
func take(data []byte, depth int) (v Value, rest []byte, err error) {
	h, err := readHead(data)
	if err != nil || h.size == 0 || h.size+h.bytes > len(data) || depth == 0 {
		return v, nil, fmt.Errorf("redis: %.20q is no whole value: %w", data, errors.Join(err, errTooDeep(depth)))
	}
	v = Value{Kind: h.kind, Text: string(h.text)}
	rest = data[h.size+h.bytes:]
	if h.bytes > 0 {
		text, ok := bytes.CutSuffix(data[h.size:h.size+h.bytes], crlf)
		if !ok {
			return v, nil, fmt.Errorf("redis: a string of %s bytes does not end there", h.text)
		}
		if v.Kind == '=' && len(text) >= 4 {
			text = text[4:] // such as txt:
		}
		v.Text = string(text)
	}
	for range h.items {
		var item Value
		if item, rest, err = take(rest, depth-1); err != nil {
			return v, nil, err
		}
		v.Items = append(v.Items, item)
	}
	if v.Kind == '|' {
		return v.Items[len(v.Items)-1], rest, nil // without its attributes
	}
	if h.items > 0 || h.kind == '*' || h.kind == '~' || h.kind == '>' || h.kind == '%' {
		v.Text = ""
	}
	return v, rest, nil
}

func errTooDeep(depth int) error {
	if depth == 0 {
		return fmt.Errorf("more than %d values within each other", maxDepth)
	}
	return nil
}
