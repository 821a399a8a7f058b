package main

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
)

// frame is one message on the wire, in both directions: an id, which the reply repeats, and a number, each with 8 bytes in
// big endian. The id is what lets plex spread requests over connections: a reply says itself which request it answers.
type frame struct{ id, number uint64 }

func (f frame) bytes() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, f.id), f.number)
}

// readFrame reads one message, no more and no less. It returns io.EOF when r ends between two messages and
// io.ErrUnexpectedEOF when it ends inside one.
func readFrame(r io.Reader) (frame, error) {
	var b [16]byte
	_, err := io.ReadFull(r, b[:])
	return frame{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}, err
}

// startServer starts a service on a free port of the loopback interface, until the program ends. It answers every request
// on the connection that it came over, with the request's id and the square of its number.
func startServer() (address string, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	go func() {
		for conn, err := listener.Accept(); err == nil; conn, err = listener.Accept() {
			go serve(conn)
		}
	}()
	return listener.Addr().String(), nil
}

func serve(conn net.Conn) {
	defer conn.Close()
	requests, replies := bufio.NewReader(conn), bufio.NewWriter(conn)
	for {
		f, err := readFrame(requests)
		if err != nil {
			return // the client has closed the connection
		}
		f.number *= f.number
		if _, err := replies.Write(f.bytes()); err != nil {
			return
		}
		// Replies go out together while requests are waiting, and at once when none is.
		if requests.Buffered() == 0 && replies.Flush() != nil {
			return
		}
	}
}
