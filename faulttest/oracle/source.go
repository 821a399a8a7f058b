package oracle

import (
	"io"
	"sync/atomic"
)

// Source is the sending side of a stream. One goroutine at a time may send; Sent may be called from any.
type Source struct {
	id   uint32
	sent atomic.Uint64
}

// NewSource begins stream id.
func NewSource(id uint32) *Source { return &Source{id: id} }

// ID is the stream's number.
func (s *Source) ID() uint32 { return s.id }

// Sent is how many bytes have been counted by Wrote.
func (s *Source) Sent() uint64 { return s.sent.Load() }

// Fill makes p the next bytes of the stream. They are next again until Wrote says how many of them have gone.
func (s *Source) Fill(p []byte) { Fill(s.id, s.sent.Load(), p) }

// Wrote counts n bytes as sent.
func (s *Source) Wrote(n int) { s.sent.Add(uint64(n)) }

// WriteNext fills p, writes it, and counts what was written.
func (s *Source) WriteNext(w io.Writer, p []byte) (int, error) {
	s.Fill(p)
	n, err := w.Write(p)
	s.Wrote(n)
	return n, err
}

// Send writes n bytes, through buf.
func (s *Source) Send(w io.Writer, n uint64, buf []byte) error {
	for n > 0 {
		k, err := s.WriteNext(w, buf[:min(uint64(len(buf)), n)])
		n -= uint64(k)
		if err != nil {
			return err
		}
	}
	return nil
}
