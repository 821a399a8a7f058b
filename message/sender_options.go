package message

import (
	"time"

	"go.atomizer.io/plex/internal/option"
)

// SenderOption sets up a Sender in NewSender. The order of options never matters. If the same
// option is given twice, the later one counts.
type SenderOption func(*senderConfig)

// Drop says which message is lost when the queue of a Sender is full.
type Drop int

const (
	// DropNewest refuses the message that does not fit: Queue returns [ErrFull], and the caller
	// still has it. This is the default.
	DropNewest Drop = iota

	// DropOldest drops the messages that have waited longest, as many as it takes, and accepts the
	// new one. Those dropped are given to the function of [WithFailed]. Messages of Send, and those
	// that are being written, are not dropped. If there is nothing to drop, or if the function of
	// WithFailed is so slow that as much as the queue holds waits for it, Queue returns ErrFull.
	DropOldest
)

const (
	defaultQueue              = 1 << 20
	defaultSenderWriteBuffer  = 64 << 10
	defaultSenderWriteTimeout = 10 * time.Second

	maxSenderWriteBuffer = 1 << 30
)

// senderConfig is what the options say.
type senderConfig struct {
	queue        option.Value[int]
	drop         option.Value[Drop]
	writeBuffer  option.Value[int]
	writeTimeout option.Value[time.Duration]
	failed       func(data []byte, err error)
	failedSet    bool
}

// WithQueue bounds the bytes that [Sender.Queue] has accepted and that are not yet written. The
// default is 1 MiB. Each message counts for one byte at least, and takes about 24 bytes of memory
// more.
func WithQueue(bytes int) SenderOption {
	return func(c *senderConfig) { c.queue.Give(bytes) }
}

// WithDrop sets what happens when the queue is full. The default is [DropNewest].
func WithDrop(policy Drop) SenderOption {
	return func(c *senderConfig) { c.drop.Give(policy) }
}

// WithWriteBuffer sets how many bytes are gathered for one Write at most. The default is 64 KiB.
// With 0, each message is written by itself. Messages of more than 8 KiB always are, and so is each
// datagram.
func WithWriteBuffer(bytes int) SenderOption {
	return func(c *senderConfig) { c.writeBuffer.Give(bytes) }
}

// WithWriteTimeout sets how long a peer may take to accept what is written. After that its
// connection is killed. The message that was cut short fails with an error that matches
// [os.ErrDeadlineExceeded], and those behind it go over another connection. The default is 10
// seconds.
func WithWriteTimeout(d time.Duration) SenderOption {
	return func(c *senderConfig) { c.writeTimeout.Give(d) }
}

// WithFailed sets a function that gets the messages of [Sender.Queue] that could not be written, or
// that were dropped for newer ones. The error is a [*SendError]. The data belongs to the function.
// Without it such messages are only counted.
//
// One call is made at a time, in a goroutine of its own. A call that panics is counted in the
// Sender's Stats. The next call does not wait for one that has lasted for a second. The function
// may call Queue.
func WithFailed(failed func(data []byte, err error)) SenderOption {
	return func(c *senderConfig) { c.failed, c.failedSet = failed, true }
}

// configureSender applies the options and fills in the defaults. Its error joins everything that is
// wrong.
func configureSender(options []SenderOption) (senderConfig, error) {
	var c senderConfig
	c.queue.Give(defaultQueue)
	c.writeBuffer.Give(defaultSenderWriteBuffer)
	c.writeTimeout.Give(defaultSenderWriteTimeout)
	problems := option.Apply("message", "NewSender", &c, options)
	if n := c.queue.Get(); n < 1 {
		problems.Add("WithQueue", "the bound is %d bytes; it must be at least 1", n)
	}
	if d := c.drop.Get(); d != DropNewest && d != DropOldest {
		problems.Add("WithDrop", "the policy is %d; it must be DropNewest or DropOldest", int(d))
	}
	if n := c.writeBuffer.Get(); n < 0 || n > maxSenderWriteBuffer {
		problems.Add("WithWriteBuffer", "the size is %d bytes; it must be from 0, which gathers nothing, to %d",
			n, maxSenderWriteBuffer)
	}
	problems.Positive("WithWriteTimeout", c.writeTimeout)
	if c.failedSet && c.failed == nil {
		problems.Add("WithFailed", "the function is nil; leave the option out to have such messages only counted")
	}
	return c, problems.Err()
}
