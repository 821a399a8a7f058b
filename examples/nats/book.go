package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"go.atomizer.io/plex/message"
)

// book knows what became of each message. The messages are numbered from 0 in the order in which they were begun.
type book struct {
	mu      sync.Mutex
	records []record
	calm    bool // nothing is broken
	counts
}

// record is what became of one message.
type record struct {
	outcome  outcome
	calm     bool // it was begun while nothing was broken, and nothing was until it had arrived
	received bool
}

// outcome is what Publish has said.
type outcome uint8

const (
	underway outcome = iota
	published
	notSent   // it failed, and the server cannot have got it
	maybeSent // it failed, and the server may have got it
)

// counts are the book's totals.
type counts struct {
	begun     int
	published int
	notSent   int
	maybeSent int

	received int // messages that arrived, each counted once
	doubled  int // arrivals of a message that had arrived before
	wrong    int // arrivals of what nobody has published
	despite  int // arrivals of messages that were said not to be sent

	unclear int // of maybeSent, those that have arrived
	lost    int // of published, those that have not arrived
	missing int // of the calm ones, those that have not arrived or were not published

	first error // the first arrival of what nobody has published
	last  error // why the last message failed
}

// payload is the data of message number n: the number, and bytes that follow from it, of which there are so many that
// \r\n comes up among them too.
func payload(n uint64) []byte {
	data := binary.BigEndian.AppendUint64(nil, n)
	for i := range n % 300 {
		data = append(data, byte(n+i))
	}

	return append(data, "\r\n"[:n%3]...)
}

// setCalm says whether messages that begin from now on have to arrive.
func (b *book) setCalm(calm bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calm = calm
}

// begin enters a message.
func (b *book) begin() (number uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.records = append(b.records, record{calm: b.calm})

	return uint64(len(b.records) - 1)
}

// end enters what Publish said.
func (b *book) end(number uint64, err error) {
	o := published
	if err != nil {
		o = notSent
		var failed *message.SendError
		if errors.As(err, &failed) && failed.MaybeSent {
			o = maybeSent
		}
	}

	b.mu.Lock()
	defer b.mu.Unlock()
	b.records[number].outcome = o
	switch o {
	case published:
		b.counts.published++
	case notSent:
		b.counts.notSent++
	default:
		b.counts.maybeSent++
	}
	if err != nil {
		b.last = err
	}
}

// arrive enters a message that has come.
func (b *book) arrive(m Msg) {
	number, err := numberOf(m.Data)

	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case err == nil && number >= uint64(len(b.records)):
		err = fmt.Errorf("a message has the number %d, and there are %d", number, len(b.records))
	case err == nil && b.records[number].received:
		b.doubled++
	case err == nil:
		b.records[number].received = true
		b.received++
	}
	if err != nil {
		b.wrong++
		if b.first == nil {
			b.first = err
		}
	}
}

// numberOf checks the data of a message, byte by byte.
func numberOf(data []byte) (uint64, error) {
	if len(data) < 8 {
		return 0, fmt.Errorf("a message of %d bytes, want 8 or more: %q", len(data), data)
	}
	number := binary.BigEndian.Uint64(data)
	if want := payload(number); !bytes.Equal(data, want) {
		return 0, fmt.Errorf("message %d is %.60q, not %.60q", number, data, want)
	}

	return number, nil
}

// totals counts.
func (b *book) totals() counts {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.counts
	c.begun = len(b.records)
	for _, r := range b.records {
		switch {
		case r.outcome == published && !r.received:
			c.lost++
		case r.outcome == notSent && r.received:
			c.despite++
		case r.outcome == maybeSent && r.received:
			c.unclear++
		}
		if r.calm && (r.outcome != published || !r.received) {
			c.missing++
		}
	}

	return c
}

// arrived reports whether all is in: each message that was begun has ended, and each that can arrive has arrived. Of a
// message that was published it can wait for ever, if a fault has swallowed it.
func (b *book) arrived(calmOnly bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.records {
		if calmOnly && !r.calm {
			continue
		}
		if r.outcome == underway || r.outcome == published && !r.received {
			return false
		}
	}

	return true
}

// audit says what is not as it has to be when all is over.
func (c counts) audit() error {
	var wrong []error
	complain := func(bad bool, format string, args ...any) {
		if bad {
			wrong = append(wrong, fmt.Errorf(format, args...))
		}
	}
	ended := c.published + c.notSent + c.maybeSent
	complain(ended != c.begun, "%d messages were begun, and %d have ended", c.begun, ended)
	complain(c.doubled > 0, "%d messages have arrived twice", c.doubled)
	complain(c.despite > 0, "%d messages have arrived that were said not to be sent", c.despite)
	complain(c.missing > 0, "%d messages are missing though nothing was broken around them", c.missing)
	complain(c.wrong > 0, "%d messages have arrived that nobody has published, the first: %w", c.wrong, c.first)

	return errors.Join(wrong...)
}
