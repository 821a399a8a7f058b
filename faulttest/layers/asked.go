package layers

// The book of requests: what each Do has returned, compared with what the Executor has done.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/message"
	"go.atomizer.io/plex/request"
)

// Outcome is how a request has ended, for its caller.
type Outcome uint8

const (
	Pending   Outcome = iota // it has not
	Replied                  // with its reply
	Canceled                 // with its context
	Unturned                 // with its context, while it waited for its turn
	Reset                    // its connection was reset
	Ended                    // its connection was closed by the server
	Killed                   // its connection was killed, by the consumer or for a write that was cut short
	OutOfStep                // its connection was killed, for what came over it made no sense
	NotTaken                 // its connection was killed, for its peer did not take what was written
	Retired                  // its connection was retired
	NoConn                   // there was no connection
	Shut                     // the client or the multiplexer was closed
	Refused                  // it could not be encoded
	Written                  // it has no reply, and was written
	Otherwise                // anything else
	Outcomes                 // how many there are
)

func (o Outcome) String() string {
	return [...]string{
		"pending", "replied", "canceled", "canceled before its turn", "connection reset", "connection closed by the server",
		"connection killed", "connection out of step", "not taken in time", "connection retired", "no connection", "closed",
		"not to be encoded", "written, without a reply", "otherwise",
	}[o]
}

const (
	notSent = 1 << 7 // in the account of a request: the caller was told that it was not sent
)

// Asked is the book of one client's requests. Make it with NewAsked. All methods may be called from any goroutine.
type Asked struct {
	Client *request.Client[Ask, Answer]
	Calls  *Calls

	Mispaired atomic.Uint64
	Asking    atomic.Int64 // calls of Do that are under way

	turns     *Turns        // nil: the replies have identifiers
	inSession atomic.Uint64 // requests of sessions

	by   [Outcomes]atomic.Uint64
	next atomic.Uint64

	mu       sync.Mutex
	accounts []uint8
	wrong    []error
	numWrong int
	odd      error // an error that ended otherwise
}

// NewAsked makes a client on m.
func NewAsked(m *plex.Multiplexer, opts ...request.Option) (*Asked, error) {
	a := &Asked{Calls: &Calls{}}
	c, err := request.New(m, a.Calls, append([]request.Option{request.WithMaxSize(MaxSize)}, opts...)...)
	a.Client = c
	return a, err
}

// Do asks once and checks what comes of it.
func (a *Asked) Do(ctx context.Context, ask Ask) (Outcome, error) {
	return a.ask(ctx, ask, a.Client.Do)
}

// ask is Do for a client or a session.
func (a *Asked) ask(ctx context.Context, ask Ask, do func(context.Context, Ask) (Answer, error)) (Outcome, error) {
	ask.Unique = a.next.Add(1) - 1
	a.Asking.Add(1)
	defer a.Asking.Add(-1)
	answer, err := do(ctx, ask)
	o := a.judge(ctx, ask, answer, err)
	a.by[o].Add(1)

	var failed *request.Error
	account := uint8(o)
	if errors.As(err, &failed) && !failed.MaybeSent {
		account |= notSent
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if int(ask.Unique) >= len(a.accounts) {
		a.accounts = slices.Grow(a.accounts, int(ask.Unique)+1-len(a.accounts))
		a.accounts = a.accounts[:cap(a.accounts)]
	}
	a.accounts[ask.Unique] = account
	if o == Otherwise {
		a.odd = err
	}
	return o, err
}

// judge says how a request has ended, and notes what is wrong with it.
func (a *Asked) judge(ctx context.Context, ask Ask, answer Answer, err error) Outcome {
	if err == nil {
		if ask.Manner == Unanswered && answer == (Answer{}) {
			return Written
		}
		if answer.Unique != ask.Unique {
			a.Mispaired.Add(1)
			a.Wrong("request %d has been given the reply to request %d", ask.Unique, answer.Unique)
		}
		return Replied
	}
	var (
		failed  *request.Error
		wait    *request.WaitError
		acquire *plex.AcquireError
	)
	if !errors.As(err, &failed) || failed.Err == nil {
		a.Wrong("request %d has ended by %v, which is no *request.Error", ask.Unique, err)
		return Otherwise
	}
	if answer != (Answer{}) {
		a.Wrong("request %d has ended by %v, and has a reply as well", ask.Unique, err)
	}
	canceled := ctx.Err() != nil && errors.Is(err, ctx.Err())
	switch {
	case errors.As(err, &wait) && canceled:
		return Unturned
	case errors.Is(err, request.ErrClosed), errors.Is(err, plex.ErrClosed):
		return Shut
	case canceled:
		return Canceled
	case errors.As(err, &acquire):
		return NoConn
	case errors.Is(err, ErrMalformed), errors.Is(err, ErrUnsplit), errors.Is(err, request.ErrOutOfStep), isTooLong(err):
		return OutOfStep
	case errors.Is(err, ErrUnencodable):
		return Refused
	case errors.Is(err, os.ErrDeadlineExceeded):
		return NotTaken
	case errors.Is(err, plex.ErrKilled), errors.Is(err, plex.ErrPartialWrite):
		return Killed
	case errors.Is(err, plex.ErrRetired):
		return Retired
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return Reset
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF): // the latter is what TLS makes of it
		return Ended
	}
	return Otherwise
}

// Wrong notes a violation.
func (a *Asked) Wrong(format string, args ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.numWrong++
	if len(a.wrong) < most {
		a.wrong = append(a.wrong, fmt.Errorf("layers: "+format, args...))
	}
}

// Count is how many requests have ended so.
func (a *Asked) Count(o Outcome) uint64 { return a.by[o].Load() }

// Requests is how many there have been.
func (a *Asked) Requests() uint64 { return a.next.Load() }

// Odd is the latest error that is none of those known, nil if there was none.
func (a *Asked) Odd() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.odd
}

// Err is what was found wrong so far.
func (a *Asked) Err() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	errs := slices.Clone(a.wrong)
	if a.numWrong > len(a.wrong) {
		errs = append(errs, fmt.Errorf("layers: and %d violations more", a.numWrong-len(a.wrong)))
	}
	if n := a.Calls.Glued.Load(); n > 0 {
		errs = append(errs, fmt.Errorf("layers: %d replies are damaged", n))
	}
	if a.turns != nil && a.turns.Crossed.Load() > 0 {
		errs = append(errs, fmt.Errorf("layers: %d replies were parsed with another's request", a.turns.Crossed.Load()))
	}
	return errors.Join(errs...)
}

// Compare compares what the callers were told with what the server has done, when all calls have returned and the
// server has come to its end. Each request has ended; one with a reply was executed, one that was said not to have been
// sent was not, and none was executed twice. And the client's own figures are those of its callers.
func (a *Asked) Compare(e *Executor) error {
	errs := []error{a.Err(), e.Err()}
	a.mu.Lock()
	defer a.mu.Unlock()
	for unique := range a.next.Load() {
		account, times := uint8(Pending), e.times(unique)
		if unique < uint64(len(a.accounts)) {
			account = a.accounts[unique]
		}
		var what string
		switch o := Outcome(account &^ notSent); {
		case o == Pending:
			what = "its Do has not returned"
		case times > 1:
			what = fmt.Sprintf("it was executed %d times", times)
		case o == Replied && times == 0:
			what = "it was not executed, and has a reply"
		case account&notSent != 0 && times > 0:
			what = "its caller was told that it was not sent, and it was executed"
		default:
			continue
		}
		errs = append(errs, fmt.Errorf("layers: request %d (%v): %s", unique, Outcome(account&^notSent), what))
		if len(errs) > most {
			break
		}
	}
	// A session counts as canceled whatever fails when its ctx has ended.
	canceled := a.by[Canceled].Load() + a.by[Unturned].Load() + a.inSession.Load()
	if s := a.Client.Stats(); s.Replies != a.by[Replied].Load()+a.by[Written].Load() ||
		s.Requests != s.Replies+s.Canceled+s.Failed || s.Waiting+s.InFlight != 0 || s.Canceled > canceled {
		errs = append(errs, fmt.Errorf("layers: the client's figures are not its callers': %d replied, %d canceled; %+v",
			a.by[Replied].Load(), a.by[Canceled].Load()+a.by[Unturned].Load(), s))
	}
	return errors.Join(errs...)
}

func isTooLong(err error) bool {
	var tooLong *message.TooLongError
	return errors.As(err, &tooLong)
}
