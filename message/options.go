package message

// Options write into a config, and New checks it.

import (
	"errors"
	"fmt"
	"math"
)

// DefaultMaxSize is the length of the longest message, unless [WithMaxSize] or [Prefix.Max] says otherwise: 1 MiB.
const DefaultMaxSize = 1 << 20

// framing is how much longer than its message the data may be that a split function takes for it: a prefix, a
// delimiter.
const framing = 512

// Option sets up a Receiver in New.
type Option func(*config)

type config struct {
	maxSize int
}

// WithMaxSize sets the length of the longest message in bytes, [DefaultMaxSize] by default. It is that of
// [Message.Data]; what the split function takes beside it, such as a prefix or a delimiter, may be 512 bytes more. A
// connection that brings a longer message is killed, with a [*TooLongError]: at the latest when more than that has
// come, or at once if the split function says so. For a [Prefix], set [Prefix.Max] to the same value.
//
// A message that is not all there yet takes memory, up to twice its length so far. So connections times this length
// is what peers can make the receiver take.
func WithMaxSize(bytes int) Option {
	return func(c *config) { c.maxSize = bytes }
}

// configure applies the options and checks what they say.
func configure(options []Option) (config, error) {
	c := config{maxSize: DefaultMaxSize}
	for i, o := range options {
		if o == nil {
			return c, fmt.Errorf("message: option %d is nil; leave it out instead", i+1)
		}
		o(&c)
	}
	switch {
	case c.maxSize < 1:
		return c, fmt.Errorf("message: WithMaxSize(%d): a message cannot be that short; at least 1 byte is right", c.maxSize)
	case c.maxSize > math.MaxInt-framing:
		return c, errors.New("message: WithMaxSize: so much cannot be held in memory; " +
			"give a length that can, as it is what a peer can make the receiver take")
	}
	return c, nil
}
