// Package fuzz has the entry points for fuzzing by ClusterFuzzLite: what peers may send. They have the form that libFuzzer
// calls, and panic when something is wrong. The tests of this package run the same with Go's own fuzzer:
//
//	go test -C faulttest ./fuzz -run='^$' -fuzz=FuzzReplies -fuzztime=1m
package fuzz

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/message"
	"go.atomizer.io/plex/request"
)

// splits are the split functions of package message. What each finds depends on no byte behind the message.
var splits = []bufio.SplitFunc{
	message.Lines,
	message.Delimiter([]byte("ab")),
	message.Prefix{Bytes: 1}.Split,
	message.Prefix{Bytes: 1, Inclusive: true, Max: 20}.Split,
	message.Prefix{Bytes: 2, Order: binary.LittleEndian, Max: 300}.Split,
	message.Prefix{Bytes: 4, Inclusive: true}.Split,
	message.Prefix{Bytes: 8, Max: 1 << 10}.Split,
}

// Split looks for messages in data, all at once and as it arrives in pieces, which must not make a difference.
func Split(data []byte) int {
	if len(data) < 2 {
		return 0
	}
	split, piece, data := splits[int(data[0])%len(splits)], int(data[1])%7+1, data[2:]
	whole, wholeErr := messages(split, data, len(data)+1)
	parts, partsErr := messages(split, data, piece)
	if len(whole) != len(parts) {
		panic(fmt.Sprintf("%d messages at once, %d in pieces of %d", len(whole), len(parts), piece))
	}
	for i := range whole {
		if !bytes.Equal(whole[i], parts[i]) {
			panic(fmt.Sprintf("message %d: %q at once, %q in pieces of %d", i, whole[i], parts[i], piece))
		}
	}
	if (wholeErr == nil) != (partsErr == nil) {
		panic(fmt.Sprintf("%v at once, %v in pieces of %d", wholeErr, partsErr, piece))
	}
	return 1
}

// messages returns what split finds until its first error, if data arrives in pieces.
func messages(split bufio.SplitFunc, data []byte, piece int) (found [][]byte, err error) {
	for from, to := 0, 0; ; {
		advance, token, err := split(data[from:to:to], to == len(data))
		if err != nil {
			return found, err
		}
		if advance < 0 || advance > to-from {
			panic(fmt.Sprintf("advance is %d, for %d bytes", advance, to-from))
		}
		from += advance
		switch {
		case token != nil:
			if advance == 0 {
				panic("a message without an advance")
			}
			found = append(found, token)
		case advance > 0:
		case to == len(data):
			if from < to {
				panic("the rest is no message and no error")
			}
			return found, nil
		default:
			to = min(to+piece, len(data))
		}
	}
}

const (
	patience = time.Minute // far more than a request over memory takes
	requests = 4
	frame    = 2 // bytes of a request
)

// Replies has a server answer a few requests with data, whatever it is, and hang up. Each request must end, and must not
// get what belongs to another one.
func Replies(data []byte) int {
	ours, theirs := net.Pipe()
	mux, err := plex.New(context.Background(), plex.WithConnections(ours))
	if err != nil {
		panic(err)
	}
	defer func() {
		if err := mux.Close(); err != nil {
			panic(err)
		}
	}()
	client, err := request.New(mux, protocol{}, request.WithIDs(7), request.WithMaxSize(200))
	if err != nil {
		panic(err)
	}
	defer func() { _ = client.Close() }() // which returns nil

	var server sync.WaitGroup
	defer server.Wait()
	server.Go(func() {
		// All requests are there, so that what follows may be replies. If the client has seen enough, the Write fails.
		var asked [requests * frame]byte
		if _, err := io.ReadFull(theirs, asked[:]); err != nil {
			panic(err)
		}
		_, _ = theirs.Write(data)
		_ = theirs.Close()
	})

	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var callers sync.WaitGroup
	for range requests {
		callers.Go(func() {
			asked := new(question)
			reply, err := client.Do(ctx, asked)
			switch {
			case errors.Is(err, context.DeadlineExceeded):
				panic("a request has not ended")
			case err == nil && reply.id != asked.id:
				panic(fmt.Sprintf("the reply to %d went to request %d", reply.id, asked.id))
			}
		})
	}
	callers.Wait()
	return 1
}

// question learns its identifier when it is encoded.
type question struct{ id uint64 }

type answer struct{ id uint64 }

// protocol has messages of a length of one byte, an identifier of one byte, and anything.
type protocol struct{}

func (protocol) Append(dst []byte, id uint64, q *question) ([]byte, error) {
	q.id = id
	return append(dst, 1, byte(id)), nil
}

func (protocol) Split(data []byte, atEOF bool) (int, []byte, error) {
	return message.Prefix{Bytes: 1, Max: 100}.Split(data, atEOF)
}

func (protocol) Parse(m []byte) (uint64, answer, error) {
	switch {
	case len(m) == 0:
		return 0, answer{}, errors.New("a message without an identifier")
	case m[0] == 0xff:
		return 0, answer{}, request.ErrNotReply
	}
	return uint64(m[0]), answer{uint64(m[0])}, nil
}
