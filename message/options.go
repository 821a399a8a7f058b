package message

// Options write into a config, and New checks it.

import (
	"errors"
	"fmt"
	"math"
)

// DefaultMaxSize is the length of the longest message, unless [WithMaxSize] or [Prefix.Max] says
// otherwise: 1 MiB.
const DefaultMaxSize = 1 << 20

// framing is how many bytes a split function may take beside the message itself: a prefix, a
// delimiter.
const framing = 512

// Option sets up a Receiver in New.
type Option func(*config)

type config struct {
	maxSize int
}

// WithMaxSize sets the length of the longest message in bytes, [DefaultMaxSize] by default. It
// applies to [Message.Data]; a split function may take 512 bytes beside it, for a prefix or a
// delimiter. A connection that brings a longer message is killed, with a [*TooLongError]: at once
// if the split function says so, otherwise when that much has arrived. For a [Prefix], set
// [Prefix.Max] to the same value.
//
// An unfinished message takes memory, up to twice the length that has arrived. So peers can make
// the receiver use as much as this length times the number of connections, times two.
func WithMaxSize(bytes int) Option {
	return func(c *config) { c.maxSize = bytes }
}

// configure applies the options and checks their values.
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
		return c, fmt.Errorf("message: WithMaxSize(%d): a message cannot be that short; give at least 1 byte", c.maxSize)
	case c.maxSize > math.MaxInt-framing:
		return c, errors.New("message: WithMaxSize: that much does not fit in memory; " +
			"give a length that does, because a peer can make the receiver use as much")
	}
	return c, nil
}
