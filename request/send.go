package request

// Sending: a request is encoded, and handed over to be written (batch.go, flush.go).

import (
	"context"

	"go.atomizer.io/plex/internal/caller"
)

// keptScratch is the size in bytes of the largest memory that is kept for the next request.
const keptScratch = 64 << 10

// fit makes room for a frame like one that the protocol needed memory of its own for. That memory
// is not kept, because it may be the user's.
func (s *scratch) fit(frame int) {
	if frame > cap(s.data) && frame <= keptScratch {
		s.data = make([]byte, 0, min(2*frame, keptScratch))
	}
}

// send encodes the request and sees to it that it is written. An error says that it could not be
// encoded, or that ctx has ended.
func (c *Client[Q, R]) send(ctx context.Context, call *call[R], request Q) error {
	s := c.scratches.Get().(*scratch)
	frame, err := c.encode(ctx, call, request, s)
	if err != nil {
		c.scratches.Put(s)
		return err
	}
	r, taken := c.table.gather(call, frame, s)
	if !taken {
		c.scratches.Put(s)
	}
	if r.number != 0 {
		c.flushOwn(ctx, r)
	}
	return nil
}

// encode has the protocol encode the request. It is apart from send so that what it needs on the
// stack does not add to what the rest needs: thousands of callers have a stack each.
func (c *Client[Q, R]) encode(ctx context.Context, call *call[R], request Q, s *scratch) (frame []byte, err error) {
	returned := false
	defer func() {
		if !returned { // Append has panicked or ended the goroutine
			c.giveUp(ctx, call, notEncoded, nil)
		}
	}()
	frame, err = c.appendOne(s.data[:0], call.id, request)
	returned = true
	switch {
	case err != nil:
		return nil, err
	case len(frame) == 0:
		return nil, errEmpty
	case ctx.Err() != nil:
		return nil, caller.ContextError(ctx)
	}
	s.fit(len(frame))
	return frame, nil
}
