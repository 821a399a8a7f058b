package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// embedded is a server that knows as much of memcached as the example needs, for machines that have none: the meta
// commands of the client, and get, set and delete as gomemcache has them. It never forgets anything while it is up, and
// no time to live ends.
type embedded struct {
	address string
	old     bool // as the first releases of 1.6, it does not repeat the token of a miss

	serving  sync.WaitGroup
	mu       sync.Mutex
	listener net.Listener // nil while the server is down
	conns    map[net.Conn]struct{}

	items sync.Map // string to item
}

type item struct {
	flags string
	value []byte
}

func (s *embedded) addr() string   { return s.address }
func (s *embedded) String() string { return "the example's own server, as memcached is not installed" }

func (s *embedded) up() error {
	listener, err := net.Listen("tcp", s.address)
	if err != nil {
		return err
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	s.listener, s.conns = listener, make(map[net.Conn]struct{})
	s.serving.Go(func() { s.accept(listener) })

	return nil
}

func (s *embedded) down() error {
	s.mu.Lock()
	listener := s.listener
	s.listener = nil
	for conn := range s.conns {
		_ = conn.Close() // the goroutine that serves it sees that it is gone
	}
	s.mu.Unlock()
	if listener == nil {
		return nil
	}

	err := listener.Close()
	s.serving.Wait()
	s.items.Clear()

	return err
}

func (s *embedded) accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return // the port is closed
		}

		s.mu.Lock()
		if s.listener != listener {
			s.mu.Unlock()
			_ = conn.Close()
			return
		}
		s.conns[conn] = struct{}{}
		s.serving.Go(func() {
			s.serve(conn)
			s.mu.Lock()
			delete(s.conns, conn)
			s.mu.Unlock()
		})
		s.mu.Unlock()
	}
}

// serve answers one command after the other, until the connection ends or speaks nonsense.
func (s *embedded) serve(conn net.Conn) {
	defer conn.Close()
	in, out := bufio.NewReader(conn), bufio.NewWriter(conn)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		if err := s.answer(strings.Fields(line), in, out); err != nil {
			fmt.Fprintf(out, "CLIENT_ERROR %v\r\n", err)
			_ = out.Flush()
			return
		}
		// Replies go out together while commands are waiting, and at once when none is.
		if in.Buffered() == 0 && out.Flush() != nil {
			return
		}
	}
}

var errCommand = errors.New("bad command line format")

// answer carries out one command.
func (s *embedded) answer(words []string, in *bufio.Reader, out *bufio.Writer) error {
	if len(words) < 2 || len(words[1]) > MaxKey {
		return errCommand
	}
	command, key, rest := words[0], words[1], words[2:]
	switch command {
	case "mg":
		s.metaGet(key, rest, out)
	case "ms":
		if len(rest) == 0 {
			return errCommand
		}
		if err := s.store(key, "0", rest[0], in); err != nil {
			return err
		}
		fmt.Fprintf(out, "HD%s\r\n", token(rest[1:]))
	case "md":
		status := "NF"
		if _, ok := s.items.LoadAndDelete(key); ok {
			status = "HD"
		}
		fmt.Fprintf(out, "%s%s\r\n", status, token(rest))
	case "get", "gets":
		if it, ok := s.load(key); ok {
			fmt.Fprintf(out, "VALUE %s %s %d 1\r\n%s\r\n", key, it.flags, len(it.value), it.value)
		}
		fmt.Fprint(out, "END\r\n")
	case "set":
		if len(rest) < 3 {
			return errCommand
		}
		if err := s.store(key, rest[0], rest[2], in); err != nil {
			return err
		}
		fmt.Fprint(out, "STORED\r\n")
	default:
		return errCommand
	}

	return nil
}

func (s *embedded) metaGet(key string, flags []string, out *bufio.Writer) {
	it, ok := s.load(key)
	switch {
	case !ok && s.old:
		fmt.Fprint(out, "EN\r\n")
	case !ok:
		fmt.Fprintf(out, "EN%s\r\n", token(flags))
	case slices.Contains(flags, "v"):
		fmt.Fprintf(out, "VA %d%s\r\n%s\r\n", len(it.value), token(flags), it.value)
	default:
		fmt.Fprintf(out, "HD%s\r\n", token(flags))
	}
}

func (s *embedded) load(key string) (item, bool) {
	it, ok := s.items.Load(key)
	if !ok {
		return item{}, false
	}

	return it.(item), true
}

// store reads a value and keeps it.
func (s *embedded) store(key, flags, size string, in *bufio.Reader) error {
	n, err := strconv.Atoi(size)
	if err != nil || n < 0 || n > MaxValue {
		return errCommand
	}
	value := make([]byte, n+len(crlf))
	if _, err := io.ReadFull(in, value); err != nil {
		return err
	}
	if string(value[n:]) != string(crlf) {
		return errors.New("bad data chunk")
	}
	s.items.Store(key, item{flags, value[:n]})

	return nil
}

// token is the opaque token among the flags, with a blank before it.
func token(flags []string) string {
	for _, flag := range flags {
		if flag[0] == 'O' {
			return " " + flag
		}
	}

	return ""
}
