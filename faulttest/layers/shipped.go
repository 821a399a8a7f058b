package layers

// The book of a message.Sender: what became of each message, as its sender was told, compared with what has come.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/message"
)

// Fate is what became of a message, as far as its sender knows.
type Fate uint8

const (
	Unknown     Fate = iota
	Queued           // accepted by Queue and not handed back, so it is written in the end
	Delivered        // written, as Send says
	Full             // refused or dropped for want of room
	Unsent           // not sent, and nothing of it
	Cut              // a part of it may have been sent, or all
	GivenUp          // not sent, as its ctx had ended before
	GivenUpLate      // its ctx has ended while it was being written
	AfterEnd         // refused after the end
	Fates
)

func (f Fate) String() string {
	return [...]string{
		"unknown", "queued", "written", "no room", "handed back as not sent", "handed back as cut short",
		"given up before it was written", "given up while it was written", "refused after the end",
	}[f]
}

// sure reports a fate of messages that nothing was sent of.
func (f Fate) sure() bool { return f == Full || f == Unsent || f == GivenUp || f == AfterEnd }

// Shipped is the book of one Sender. Make it with NewShipped. Its methods may be called from any goroutine, but one
// sender's messages are sent by one at a time.
type Shipped struct {
	Sender *message.Sender
	Size   func(sender, seq uint32) int // of a message; nil: Short

	mu    sync.Mutex
	fates map[uint32][]Fate // by sender and number
	wrong []error
}

// NewShipped makes a Sender on m.
func NewShipped(m *plex.Multiplexer, opts ...message.SenderOption) (*Shipped, error) {
	b := &Shipped{fates: make(map[uint32][]Fate)}
	s, err := message.NewSender(m, append([]message.SenderOption{message.WithFailed(b.handedBack)}, opts...)...)
	b.Sender = s
	return b, err
}

// next begins the next message of a sender.
func (b *Shipped) next(sender uint32, as Fate) (seq uint32, frame []byte) {
	b.mu.Lock()
	seq = uint32(len(b.fates[sender]))
	b.fates[sender] = append(b.fates[sender], as)
	b.mu.Unlock()
	return seq, AppendMessage(nil, sender, seq, sizeOf(b.Size, sender, seq))
}

// Queue queues the next message of a sender. It reports false after the end.
func (b *Shipped) Queue(sender uint32) (seq uint32, ok bool) {
	seq, frame := b.next(sender, Queued)
	err := b.Sender.Queue(frame)
	clear(frame) // the sender has its copy
	switch {
	case err == nil:
	case errors.Is(err, message.ErrFull):
		b.end(sender, seq, Queued, Full)
	case errors.Is(err, net.ErrClosed):
		b.end(sender, seq, Queued, AfterEnd)
		return seq, false
	default:
		b.fail(fmt.Errorf("layers: Queue: %w", err))
	}
	return seq, true
}

// Send sends the next message of a sender. It reports false after the end.
func (b *Shipped) Send(ctx context.Context, sender uint32) (seq uint32, ok bool) {
	seq, frame := b.next(sender, Unknown)
	err := b.Sender.Send(ctx, frame)
	failed := new(message.SendError)
	fate := Delivered
	switch {
	case err == nil:
	case !errors.As(err, &failed) || failed.Err == nil:
		b.fail(fmt.Errorf("layers: Send: %w", err))
	case errors.Is(err, net.ErrClosed) && !failed.MaybeSent:
		fate = AfterEnd
	default:
		fate = fateOf(failed, ctx.Err() != nil && errors.Is(err, ctx.Err()))
	}
	b.end(sender, seq, Unknown, fate)
	return seq, fate != AfterEnd
}

func fateOf(failed *message.SendError, canceled bool) Fate {
	switch {
	case canceled && failed.MaybeSent:
		return GivenUpLate
	case canceled:
		return GivenUp
	case failed.MaybeSent:
		return Cut
	case errors.Is(failed, message.ErrFull):
		return Full
	}
	return Unsent
}

// handedBack is the function of WithFailed.
func (b *Shipped) handedBack(data []byte, err error) {
	sender, seq, bad := CheckMessage(data[prefixSize:])
	failed := new(message.SendError)
	if bad != nil || !errors.As(err, &failed) || failed.Err == nil {
		b.fail(fmt.Errorf("layers: %d bytes are handed back by %w: %w", len(data), err, bad))
		return
	}
	clear(data) // it is ours
	b.end(sender, seq, Queued, fateOf(failed, false))
}

// end notes the end of a message, which there is one of.
func (b *Shipped) end(sender, seq uint32, from, to Fate) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if of := b.fates[sender]; int(seq) >= len(of) || of[seq] != from {
		b.failLocked(fmt.Errorf("layers: message %d of sender %d has ended twice; now it is %v", seq, sender, to))
		return
	}
	b.fates[sender][seq] = to
}

func (b *Shipped) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failLocked(err)
}

func (b *Shipped) failLocked(err error) {
	if len(b.wrong) < most {
		b.wrong = append(b.wrong, err)
	}
}

// Compare compares what the senders were told with what has come, when the Sender is closed and the server has come to its
// end. Each message has ended once; one that was handed back as not sent has not come, and none has come twice. The
// Sender's own figures are those of its callers. It adds up what became of the messages, and where in their batches
// those were that have come. With a tap it also knows whether everything was written that the Sender says was.
func (b *Shipped) Compare(t *Taker, tap *Tap, sums *[Fates]uint64, places *[Fates][Places]uint64) error {
	errs := []error{t.Err()}
	b.mu.Lock()
	defer b.mu.Unlock()
	errs = append(errs, b.wrong...)
	if tap != nil {
		errs = append(errs, tap.wrong...)
	}
	var by [Fates]uint64
	for sender, of := range b.fates {
		for seq, fate := range of {
			by[fate]++
			got := t.of(sender, uint32(seq))
			if got.times > 0 {
				places[fate][got.place]++
			}
			if tap != nil && len(errs) < most {
				if what := tap.check(sender, seq, fate); what != "" {
					errs = append(errs, fmt.Errorf("layers: message %d of sender %d (%v): %s", seq, sender, fate, what))
				}
			}
			if (fate == Unknown || fate.sure() && got.times > 0) && len(errs) < most {
				errs = append(errs, fmt.Errorf("layers: message %d of sender %d: %v, and has come %d times", seq, sender, fate, got.times))
			}
		}
	}
	s := b.Sender.Stats()
	var given uint64
	for fate, n := range by {
		sums[fate] += n
		given += n
	}
	failed := by[Unsent] + by[Cut] + by[GivenUp] + by[GivenUpLate] + by[AfterEnd]
	if s.Queued != 0 || s.Messages != by[Queued]+by[Delivered] || s.Dropped != by[Full] || s.Failed != failed ||
		s.Messages+s.Dropped+s.Failed != given || s.Panicked != 0 {
		errs = append(errs, fmt.Errorf("layers: the sender's figures are not its callers': %v; %+v", by, s))
	}
	return errors.Join(errs...)
}

// Lost compares the messages of senders from first on, and returns how many have not come that were written, and how many
// were written.
func (b *Shipped) Lost(t *Taker, first uint32) (lost, written int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for sender, of := range b.fates {
		for seq, fate := range of {
			if sender < first || fate != Queued && fate != Delivered {
				continue
			}
			if written++; !t.Has(sender, uint32(seq)) {
				lost++
			}
		}
	}
	return lost, written
}

// Err is what was found wrong so far.
func (b *Shipped) Err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return errors.Join(slices.Clone(b.wrong)...)
}
