package message

// The Sender: what its callers see. The queue is in sender_queue.go, the goroutines that write in
// sender_flush.go, and what becomes of messages that cannot be written in sender_failed.go.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/caller"
)

// ErrFull is returned by [Sender.Queue] for a message that the queue has no room for. The error
// that [WithFailed] gets for a message that had to make room for a newer one matches it.
var ErrFull = errors.New("message: the sender's queue is full")

// A Sender writes whole messages from any number of goroutines, gathered: messages that are given
// to it at the same time share one Write. It is what ships logs, metrics and events: [Sender.Queue]
// returns at once, the queue is bounded, and every message is accounted for. [Sender.Send] waits
// until its message is written.
//
// Each message is written whole, with nothing between its bytes, or it is handed back: Send returns
// an error for it, or it is given to the function of [WithFailed]. Either way a [*SendError] says
// whether the peer may have got something of it. Nothing is written twice. As with [Send], that a
// message is written means that the operating system has accepted it; it may still not arrive.
//
// A Write that fails costs at most one message: the one of which a part was written. Messages that
// were to follow it were never on the wire. They go to the front of the queue, and are written over
// another connection. A batch that one connection after the other refuses without taking a byte of
// it, more of them than the pool has, is handed back. While there is no connection, the queue fills,
// and the policy of [WithDrop] applies. Once the multiplexer is closed, or has no connection left
// and no connector, all is handed back.
//
// Messages are written in the order in which they were given, batch by batch, over whichever
// connection is free. So their order is kept where the pool has one connection, also when that is
// lost and another takes its place. Over several it is not: the peer may read one connection sooner
// than another, and what one of them did not take follows over another. A Write that lasts, because its peer has stopped
// reading, delays only the messages in it; the others go over other connections.
//
// On a datagram connection each message is one Write and one datagram, never gathered. What the
// connection says of a datagram, for example that it is too long, concerns that message alone, which
// is handed back.
//
// A Sender has goroutines only while there is something to write or to hand back. All methods may
// be called from several goroutines.
type Sender struct {
	mux *plex.Multiplexer
	cfg senderConfig

	ctx    context.Context // ends when Close gives up; bounds waits for a connection
	cancel context.CancelFunc

	calls    sync.Pool
	flushers sync.Pool

	queue // with the mutex
}

// NewSender makes a Sender over m. It does not use m before there is something to write.
func NewSender(m *plex.Multiplexer, options ...SenderOption) (*Sender, error) {
	cfg, err := configureSender(options)
	if m == nil {
		err = errors.Join(errNilMultiplexer("NewSender"), err)
	}
	if err != nil {
		return nil, err
	}
	s := &Sender{mux: m, cfg: cfg}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.newest = new(epoch)
	s.oldest = s.newest
	s.most = cfg.writeBuffer.Get()
	s.calls.New = func() any { return &call{done: make(chan struct{}, 1)} }
	s.flushers.New = s.newFlusher
	s.watcher = time.AfterFunc(time.Hour, s.watch)
	s.watcher.Stop()
	return s, nil
}

// Send writes data, which is one whole message or several, and returns when it is written. Messages
// of other callers may share the Write. A message of more than 8 KiB has a Write of its own and is
// not copied.
//
// Any error is a [*SendError]. If ctx ends before the message is being written, nothing was sent.
// If ctx ends during the Write, Send returns at once with MaybeSent, and the Write goes on, because
// others may share it; the Write of a message of more than 8 KiB is interrupted instead, which may
// take as long as with [Send] and costs the connection if part of the message was written. Messages
// of Send do not count for [WithQueue] and are never dropped.
func (s *Sender) Send(ctx context.Context, data []byte) error {
	var err error
	switch {
	case ctx == nil:
		err = errNilContext("Send")
	case ctx.Err() != nil:
		err = caller.ContextError(ctx)
	}
	if err != nil {
		s.refuse()
		return &SendError{Err: err}
	}
	c := s.calls.Get().(*call)
	defer s.calls.Put(c)
	if err := s.add(data, c); err != nil {
		return &SendError{Err: err}
	}
	select {
	case <-c.done:
		return c.take()
	case <-ctx.Done():
	}
	return s.giveUp(ctx, c)
}

// Queue copies data, which is one whole message or several, and returns at once; the copy is
// written as soon as possible. The caller may use data again. If the queue is full, Queue returns
// [ErrFull], or drops what is oldest: see [WithDrop]. A message that is longer than the whole queue
// is always refused. After Close, the error matches [net.ErrClosed]. If Queue returns nil and the
// message cannot be written, the function of [WithFailed] gets it.
func (s *Sender) Queue(data []byte) error { return s.add(data, nil) }

// Flush waits until all messages that were given to Send and Queue before are written or have been
// handed back, and returns nil; or until ctx ends, and returns its error. Nothing waits in the queue
// for a Flush. Like every method it may be called while others queue messages; it does not wait for
// those.
func (s *Sender) Flush(ctx context.Context) error {
	if ctx == nil {
		return errNilContext("Flush")
	}
	done := s.seal()
	select {
	case <-done:
		return nil
	default:
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("message: Flush: %w", caller.ContextError(ctx))
	}
}

// Close refuses further messages and waits until the queue is written. If ctx ends first, it
// interrupts what is being written, and what is left is handed back. So is what cannot be written
// for other reasons. The error is nil if everything was written, and says otherwise how many
// messages were not, and why the first of them.
//
// Close waits until the function of [WithFailed] has got what was handed back; but once ctx has
// ended, only for about two seconds. The multiplexer stays open. Close may be called twice: the
// second call waits for the same, and returns the same.
func (s *Sender) Close(ctx context.Context) error {
	if ctx == nil {
		return errNilContext("Close")
	}
	done := s.shut()
	select {
	case <-done:
	case <-ctx.Done():
		s.abort(caller.ContextError(ctx))
		patience := time.NewTimer(closePatience)
		defer patience.Stop()
		select {
		case <-done:
		case <-patience.C:
		}
	}
	return s.outcome()
}

// SenderStats are the figures of a Sender. Each message that was given to Send or Queue is in
// exactly one of Messages, Queued, Dropped and Failed.
type SenderStats struct {
	Messages uint64 // written
	Bytes    uint64 // of these messages
	Writes   uint64 // calls of Write, also those that failed
	Queued   int    // messages that wait or are being written
	Dropped  uint64 // messages that the queue had no room for: refused, or dropped for a newer one
	Failed   uint64 // messages that were not written for another reason, or that Send gave up

	Panicked  uint64 // calls of the function of WithFailed that panicked or ended their goroutine
	LastPanic error  // the latest of these, with its stack; nil if there was none
}

// Stats returns a snapshot.
func (s *Sender) Stats() SenderStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// closePatience is how long Close waits once its ctx has ended: for transports that ignore
// deadlines, and for the function of WithFailed.
const closePatience = 2 * time.Second

// errSenderClosed is for messages that come after Close.
var errSenderClosed = fmt.Errorf("message: the sender is closed: %w", net.ErrClosed)

func errNilContext(method string) error {
	return fmt.Errorf("message: Sender.%s: the context is nil; context.Background() never ends", method)
}
