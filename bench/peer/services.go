package peer

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"time"
)

// bigBuffer is what sink and flood read and write at a time: so much that the
// peer is never what a benchmark waits for.
const bigBuffer = 256 << 10

func sink(nc net.Conn) {
	buf := make([]byte, bigBuffer)
	for {
		if _, err := nc.Read(buf); err != nil {
			return
		}
	}
}

// drain is sink for small messages.
func drain(nc net.Conn) {
	readSeldom(nc)
	sink(nc)
}

func flood(nc net.Conn) {
	buf := make([]byte, bigBuffer)
	for {
		if _, err := nc.Write(buf); err != nil {
			return
		}
	}
}

// floodMessages returns flood with messages of a size.
func floodMessages(size int) func(net.Conn) {
	message := append(binary.BigEndian.AppendUint32(nil, uint32(size)), make([]byte, size)...)
	buf := bytes.Repeat(message, bigBuffer/len(message))
	return func(nc net.Conn) {
		for {
			if _, err := nc.Write(buf); err != nil {
				return
			}
		}
	}
}

// FrameSize is the size of a request to Echo, and of its reply.
const FrameSize = 64

// Frame is a request, or its reply. The reply comes back over the connection of
// the request, after Delay, in any order.
type Frame [FrameSize]byte

// NewFrame returns a request.
func NewFrame(id uint64, delay time.Duration) (f Frame) {
	binary.LittleEndian.PutUint64(f[:], id)
	binary.LittleEndian.PutUint64(f[8:], uint64(delay))
	return f
}

// ID returns what the reply has in common with its request.
func (f *Frame) ID() uint64 { return binary.LittleEndian.Uint64(f[:]) }

// echo answers what is due at once in one Write for all that has arrived, and
// the rest when it is due.
func echo(nc net.Conn) {
	var mu sync.Mutex // of out
	in, out := bufio.NewReaderSize(nc, bigBuffer), bufio.NewWriterSize(nc, bigBuffer)
	for {
		var f Frame
		if _, err := io.ReadFull(in, f[:]); err != nil {
			return
		}
		if delay := time.Duration(binary.LittleEndian.Uint64(f[8:])); delay > 0 {
			time.AfterFunc(delay, func() {
				mu.Lock()
				defer mu.Unlock()
				_, _ = out.Write(f[:]) // out remembers its error
				_ = out.Flush()        // and a dead connection is the requester's to notice
			})
			continue
		}
		mu.Lock()
		_, err := out.Write(f[:])
		if err == nil && in.Buffered() < FrameSize {
			err = out.Flush()
		}
		mu.Unlock()
		if err != nil {
			return
		}
	}
}
