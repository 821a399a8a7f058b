package request

import (
	"context"
	"time"
)

// either is a context that ends with the user's or with the client's. It costs nothing until
// somebody calls Done, which plex does when it has to wait. One goroutine uses it.
type either struct {
	user   context.Context
	client context.Context
	merged context.Context // nil until Done is called
	cancel context.CancelFunc
	stop   func() bool
}

// Deadline is the user's.
func (e *either) Deadline() (time.Time, bool) { return e.user.Deadline() }

// Value is the user's.
func (e *either) Value(key any) any { return e.user.Value(key) }

// Err is the user's, or the client's if only the client's context has ended.
func (e *either) Err() error {
	if err := e.user.Err(); err != nil {
		return err
	}
	return e.client.Err()
}

// Done is closed when one of the two ends.
func (e *either) Done() <-chan struct{} {
	if e.user.Done() == nil {
		return e.client.Done()
	}
	if e.merged == nil {
		e.merged, e.cancel = context.WithCancel(e.user)
		e.stop = context.AfterFunc(e.client, e.cancel)
	}
	return e.merged.Done()
}

func (e *either) release() {
	if e.merged != nil {
		e.stop()
		e.cancel()
	}
}
