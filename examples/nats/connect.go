package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"

	"go.atomizer.io/plex"
)

// connectOptions is what the client says in CONNECT. With verbose the server would confirm every line with +OK. Headers
// are switched off, so that the server leaves them out of what it delivers.
type connectOptions struct {
	Verbose  bool   `json:"verbose"`
	Pedantic bool   `json:"pedantic"`
	Headers  bool   `json:"headers"`
	Echo     bool   `json:"echo"` // the client's own messages are delivered to it, too
	Protocol int    `json:"protocol"`
	Lang     string `json:"lang"`
	Version  string `json:"version"`
	Name     string `json:"name,omitempty"`
	User     string `json:"user,omitempty"`
	Password string `json:"pass,omitempty"`
}

// connector makes connections that are all prepared alike: greeted, logged in, and subscribed. Healing calls it too, so
// a connection that takes another's place has the same subscriptions.
//
// The subscriptions come before anything that is published over the connection. The server takes the lines of one
// connection in order, so whatever it gets from this client finds a subscriber: the connection that brings it, if no
// other.
func connector(config Config, greeted func(serverInfo)) plex.Connect {
	dial := plex.Dial("tcp", config.Address)
	hello, _ := json.Marshal(connectOptions{ // a struct of strings, numbers and booleans
		Echo: true, Protocol: 1, Lang: "go", Version: "plex", Name: config.Name, User: config.User, Password: config.Password,
	})
	var subscribe []byte
	for i, s := range config.Subscriptions {
		subscribe = fmt.Appendf(subscribe, "SUB %s %s %d\r\n", s.Subject, s.Group, i+1)
	}

	return func(ctx context.Context, conn net.Conn) error {
		if err := dial(ctx, conn); err != nil {
			return err
		}
		// A server that accepts and then says nothing holds this up until ctx ends: plex closes the connection then.
		if err := greet(conn, hello, greeted); err != nil {
			return err
		}
		_, err := conn.Write(subscribe)

		return err
	}
}

// greet waits for INFO, introduces the client, and asks for a PONG, which comes only if the server has accepted that.
func greet(conn net.Conn, hello []byte, greeted func(serverInfo)) error {
	line, err := readLine(conn)
	if err != nil {
		return fmt.Errorf("nats: wait for INFO: %w", err)
	}
	if why := errorLine(line); why != nil { // a server that has too many connections says so first
		return why
	}
	info, err := parseINFO(line)
	if err != nil {
		return err
	}
	if info.TLSRequired {
		return errors.New("nats: the server wants TLS, which this client does not speak")
	}

	if _, err := fmt.Fprintf(conn, "CONNECT %s\r\nPING\r\n", hello); err != nil {
		return fmt.Errorf("nats: CONNECT: %w", err)
	}
	for {
		line, err := readLine(conn)
		if err != nil {
			return fmt.Errorf("nats: wait for PONG: %w", err)
		}
		if why := errorLine(line); why != nil {
			return why
		}
		switch string(line) {
		case "PONG":
			greeted(info)
			return nil
		case "PING":
			if _, err := conn.Write(pong); err != nil {
				return err
			}
		default:
			if !bytes.HasPrefix(line, []byte("INFO ")) {
				return fmt.Errorf("nats: the server answers CONNECT with %.100q, want PONG", line)
			}
		}
	}
}

// readLine reads a line byte by byte, because messages may be on its heels, and they are for the first lease to read.
// There are few such lines in the life of a connection.
func readLine(conn net.Conn) ([]byte, error) {
	var line []byte
	var b [1]byte
	for !bytes.HasSuffix(line, crlf) {
		if len(line) > maxLine {
			return nil, fmt.Errorf("a line of more than %d bytes, which begins with %q", maxLine, line[:64])
		}
		n, err := conn.Read(b[:])
		line = append(line, b[:n]...)
		if err != nil {
			return nil, fmt.Errorf("%w, after %.100q", err, line)
		}
	}

	return bytes.TrimSuffix(line, crlf), nil
}

// ServerError is what the server says in an -ERR line.
type ServerError string

func (e ServerError) Error() string { return "nats: the server says " + strconv.Quote(string(e)) }

// errorLine is the error in an -ERR line, nil for any other.
func errorLine(line []byte) error {
	text, ok := bytes.CutPrefix(line, []byte("-ERR"))
	if !ok {
		return nil
	}

	return ServerError(bytes.Trim(text, " '"))
}
