package layers

// The same requests in a protocol without identifiers, whose replies come in the order of the requests.

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/request"
)

// errExtra is what Parse finds in a reply that no request waits for, as the server knows.
var errExtra = errors.New("layers: an extra reply")

// Turns is the protocol. Crossed counts replies that were parsed with another's request.
type Turns struct {
	Calls
	Crossed atomic.Uint64
}

// Append is that of request.Ordered.
func (t *Turns) Append(dst []byte, a Ask) ([]byte, error) { return t.Calls.Append(dst, 0, a) }

// Parse is that of request.Ordered.
func (t *Turns) Parse(body []byte, a Ask) (Answer, error) {
	_, answer, err := t.Calls.Parse(body)
	switch {
	case errors.Is(err, errExtra) && a == Ask{}:
		return Answer{}, nil // the client has to see that nobody waits
	case errors.Is(err, errExtra):
		return Answer{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	case err == nil && answer.Unique != a.Unique:
		t.Crossed.Add(1)
	}
	return answer, err
}

// Replies is that of request.Quiet.
func (t *Turns) Replies(a Ask) int {
	if a.Manner == Unanswered {
		return 0
	}
	return 1
}

// NewTurns makes a client on m for replies that come in order, with its book.
func NewTurns(m *plex.Multiplexer, opts ...request.Option) (*Asked, error) {
	t := new(Turns)
	a := &Asked{Calls: &t.Calls, turns: t}
	c, err := request.NewOrdered(m, t, append([]request.Option{request.WithMaxSize(MaxSize)}, opts...)...)
	a.Client = c
	return a, err
}

// DoIn is Do in a session.
func (a *Asked) DoIn(ctx context.Context, s *request.Session[Ask, Answer], ask Ask) (Outcome, error) {
	a.inSession.Add(1)
	return a.ask(ctx, ask, s.Do)
}

// AtPlaces adds up at which places in their batches those requests were that the server has executed, by what became of
// them.
func (a *Asked) AtPlaces(e *Executor, sums *[Outcomes][Places]uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for unique := range min(a.next.Load(), uint64(len(a.accounts))) {
		if e.times(unique) > 0 {
			sums[Outcome(a.accounts[unique]&^notSent)][e.place(unique)]++
		}
	}
}
