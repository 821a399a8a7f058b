package echo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex/examples/internal/timeline"
	"go.atomizer.io/plex/request"
)

// Client makes requests, and makes those again that fail.
//
// plex replaces the connections that die. What was on its way over one of them is gone, and whether the server has seen
// it nobody can know; so plex sends nothing twice, and to try again is the client's decision. It may, because to ask
// this server twice does no harm.
type Client struct {
	Requests *request.Client[uint64, uint64]
	Patience time.Duration // for a connection and for a reply; then a caller tries again

	Answered, Wrong, Failed atomic.Int64 // requests, replies and attempts

	number atomic.Uint64
	why    atomic.Value // the latest failure, a string
}

// Start starts callers who make one request after the other, with a pause from an answer to the next request. Stop waits
// until all of them have ended.
func (c *Client) Start(callers int, pause time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var calling sync.WaitGroup
	for range callers {
		calling.Go(func() {
			for ; ctx.Err() == nil; time.Sleep(pause) {
				c.request(ctx)
			}
		})
	}
	return func() {
		cancel()
		calling.Wait()
	}
}

// request asks until it has an answer, or ctx ends.
func (c *Client) request(ctx context.Context) {
	for number := c.number.Add(1); ctx.Err() == nil; {
		attempt, cancel := context.WithTimeout(ctx, c.Patience)
		reply, err := c.Requests.Do(attempt, number)
		cancel()
		switch {
		case ctx.Err() != nil: // it is over
		case err != nil:
			c.Failed.Add(1)
			c.why.Store(err.Error())
			continue
		case reply != number:
			c.Wrong.Add(1)
		default:
			c.Answered.Add(1)
		}
		return
	}
}

// Conclude tells what the last failure was, and returns an error if a reply was wrong.
func (c *Client) Conclude(out io.Writer) error {
	if why, ok := c.why.Load().(string); ok {
		fmt.Fprintf(out, "\nWhat the last of these attempts was told:\n%s\n", timeline.Wrap(why, "  ", 78))
	}
	if c.Wrong.Load() > 0 {
		return errors.New("a reply belongs to another request")
	}
	return nil
}
